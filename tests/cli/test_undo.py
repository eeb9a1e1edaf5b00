"""`tenantry migrate undo` on a real cell: tenants go back once, their present is kept, and the ledger is believed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from conftest import Operator, Query

FIRST = "CREATE TABLE users (id int PRIMARY KEY, email text);\n"
SECOND = "ALTER TABLE users DROP COLUMN email;\n"


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "0001_users.sql").write_text(FIRST)
    return workdir


@pytest.fixture
def tenants(operator: Operator, query: Query, name: str, folder: Path) -> Callable[..., list[str]]:
    """Makes tenants at 0001 with one user each."""

    def make(letters: str) -> list[str]:
        slugs = [operator.json("create", f"{name} {letter}")["tenant"]["slug"] for letter in letters]
        run(operator, folder, *slugs)
        for slug in slugs:
            query(operator.do("url", slug).stdout, f"INSERT INTO users VALUES (1, '{slug}')")
        return slugs

    return make


def run(operator: Operator, folder: Path, *slugs: str, code: int = 0) -> str:
    """The id of the run that has migrated these."""
    done = operator.do("migrate", "run", "--dir", str(folder), "--tenants", ",".join(slugs), "--json", code=code)
    return json.loads(done.stdout)["run_id"]


def drop_email(operator: Operator, folder: Path, *slugs: str) -> str:
    (folder / "0002_no_email.sql").write_text(SECOND)
    return run(operator, folder, *slugs)


def users(operator: Operator, query: Query, slug: str) -> list[Any]:
    return query(operator.do("url", slug).stdout, "SELECT to_jsonb(users) FROM users ORDER BY id")


def version(operator: Operator, slug: str) -> str | None:
    return operator.json("show", slug)["tenant"]["schema_version"]


def kept(operator: Operator, slug: str) -> list[str]:
    """Branches that keep what the tenant was."""
    found = operator.json("branch", "list", "--tenant", slug)["branches"]
    return [each["name"] for each in found if "-until-" in each["name"]]


def test_a_run_is_shown_first_then_undone_once_and_what_was_written_since_is_kept(
    operator: Operator, query: Query, tenants: Callable[..., list[str]], folder: Path
) -> None:
    slugs = tenants("ab")
    undone = drop_email(operator, folder, *slugs)
    query(operator.do("url", slugs[0]).stdout, "INSERT INTO users VALUES (2)")

    plan = operator.json("migrate", "undo", "--run", undone, "--dry-run")["plan"]
    assert [(t["tenant"], t["standing"], t["from_version"], t["to_version"]) for t in plan["tenants"]] == [
        (slug, "to_undo", "0002", "0001") for slug in slugs
    ]
    assert plan["tenants"][0]["written_bytes"] > plan["tenants"][1]["written_bytes"] > 0
    refused = operator.do("migrate", "undo", "--run", undone, code=2)
    assert f"this would bring 2 tenants back to before {undone}" in refused.stderr
    assert [version(operator, slug) for slug in slugs] == ["0002", "0002"]

    done = operator.json("migrate", "undo", "--run", undone, "--yes")
    assert {t["tenant"]: (t["undone"], t["version"], t["again"]) for t in done["tenants"]} == dict.fromkeys(
        slugs, (True, "0001", False)
    )
    for slug in slugs:
        assert users(operator, query, slug) == [{"id": 1, "email": slug}]
        assert version(operator, slug) == "0001"
    [branch] = kept(operator, slugs[0])
    was = operator.do("branch", "url", branch, "--tenant", slugs[0]).stdout
    assert query(was, "SELECT to_jsonb(users) FROM users ORDER BY id") == [{"id": 1}, {"id": 2}]

    again = operator.json("migrate", "undo", "--run", undone, "--yes")
    assert [t["standing"] for t in again["plan"]["tenants"]] == ["undone", "undone"]
    assert "nothing to undo" in operator.do("migrate", "undo", "--run", undone, "--yes").stdout
    assert len(kept(operator, slugs[0])) == 1
    # The next run migrates them again, and can be undone again.
    run(operator, folder, *slugs)
    operator.do("migrate", "undo", "--tenant", slugs[0], "--yes")
    assert [version(operator, slug) for slug in slugs] == ["0001", "0002"]


def test_runs_are_undone_in_their_order_the_last_first(
    operator: Operator, query: Query, tenants: Callable[..., list[str]], folder: Path
) -> None:
    [slug] = tenants("a")
    second = drop_email(operator, folder, slug)
    (folder / "0003_age.sql").write_text("ALTER TABLE users ADD age int;\n")
    third = run(operator, folder, slug)
    refused = operator.do("migrate", "undo", "--run", second, "--yes", code=1)
    assert f"REFUSED: {third} has migrated it further" in operator.do(
        "migrate", "undo", "--run", second, "--dry-run"
    ).stdout  # fmt: skip
    assert "nothing was undone" in refused.stdout
    assert version(operator, slug) == "0003"
    operator.do("migrate", "undo", "--run", third, "--yes")
    assert version(operator, slug) == "0002"
    operator.do("migrate", "undo", "--run", second, "--yes")
    assert version(operator, slug) == "0001"
    assert users(operator, query, slug) == [{"id": 1, "email": slug}]
    operator.do("migrate", "undo", "--tenant", slug, "--yes")
    assert version(operator, slug) is None
    assert "no run has changed" in operator.do("migrate", "undo", "--tenant", slug, code=1).stderr


def test_a_tenant_that_was_restored_since_is_left_alone_and_the_others_go_back(
    operator: Operator, query: Query, tenants: Callable[..., list[str]], folder: Path
) -> None:
    restored, other = tenants("ab")
    undone = drop_email(operator, folder, restored, other)
    url = operator.do("url", restored).stdout
    [position] = query(url, "SELECT pg_current_wal_insert_lsn()::text")
    query(url, "INSERT INTO users VALUES (7)")
    operator.do("restore", restored, "--to", position, "--yes")
    done = operator.do("migrate", "undo", "--run", undone, "--yes", "--json", code=3)
    steps = {t["tenant"]: t for t in json.loads(done.stdout)["plan"]["tenants"]}
    assert steps[restored]["standing"] == "refused"
    assert "it was restored at" in steps[restored]["reason"]
    assert f"tenantry restore {restored} --to " in steps[restored]["next_step"]
    assert (users(operator, query, restored), users(operator, query, other)) == (
        [{"id": 1}],
        [{"id": 1, "email": other}],
    )


def test_a_snapshot_is_gone_back_to_where_no_history_is_kept(
    operator: Operator, query: Query, tenants: Callable[..., list[str]], folder: Path
) -> None:
    [slug] = tenants("a")
    target = operator.cell.target
    with NeonClient(target.api_url, target.api_key) as client:
        project = ProjectId(operator.json("show", slug)["tenant"]["project_id"])
        client.update_project(project, history_retention_seconds=0)
    undone = drop_email(operator, folder, slug)
    plan = operator.json("migrate", "undo", "--run", undone, "--dry-run")["plan"]
    assert plan["tenants"][0]["restore_point"]["kind"] == "snapshot"
    operator.do("migrate", "undo", "--run", undone, "--yes")
    assert users(operator, query, slug) == [{"id": 1, "email": slug}]
    [branch] = kept(operator, slug)
    assert branch == operator.json("migrate", "undo", "--run", undone, "--yes")["plan"]["tenants"][0]["preserved_as"]


def test_without_a_restore_point_it_is_said_that_there_is_no_way_back(
    operator: Operator, tenants: Callable[..., list[str]], folder: Path
) -> None:
    [slug] = tenants("a")
    (folder / "0002_no_email.sql").write_text(SECOND)
    where = ("--dir", str(folder), "--tenants", slug)
    undone = operator.json("migrate", "run", *where, "--no-restore-point")["run_id"]
    assert (
        "no state from before the run was kept" in operator.do("migrate", "undo", "--run", undone, "--dry-run").stdout
    )
    refused = operator.do("migrate", "undo", "--run", undone, "--by", "down", "--yes", code=1)
    assert "nothing was undone" in refused.stdout


@pytest.mark.crash
def test_by_its_own_way_down_a_tenant_keeps_what_was_written_since(
    operator: Operator, query: Query, tenants: Callable[..., list[str]], folder: Path
) -> None:
    [slug] = tenants("a")
    (folder / "0002_age.sql").write_text("ALTER TABLE users ADD age int;\n")
    (folder / "0002_age.down.sql").write_text("ALTER TABLE users DROP age;\n")
    (folder / "0003_notes.sql").write_text("CREATE TABLE notes (id int);\n")
    undone = run(operator, folder, slug)
    shown = operator.do("migrate", "undo", "--run", undone, "--by", "down", "--dry-run").stdout
    # The ways back are those of the run: what is written into the folder afterwards is not part of it.
    assert "there is no way back from 0003" in shown
    (folder / "0004_b.sql").write_text("SELECT 1;\n")
    (folder / "0004_b.down.sql").write_text("SELECT 1;\nINSERT INTO users VALUES (1);\n")
    later = run(operator, folder, slug)
    query(operator.do("url", slug).stdout, "INSERT INTO users VALUES (2)")
    words = ("migrate", "undo", "--run", later, "--by", "down", "--yes")
    failed = operator.do(*words, "--json", code=3)
    [told] = json.loads(failed.stdout)["tenants"]
    assert "23505" in told["failure"]
    assert "0004_b.down.sql, statement 2" in told["failure"]
    query(operator.do("url", slug).stdout, "DELETE FROM users WHERE id = 1")
    operator.run(*words, code=-signal.SIGKILL, TENANTRY_FAILPOINTS="undo.reverted=kill")
    [told] = operator.json(*words)["tenants"]
    assert (told["version"], told["again"]) == ("0003", True)
    assert version(operator, slug) == "0003"
    assert query(operator.do("url", slug).stdout, "SELECT id FROM users ORDER BY 1") == [1, 2]


@pytest.mark.crash
@pytest.mark.parametrize(
    "point", ["undo.begun", "undo.restored", "undo.read", "undo.finished", "restore_tenant.restored"]
)
def test_a_killed_undo_is_ended_by_the_next_exactly_once(
    operator: Operator, query: Query, tenants: Callable[..., list[str]], folder: Path, point: str
) -> None:
    slugs = tenants("ab")
    undone = drop_email(operator, folder, *slugs)
    words = ("migrate", "undo", "--run", undone, "--yes", "--jobs", "1")
    operator.run(*words, code=-signal.SIGKILL, TENANTRY_FAILPOINTS=f"{point}=kill:2")
    before = {slug: kept(operator, slug) for slug in slugs}
    for slug in slugs:
        # Whoever was brought back and not written down is not believed to be at 0002.
        assert version(operator, slug) in (("0002",) if not before[slug] else ("0001", None))
    done = operator.json(*words)
    assert {t["tenant"] for t in done["tenants"] if t["undone"]} == {
        t["tenant"] for t in done["plan"]["tenants"] if t["standing"] == "to_undo"
    }
    for slug in slugs:
        assert users(operator, query, slug) == [{"id": 1, "email": slug}]
        assert version(operator, slug) == "0001"
        assert len(kept(operator, slug)) == 1
        assert before[slug] in ([], kept(operator, slug))
    log = operator.json("log", "--verb", "undo migration")["events"]
    assert sorted(each["slug"] for each in log if each["detail"]["run_id"] == undone) == slugs


def test_some_are_undone_while_others_are_migrated(
    operator: Operator, query: Query, tenants: Callable[..., list[str]], folder: Path
) -> None:
    back, on = tenants("ab"), tenants("xy")
    undone = drop_email(operator, folder, *back)
    with ThreadPoolExecutor(2) as pool:
        migrating = pool.submit(operator.run, "migrate", "run", "--dir", str(folder), "--tenants", ",".join(on))
        undoing = pool.submit(operator.run, "migrate", "undo", "--run", undone, "--yes")
        migrating.result()
        undoing.result()
    assert [version(operator, slug) for slug in (*back, *on)] == ["0001"] * 2 + ["0002"] * 2
    assert [users(operator, query, slug) for slug in back] == [[{"id": 1, "email": slug}] for slug in back]
    assert [users(operator, query, slug) for slug in on] == [[{"id": 1}]] * 2
