"""`tenantry migrate rehearse` on a real cell: what it measures, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from conftest import Operator, Query

ROWS = 20_000


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "0001_users.sql").write_text("CREATE TABLE users (id int PRIMARY KEY, email text);\n")
    return workdir


@pytest.fixture
def migrated(operator: Operator, query: Query, name: str, folder: Path) -> Callable[..., str]:
    """Makes a tenant at 0001 with some users, asleep; its slug."""

    def make(letter: str = "", rows: int = ROWS) -> str:
        slug = operator.json("create", name + letter)["tenant"]["slug"]
        operator.do("migrate", "run", "--dir", str(folder), "--tenants", slug)
        query(
            operator.do("url", slug).stdout, f"INSERT INTO users SELECT i, 'u' || i FROM generate_series(1, {rows}) i"
        )
        operator.do("suspend", slug)
        return slug

    return make


def branches(operator: Operator, slug: str) -> list[str]:
    return [each["name"] for each in operator.json("branch", "list", "--tenant", slug)["branches"]]


def awake(operator: Operator, slug: str) -> bool:
    return any(each["state"] != "idle" for each in operator.json("show", slug)["endpoints"])


def test_a_rewrite_is_measured_on_a_branch_and_the_tenant_sleeps_on(
    operator: Operator, query: Query, migrated: Callable[..., str], folder: Path
) -> None:
    slug = migrated()
    (folder / "0002_wider.sql").write_text(
        "CREATE TABLE notes (id int);\nALTER TABLE users ALTER COLUMN id TYPE bigint;\nSELECT pg_sleep(0.2);\n"
    )
    (folder / "0003_note.sql").write_text("INSERT INTO notes VALUES (1), (2);\n")
    (folder / "0004_index.sql").write_text("CREATE INDEX CONCURRENTLY users_email_idx ON users (email);\n")
    where = ("--dir", str(folder), "--tenants", slug)
    done = operator.json("migrate", "rehearse", *where)
    assert done["passed"] is True
    [report] = done["branches"]
    assert (report["outcome"], report["from_version"], report["to_version"]) == ("applied", "0001", "0004")
    wider, note, index = report["migrations"]
    assert (index["version"], index["rows_written"]) == ("0004", 0)
    assert [table["table"] for table in wider["rewritten"]] == ["public.users"]
    assert wider["rows_read"] >= ROWS
    assert wider["wal_bytes"] > ROWS
    assert (note["rewritten"], note["rows_written"]) == ([], 2 + 1)  # and its row in the ledger
    assert [each["line"] for each in wider["statements"]] == [1, 2, 3]
    assert wider["statements"][2]["seconds"] > 0.2
    # The new table kept nobody out; the old one was kept until the commit, behind the sleep.
    [lock] = [each for each in report["locks"] if each["mode"] == "AccessExclusiveLock"]
    assert (lock["table"], lock["migration"]) == ("public.users", "0002")
    assert lock["seconds_max"] > 0.2
    # The tenant is as it was, and no trace is left of the branch.
    assert not awake(operator, slug)
    assert branches(operator, slug) == ["main"]
    assert query(operator.do("url", slug).stdout, "SELECT to_regclass('notes')::text") == [None]
    target = operator.cell.target
    with NeonClient(target.api_url, target.api_key) as client:
        project = ProjectId(operator.json("show", slug)["tenant"]["project_id"])
        assert [each.name for each in client.branches(project)] == ["main"]


def test_a_migration_that_fails_is_told_with_its_place_and_the_others_go_on(
    operator: Operator, query: Query, migrated: Callable[..., str], folder: Path
) -> None:
    bad, good = migrated("a"), migrated("b")
    query(operator.do("url", bad).stdout, "INSERT INTO users VALUES (0, 'u1')")
    (folder / "0002_unique.sql").write_text("SELECT 1;\nALTER TABLE users ADD UNIQUE (email);\n")
    done = operator.do("migrate", "rehearse", "--dir", str(folder), "--tenants", f"{bad},{good}", "--json", code=1)
    reports = {each["tenant"]: each for each in json.loads(done.stdout)["branches"]}
    failure = reports[bad]["failure"]
    assert (failure["sqlstate"], failure["file"], failure["statement"], failure["line"]) == (
        "23505", "0002_unique.sql", 2, 2,
    )  # fmt: skip
    assert reports[good]["outcome"] == "applied"
    assert branches(operator, bad) == branches(operator, good) == ["main"]
    shown = operator.do("migrate", "rehearse", "--dir", str(folder), "--tenants", bad, code=1).stdout
    assert "23505" in shown


def test_samples_are_chosen_of_those_that_are_behind(
    operator: Operator, migrated: Callable[..., str], folder: Path
) -> None:
    oldest, largest = migrated("a", 10), migrated("b", 200_000)
    (folder / "0002_notes.sql").write_text("CREATE TABLE notes (id int);\n")
    done = operator.do("migrate", "rehearse", "--dir", str(folder), "--sample", "nobody:1", code=2)
    assert "'nobody:1' is no sample" in done.stderr
    done = operator.json("migrate", "rehearse", "--dir", str(folder), "--tenants", f"{oldest},{largest}", "--keep")
    assert done["passed"] is True
    for slug in (oldest, largest):
        [kept] = [each for each in branches(operator, slug) if each != "main"]
        assert kept == done["rehearsal_id"]
    shown = operator.run("branch", "psql", done["rehearsal_id"], "--tenant", oldest, "-At", "-c", "TABLE notes")
    assert shown.returncode == 0
    # None of the tenant's passwords opens its branch.
    own = conninfo_to_dict(operator.do("url", oldest).stdout.strip())
    branch = conninfo_to_dict(operator.do("branch", "url", done["rehearsal_id"], "--tenant", oldest).stdout.strip())
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(**(branch | {"password": own["password"]}))
    operator.do("branch", "delete", done["rehearsal_id"], "--tenant", oldest, "--yes")


def test_a_run_that_must_be_rehearsed_is_refused_until_it_was(
    operator: Operator, query: Query, migrated: Callable[..., str], folder: Path
) -> None:
    slug = migrated(rows=10)
    (folder / "0002_unique.sql").write_text("ALTER TABLE users ADD UNIQUE (email);\n")
    where = ("--dir", str(folder), "--tenants", slug)
    assert "rehearsal: 0002 was not rehearsed" in operator.do("migrate", "plan", *where).stdout
    refused = operator.do("migrate", "run", *where, "--require-rehearsal", code=1)
    assert "0002 was not rehearsed" in refused.stderr
    query(operator.do("url", slug).stdout, "INSERT INTO users VALUES (0, 'u1')")
    operator.do("migrate", "rehearse", *where, code=1)
    refused = operator.do("migrate", "run", *where, code=1, TENANTRY_MIGRATIONS__REHEARSE="require")
    assert f"the rehearsal with {slug} failed: 23505" in refused.stderr
    warned = operator.do("migrate", "run", *where, code=3, TENANTRY_MIGRATIONS__REHEARSE="warn")
    assert f"warning: the rehearsal with {slug} failed" in warned.stderr
    query(operator.do("url", slug).stdout, "DELETE FROM users WHERE id = 0")
    operator.do("migrate", "rehearse", *where)
    plan = operator.json("migrate", "plan", *where)
    assert (plan["rehearsal"]["passed"], plan["without_restore_point"]) == (True, [])
    assert "1 migrated" in operator.do("migrate", "run", *where, "--require-rehearsal").stdout
    (folder / "0003_notes.sql").write_text("CREATE TABLE notes (id int);\n")
    operator.do("migrate", "run", *where, "--require-rehearsal", "--unrehearsed", f"{slug} waits for it")
    log = operator.json("log", "--verb", "run unrehearsed")["events"]
    assert f"{slug} waits for it" in [each["detail"]["reason"] for each in log]


@pytest.mark.crash
@pytest.mark.parametrize("point", ["rehearse.branched", "rehearse.measured"])
def test_branches_of_a_killed_rehearsal_expire_and_are_swept_by_the_next(
    operator: Operator, migrated: Callable[..., str], folder: Path, point: str
) -> None:
    slug = migrated()
    (folder / "0002_notes.sql").write_text("CREATE TABLE notes (id int);\n")
    where = ("--dir", str(folder), "--tenants", slug)
    operator.run("migrate", "rehearse", *where, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill")
    left = [each for each in operator.json("branch", "list", "--tenant", slug)["branches"] if each["name"] != "main"]
    assert [each["expires_at"] is not None for each in left] == [True]
    # Nobody knows yet that it is dead.
    operator.json("migrate", "rehearse", *where)
    assert left[0]["name"] in branches(operator, slug)
    catalog = Catalog(operator.cell.target.catalog_url or "")
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE migration_rehearsal SET seen_at = seen_at - interval '1 hour'")
    catalog.close()
    operator.json("migrate", "rehearse", *where)
    assert branches(operator, slug) == ["main"]


def test_an_interrupt_deletes_the_branches_first(
    operator: Operator, query: Query, migrated: Callable[..., str], folder: Path
) -> None:
    slug = migrated()
    (folder / "0002_slow.sql").write_text("SELECT pg_sleep(60);\n")
    command = [sys.executable, "-m", "tenantry", "migrate", "rehearse", "--dir", str(folder), "--tenants", slug]
    environment = {**os.environ, "TENANTRY_DATA": str(operator.cell.data)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            _wait_for(lambda: len(branches(operator, slug)) == 2 and _sleeping(operator, slug))
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode not in (0, None)
    assert branches(operator, slug) == ["main"]


def _sleeping(operator: Operator, slug: str) -> bool:
    [name] = [each for each in branches(operator, slug) if each != "main"]
    url = operator.do("branch", "url", name, "--tenant", slug).stdout.strip()
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
            ).fetchone()
    except psycopg.OperationalError:
        return False  # the branch is listed, and still being made
    return found == (1,)


def _wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
