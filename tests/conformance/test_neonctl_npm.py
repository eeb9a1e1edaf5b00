"""``neonctl`` from npm, unmodified, with nothing but ``--api-host`` set."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]  # a second of node for each command, on a loaded machine ten

Neonctl = Callable[..., Any]
LATER: Final = "2099-12-31T23:59:59Z"


@pytest.fixture(scope="module", params=["2", "5"])
def home(request: pytest.FixtureRequest, npm_install: Callable[..., Path]) -> Path:
    return npm_install(f"neonctl@{request.param}")


@pytest.fixture(scope="module")
def newest(npm_install: Callable[..., Path]) -> Path:
    return npm_install("neonctl@5")


def neonctl_at(home: Path, address: Any) -> Neonctl:
    own = home / f"at-{os.getpid()}"  # the packages are shared between workers; what neonctl remembers is not
    own.mkdir(exist_ok=True)

    def run(*arguments: str, fails: bool = False, environment: dict[str, str] | None = None) -> Any:
        """The parsed output, or with ``fails`` what it complains of."""
        done = subprocess.run(
            [
                *("node", str(home / "node_modules/.bin/neonctl"), "--output", "json", "--no-analytics"),
                *("--api-host", address.api_url, "--api-key", address.api_key, "--config-dir", str(own)),
                *arguments,
            ],
            cwd=own,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"{arguments}: {done.stderr}"
        if fails:
            return done.stderr
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout.strip()

    return run


def test_a_session_with_a_cell(home: Path, real_cell: Any) -> None:
    projects_roles_databases_and_connection_strings(neonctl_at(home, real_cell))


def test_a_session_with_the_fake_that_users_test_with(newest: Path, fake_cell: Any) -> None:
    projects_roles_databases_and_connection_strings(neonctl_at(newest, fake_cell))


def projects_roles_databases_and_connection_strings(neonctl: Neonctl) -> None:
    assert neonctl("me")["login"] == "operator"
    project = neonctl("projects", "create", "--name", "ACME Corp", "--region-id", "aws-us-east-1")["project"]
    at = ("--project-id", project["id"])
    assert project["id"] in [item["id"] for item in neonctl("projects", "list")["projects"]]
    assert neonctl("projects", "update", project["id"], "--name", "ACME Ltd")["name"] == "ACME Ltd"
    assert [branch["name"] for branch in neonctl("branches", "list", *at)] == ["main"]
    assert neonctl("roles", "create", "--name", "alice", *at)["name"] == "alice"
    assert neonctl("databases", "create", "--name", "crm", "--owner-name", "alice", *at)["owner_name"] == "alice"
    uri = neonctl("connection-string", "main", "--database-name", "crm", "--role-name", "alice", *at)
    assert uri.startswith("postgresql://alice:")
    assert uri.endswith("/crm?sslmode=require&channel_binding=require")
    assert "-pooler." in neonctl("cs", "main", "--pooled", "--database-name", "crm", "--role-name", "alice", *at)
    neonctl("databases", "delete", "crm", *at)
    neonctl("roles", "delete", "alice", *at)
    assert neonctl("operations", "list", *at)
    assert "does not exist" in neonctl("projects", "get", "not-there-1", fails=True)
    neonctl("projects", "delete", project["id"])


def test_the_organization_and_keys_of_one_project(newest: Path, fake_cell: Any) -> None:
    neonctl = neonctl_at(newest, fake_cell)
    organizations = neonctl("orgs", "list")
    assert len(organizations) == 1, organizations
    [organization] = organizations
    project = neonctl("projects", "create", "--name", "ACME Corp")["project"]["id"]
    assert [one["id"] for one in neonctl("projects", "list", "--org-id", organization["id"])] == [project]
    assert neonctl("branches", "list")[0]["project_id"] == project, "it finds the only project of the organization"
    made = neonctl("api-keys", "create", "--name", "ci", "--project-id", project)
    assert made["project_id"] == project

    theirs = neonctl_at(newest, replace(fake_cell, api_key=made["key"]))
    assert theirs("branches", "list", "--project-id", project)
    assert project in theirs("projects", "list", fails=True), "the refusal names the project"
    theirs("projects", "delete", project, fails=True)
    theirs("me", fails=True)
    neonctl("api-keys", "revoke", str(made["id"]), "--org-id", organization["id"])
    theirs("branches", "list", "--project-id", project, fails=True)
    neonctl("projects", "delete", project)


class Story:
    """One project of the real cell, worked on by neonctl alone; SQL goes where its connection strings lead."""

    def __init__(self, neonctl: Neonctl) -> None:
        self._neonctl = neonctl
        self.project = neonctl("projects", "create", "--name", "ACME Corp")["project"]["id"]
        self._uris: dict[str, str] = {}
        """A branch keeps its connection string, whatever it is restored to."""

    def branches(self, *arguments: str, fails: bool = False) -> Any:
        return self._neonctl("branches", *arguments, "--project-id", self.project, fails=fails)

    def names(self) -> set[str]:
        return {branch["name"] for branch in self.branches("list")}

    def connection_string(self, branch: str, *arguments: str, **how: Any) -> Any:
        return self._neonctl("connection-string", branch, "--project-id", self.project, *arguments, **how)

    def sql(self, branch: str, sql: str) -> list[Any]:
        if branch not in self._uris:
            self._uris[branch] = self.connection_string(branch)
        return run(self._uris[branch], sql)

    def rows(self, branch: str) -> list[int]:
        return [row[0] for row in self.sql(branch, "select id from tasks order by id")]


def run(uri: str, sql: str) -> list[Any]:
    """Over TLS with channel binding, as neonctl writes it; only that nobody resolves names here."""
    assert uri.endswith("?sslmode=require&channel_binding=require")
    with psycopg.connect(uri, hostaddr="127.0.0.1", autocommit=True, connect_timeout=30) as connection:
        cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


def moment_between() -> str:
    """A moment as neonctl takes it, to the millisecond, that no commit shares."""
    before = datetime.now(UTC)
    while (now := datetime.now(UTC)) - before < timedelta(milliseconds=3):
        pass
    return f"{now:%Y-%m-%dT%H:%M:%S}.{now.microsecond // 1000:03}Z"


@pytest.fixture
def story(home: Path, real_cell: Any) -> Iterator[Story]:
    neonctl = neonctl_at(home, real_cell)
    one = Story(neonctl)
    one.sql("main", "create table tasks (id int); insert into tasks values (1)")
    yield one
    neonctl("projects", "delete", one.project)


def test_psql_by_the_connection_string(story: Story) -> None:
    """Unchanged: it asks for TLS and channel binding, and the host names the endpoint."""
    if shutil.which("psql") is None:
        pytest.skip("no psql is installed, and the one of the wheel knows no TLS")

    def psql(uri: str) -> subprocess.CompletedProcess[str]:
        command = ["psql", "--no-psqlrc", "--csv", "-c", "select id, current_user from tasks", "-c", "\\conninfo", uri]
        environment = {**os.environ, "PGHOSTADDR": "127.0.0.1", "PGREQUIREAUTH": "scram-sha-256", "PSQL_PAGER": "cat"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)

    for pooled in ((), ("--pooled",)):
        uri = story.connection_string("main", *pooled)
        assert ("-pooler" in uri) == bool(pooled)
        done = psql(uri)
        assert done.returncode == 0, done.stderr
        assert "1,neondb_owner" in done.stdout
        assert "TLSv1.3" in done.stdout
    by_neonctl = ("--psql", "--", "-XAtc", "select id + 41 from tasks")
    assert story.connection_string("main", *by_neonctl, environment={"PGHOSTADDR": "127.0.0.1"}) == 42


def test_branches(story: Story) -> None:
    dev = story.branches("create", "--name", "dev")
    assert dev["connection_uris"]
    assert [endpoint["type"] for endpoint in dev["endpoints"]] == ["read_write"]
    story.sql("dev", "insert into tasks values (2)")
    assert (story.rows("main"), story.rows("dev")) == ([1], [1, 2])

    bare = story.branches("create", "--name", "bare", "--schema-only")["branch"]
    assert (bare["init_source"], bare.get("parent_id"), story.rows("bare")) == ("schema-only", None, [])
    story.branches("delete", "bare")

    kid = story.branches("create", "--name", "kid", "--parent", "dev", "--no-compute", "--expires-at", LATER)
    kid = kid.get("branch", kid)
    assert (kid["parent_id"], kid["expires_at"]) == (dev["branch"]["id"], LATER)
    assert "endpoint" in story.connection_string("kid", fails=True)
    story.branches("add-compute", "kid", "--type", "read_write")
    assert story.rows("kid") == [1, 2]
    assert "expires_at" not in story.branches("set-expiration", "kid")
    assert "has children: kid" in story.branches("delete", "dev", fails=True)

    assert story.branches("get", dev["branch"]["id"])["name"] == "dev"
    assert story.branches("rename", "dev", "dev2")["id"] == dev["branch"]["id"]
    assert "'main' already exists" in story.branches("create", "--name", "main", fails=True)
    assert "dev not found" in story.branches("get", "dev", fails=True)
    assert story.branches("set-default", "dev2")["default"]
    assert "default branch" in story.branches("delete", "dev2", fails=True)
    story.branches("set-default", "main")
    story.branches("delete", "kid")
    story.branches("delete", "dev2")
    assert story.names() == {"main"}
    assert story.rows("main") == [1]


def test_branches_of_the_past(story: Story) -> None:
    uri = story.connection_string("main")
    one = moment_between()
    run(uri, "insert into tasks values (2)")
    (position,) = run(uri, "select pg_current_wal_insert_lsn()::text")[0]
    run(uri, "insert into tasks values (3)")
    then = story.branches("create", "--name", "then", "--parent", one)["branch"]
    assert datetime.fromisoformat(then["parent_timestamp"]) == datetime.fromisoformat(one)
    story.branches("create", "--name", "there", "--parent", position)
    assert (story.rows("then"), story.rows("there"), story.rows("main")) == ([1], [1, 2], [1, 2, 3])

    assert "preserve_under_name" in story.branches("restore", "main", f"^self@{one}", fails=True)
    # Of a branch without children, which would go with its past.
    then_uri = story.connection_string("then")
    run(then_uri, "insert into tasks values (4)")
    story.branches("reset", "then", "--parent")
    assert [row[0] for row in run(then_uri, "select id from tasks order by id")] == [1, 2, 3]
    run(then_uri, "insert into tasks values (5)")
    story.branches("reset", "then", "--parent", "--preserve-under-name", "then-kept")
    story.branches("add-compute", "then-kept", "--type", "read_write")
    assert (story.rows("then"), story.rows("then-kept")) == ([1, 2, 3], [1, 2, 3, 5])
    story.branches("restore", "then", f"main@{position}")
    assert [row[0] for row in run(then_uri, "select id from tasks order by id")] == [1, 2]

    restored = story.branches("restore", "main", f"^self@{one}", "--preserve-under-name", "main-kept")
    assert restored["backup_branch"]["name"] == "main-kept"
    assert restored["restored_branch"]["parent_id"] == restored["backup_branch"]["id"]
    assert [row[0] for row in run(uri, "select id from tasks order by id")] == [1], "by the same connection string"
    story.branches("restore", "then", "^parent")
    assert story.rows("then") == [1, 2, 3], "whose parent is what main was"
    story.branches("restore", "main", "main-kept")
    assert [row[0] for row in run(uri, "select id from tasks order by id")] == [1, 2, 3], "and back"
    assert story.names() == {"main", "main-kept", "then", "then-kept", "there"}


def test_schema_diff(story: Story) -> None:
    before = moment_between()
    story.branches("create", "--name", "dev")
    story.sql("dev", "alter table tasks add column title text")
    after = moment_between()
    for words in (("main", "dev"), ("main", f"dev@{after}")):
        difference = story.branches("schema-diff", *words, "--database", "neondb")
        assert "+    id integer,\n+    title text" in difference, words
    assert "+    title text" in story.branches("schema-diff", "dev", "^parent", "--database", "neondb")
    story.sql("main", "drop table tasks")
    assert "+CREATE TABLE public.tasks" in story.branches("schema-diff", "main", f"^self@{before}", "--db", "neondb")
