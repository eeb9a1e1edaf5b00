"""What Neon's four GitHub actions for branches call, in the order and with the words in which they call it.

``delete-branch-action`` and ``reset-branch-action`` are a few lines of shell around ``neonctl`` 2: the same commands
are run here. ``create-branch-action`` and ``schema-diff-action`` are published nowhere but on GitHub: their calls are
made by ``branch_actions.mjs`` with the client that they use. Where the environment variable NEON_ACTIONS names a
directory that holds checkouts of these two, what is in their ``dist`` runs as well.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tenantry.neon.ids import ProjectId

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]

REPLAY: Final = Path(__file__).with_name("branch_actions.mjs")
CHECKOUTS: Final = os.environ.get("NEON_ACTIONS")
WHOSE: Final = ["ours", *(["theirs"] if CHECKOUTS else [])]
CREATE: Final = {
    "database": "neondb", "role": "neondb_owner", "branch_type": "default", "ssl": "require", "suspend_timeout": "0",
    "prisma": "false", "get_auth_url": "false", "get_data_api_url": "false",
}  # fmt: skip
"""The defaults of create-branch-action's action.yml."""


@dataclass(frozen=True)
class Workflow:
    """A project of the real cell, and what a workflow's jobs know of it."""

    address: Any
    project_id: str
    main_uri: str
    home: Path
    """Where the client is installed."""
    program: Path
    """neonctl's."""

    @property
    def environment(self) -> dict[str, str]:
        """As a runner sets it; neonctl takes its options from variables too, and must not report its use."""
        return {
            **os.environ, "NEON_API_KEY": self.address.api_key, "NEON_API_HOST": self.address.api_url,
            "NEON_ANALYTICS": "false", "NEON_CONFIG_DIR": str(self.home), "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_ACTOR": "alice", "GITHUB_ACTION": "create", "ENVIRONMENT": "development",
        }  # fmt: skip

    def uses(self, action: str, whose: str, **inputs: str) -> Mapping[str, str]:
        """Runs an action with these inputs; its outputs."""
        outputs = self.home / "outputs.txt"
        outputs.write_text("")
        given = {**inputs, "project_id": self.project_id, "api_key": self.address.api_key}
        given |= {"api_host": self.address.api_url, "github-token": "none"}
        dist = Path(CHECKOUTS or "") / action / "dist" / "index.js"
        done = subprocess.run(
            ["node", dist] if whose == "theirs" else ["node", REPLAY, action, self.home],
            cwd=self.home,
            env={
                **self.environment,
                **{f"INPUT_{name.upper()}": value for name, value in given.items()},
                "GITHUB_OUTPUT": str(outputs),
            },
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return read_outputs(outputs.read_text())

    def neonctl(self, *arguments: str, fails: bool = False) -> Any:
        """Its output, parsed where that was asked for; with ``fails`` what it complains of."""
        done = subprocess.run(
            ["node", self.program, *arguments],
            cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, done.stderr
        if fails:
            return done.stderr
        return json.loads(done.stdout) if "json" in arguments else done.stdout

    def branch(self, name: str) -> Any:
        with self.address.http() as http:
            listed = http.get(f"/projects/{self.project_id}/branches", params={"search": name}).json()
            (found,) = [branch for branch in listed["branches"] if branch["name"] == name]
            return found | {"annotation": listed["annotations"].get(found["id"], {}).get("value")}


def read_outputs(text: str) -> dict[str, str]:
    """The file commands of a runner: a name, ``<<``, a word, lines, and the word again."""
    lines, outputs = iter(text.splitlines()), dict[str, str]()
    for line in lines:
        name, _, end = line.partition("<<")
        outputs[name] = "\n".join(iter(lambda: next(lines), end))
    return outputs


def run(uri: str, sql: str) -> list[Any]:
    """Over TLS to the host that an action printed; only that nobody resolves names here."""
    assert "sslmode=require" in uri
    with psycopg.connect(uri, hostaddr="127.0.0.1", autocommit=True, connect_timeout=30) as connection:
        cursor = connection.execute(sql.encode())
        return [row[0] for row in cursor.fetchall()] if cursor.description else []


@pytest.fixture(scope="module")
def workflow(real_cell: Any, npm_install: Callable[..., Path]) -> Iterator[Workflow]:
    home = npm_install("@neondatabase/api-client@2.7", "diff@8")
    program = npm_install("neonctl@2") / "node_modules/.bin/neonctl"
    with real_cell.client() as client:
        created = client.create_project(name="ACME Corp")
        project_id = ProjectId(created.project.id)
        uri = client.connection_uri(project_id, database_name="neondb", role_name="neondb_owner")
        uri = uri.replace("sslmode=disable", "sslmode=require")
        run(uri, "create table tasks (id int); insert into tasks values (1)")
        yield Workflow(real_cell, project_id, uri, home, program)
        client.delete_project(project_id)


@pytest.mark.parametrize("whose", WHOSE)
def test_create_branch_action(workflow: Workflow, whose: str) -> None:
    name = f"preview/{whose}"
    expires_at = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    inputs = {**CREATE, "branch_name": name, "expires_at": expires_at}
    made = workflow.uses("create-branch-action", whose, **inputs)
    branch = workflow.branch(name)
    assert (made["created"], made["branch_id"]) == ("true", branch["id"])
    assert (branch["expires_at"], branch["init_source"]) == (expires_at, "parent-data")
    assert branch["annotation"]["github-commit-repo"] == "acme/shop"
    assert branch["annotation"]["github-commit-author-login"] == "alice"
    assert made["db_host"] in made["db_url"] and made["db_host_pooled"] in made["db_url_pooled"]
    assert made["password"] in made["db_url"]
    run(made["db_url"], "insert into tasks values (2)")
    assert run(made["db_url_pooled"], "table tasks") == [1, 2]
    assert run(workflow.main_uri, "table tasks") == [1]

    again = workflow.uses("create-branch-action", whose, **inputs)
    assert again == {**made, "created": "false"}, "the branch is found by its name, and nothing of it changes"
    kid = workflow.uses("create-branch-action", whose, **CREATE | {"parent_branch": name, "branch_type": "schema-only"})
    assert kid["created"] == "true", "without a name it gets one"
    assert run(kid["db_url"], "table tasks") == []


@pytest.mark.parametrize("whose", WHOSE)
def test_schema_diff_action(workflow: Workflow, whose: str) -> None:
    branch = workflow.uses("create-branch-action", whose, **CREATE | {"branch_name": f"diff/{whose}"})
    compared = {"compare_branch": f"diff/{whose}", "database": "neondb"}
    assert workflow.uses("schema-diff-action", whose, **compared)["diff"] == ""
    run(branch["db_url"], "alter table tasks add column title text")
    (position,) = run(branch["db_url"], "select pg_current_wal_insert_lsn()::text")
    then = datetime.now(UTC) + timedelta(milliseconds=5)
    run(branch["db_url"], f"select pg_sleep_until('{then + timedelta(milliseconds=5)}')")
    run(branch["db_url"], "alter table tasks add column done bool")
    differences = {
        moment: workflow.uses("schema-diff-action", whose, **compared, **more)["diff"]
        for moment, more in {
            "now": {},
            "named": {"base_branch": "main"},
            "at": {"timestamp": f"{then:%Y-%m-%dT%H:%M:%S}.{then.microsecond // 1000:03}Z"},
            "there": {"lsn": position},
        }.items()
    }
    assert differences["now"] == differences["named"]
    for moment, difference in differences.items():
        assert f"+++ neondb-schema.sql\tBranch diff/{whose}" in difference
        assert "+    title text" in difference
        assert ("+    done boolean" in difference) == (moment in {"now", "named"}), moment
    by_id = workflow.uses("schema-diff-action", whose, **compared | {"compare_branch": branch["branch_id"]})
    assert by_id["diff"] == differences["now"]


def test_reset_branch_action(workflow: Workflow) -> None:
    branch = workflow.uses("create-branch-action", "ours", **CREATE | {"branch_name": "staging"})
    run(branch["db_url"], "insert into tasks values (7)")
    at = ("--project-id", workflow.project_id)
    reset = workflow.neonctl("branches", "reset", "staging", *at, "--parent", "--output", "json")
    assert reset["id"] == branch["branch_id"]
    asked = ("--role-name", "neondb_owner", "--database-name", "neondb", "--ssl", "require", "--prisma", "false")
    plain = workflow.neonctl("cs", reset["id"], *at, *asked, "--extended", "-o", "json")
    pooled = workflow.neonctl("cs", reset["id"], *at, *asked, "--extended", "-o", "json", "--pooled")
    assert plain["host"] == branch["db_host"], "its endpoint is the one it was"
    assert plain["password"] == branch["password"]
    assert "-pooler" in pooled["host"]
    assert run(plain["connection_string"], "table tasks") == [1]
    assert run(pooled["connection_string"], "table tasks") == [1]
    sole = workflow.neonctl("cs", reset["id"], *at, "--ssl", "require", "--prisma", "false", "--extended", "-o", "json")
    assert sole == plain, "the only role and database need no name"
    assert "parent" in workflow.neonctl("branches", "reset", "main", *at, "--parent", "--output", "json", fails=True)


def test_delete_branch_action(workflow: Workflow) -> None:
    for asked in ("name", "id"):
        made = workflow.uses("create-branch-action", "ours", **CREATE | {"branch_name": f"gone/{asked}"})
        branch = made["branch_id"] if asked == "id" else "gone/name"
        printed = workflow.neonctl("branches", "delete", branch, "--project-id", workflow.project_id)
        assert made["branch_id"] in printed
        assert "not found" in workflow.neonctl(
            "branches", "delete", f"gone/{asked}", "--project-id", workflow.project_id, fails=True
        )
    with pytest.raises(psycopg.OperationalError):
        run(made["db_url"], "select 1")
