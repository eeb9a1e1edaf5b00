"""Backups of real tenants on a real cell, into a directory, and back into tenants, branches and databases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.fleet.jobs.kinds import Item
from tenantry.fleet.main import open_fleet

if TYPE_CHECKING:
    from conftest import Operator, Query


@pytest.fixture
def tenant(operator: Operator, query: Query, name: str) -> str:
    """A tenant with rows, a role of its own, settings, and a second database."""
    slug: str = operator.json("create", name)["tenant"]["slug"]
    url = operator.do("url", slug).stdout.strip()
    for statement in (
        "CREATE TABLE users (id serial PRIMARY KEY, email text UNIQUE)",
        "INSERT INTO users (email) SELECT 'u' || i FROM generate_series(1, 500) AS i",
        'CREATE SCHEMA s; CREATE TABLE s."Odd Name" (user_id int REFERENCES users)',
        "CREATE ROLE app LOGIN PASSWORD 'correct horse battery'",
        "GRANT SELECT ON users TO app",
        "ALTER ROLE app SET statement_timeout = '5s'",
        "ALTER DATABASE neondb SET search_path = public, s",
        "CREATE DATABASE other",
    ):
        query(url, statement)
    query(_database(url, "other"), "CREATE TABLE notes AS SELECT 'kept' AS text")
    return slug


def _database(url: str, name: str) -> str:
    return url.strip().replace("/neondb?", f"/{name}?")


def _files(vault: Path) -> set[str]:
    return {str(path.relative_to(vault)) for path in vault.rglob("*") if path.is_file()}


def test_a_tenant_comes_back_as_a_new_one_with_all_its_databases_roles_and_settings(
    operator: Operator, query: Query, vault: Path, tenant: str
) -> None:
    (taken,) = operator.json("backup", "run", tenant)["tenants"]
    folder = vault / tenant / taken["backup"]
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "contents", "database-0.dump", "database-1.dump",
    }  # fmt: skip
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    assert (manifest["tenant"], manifest["databases"], manifest["rows"]) == (tenant, 2, 501)
    assert manifest["withheld"] == ["the password of role app"]
    stored = b"".join(path.read_bytes() for path in vault.rglob("*") if path.is_file())
    assert b"Odd Name" not in stored, "names of tables lie in the clear"

    query(operator.do("url", tenant).stdout, 'DROP TABLE s."Odd Name"; DELETE FROM users')
    restored = operator.json("backup", "restore", tenant, "--as", f"{tenant} again")
    assert (restored["tables"], restored["rows"]) == (3, 501)
    url = operator.do("url", f"{tenant} again").stdout
    assert query(url, "SELECT count(*) FROM users") == [500]
    assert query(url, "SHOW search_path") == ["public, s"]
    assert query(url, "SELECT setconfig FROM pg_db_role_setting JOIN pg_roles r ON r.oid = setrole"
                      " WHERE rolname = 'app'") == [["statement_timeout=5s"]]  # fmt: skip
    assert query(url, "SELECT has_table_privilege('app', 'users', 'SELECT')") == [True]
    assert query(_database(url, "other"), "SELECT text FROM notes") == ["kept"]
    assert query(url, "INSERT INTO users (email) VALUES ('next') RETURNING id") == [501]


def test_into_a_branch_and_into_a_database_whose_contents_are_left_alone(
    operator: Operator, query: Query, vault: Path, tenant: str, name: str
) -> None:
    operator.do("backup", "run", tenant)
    operator.do("backup", "restore", tenant, "--into", "branch", "--as", "back")
    branch = operator.do("branch", "url", "back", "--tenant", tenant).stdout
    assert query(branch, "SELECT count(*) FROM users") == [500]

    other = operator.json("create", f"{name} target")["tenant"]["slug"]
    url = operator.do("url", other).stdout.strip()
    operator.do("backup", "restore", tenant, "--into", url, "--table", "users")
    assert query(url, "SELECT count(*) FROM users") == [500]
    refused = operator.do("backup", "restore", tenant, "--into", url, code=1)
    assert "is not empty" in refused.stderr
    assert "npg_" not in refused.stderr + refused.stdout


def test_one_failing_tenant_stops_nobody_and_leaves_nothing(
    operator: Operator, query: Query, vault: Path, tenant: str, name: str
) -> None:
    held = operator.json("create", f"{name} held")["tenant"]["slug"]
    query(_database(operator.do("url", held).stdout, "postgres"), "DROP DATABASE neondb")
    done = operator.json("backup", "run", tenant, held, code=3)
    outcomes = {each["tenant"]: each["outcome"] for each in done["tenants"]}
    assert outcomes == {tenant: "taken", held: "failed"}
    assert not (vault / held).exists()
    (failed,) = operator.json("backup", "list", held, "--all")["backups"]
    assert failed["state"] == "failed"
    assert "neondb" in failed["failure"]["message"]


def test_all_leaves_those_asleep_that_have_not_changed(
    operator: Operator, query: Query, vault: Path, tenant: str
) -> None:
    operator.do("backup", "run", tenant)
    operator.do("suspend", tenant)
    assert _run_all(operator)[tenant] == "unchanged"
    assert len(list((vault / tenant).iterdir())) == 1
    assert operator.json("show", tenant)["endpoints"][0]["state"] == "idle", "it was woken"
    (record,) = operator.json("backup", "list", tenant)["backups"]
    assert record["unchanged_at"] > record["finished_at"]

    url = operator.do("url", tenant).stdout
    query(url, "SELECT 1")
    assert _run_all(operator)[tenant] == "taken", "somebody was there, and nobody knows what for"
    point = operator.json("backup", "list", tenant)["backups"][0]["started_at"]
    operator.do("suspend", tenant)
    assert _run_all(operator)[tenant] == "unchanged"
    operator.do("restore", tenant, "--to", point, "--yes")
    assert _run_all(operator)[tenant] == "taken", "it went back in time, while nobody was connected"


def _run_all(operator: Operator) -> dict[str, str]:
    done = operator.do("backup", "run", "--all", "--json", "--jobs", "2", code=None)
    return {each["tenant"]: each["outcome"] for each in json.loads(done.stdout)["tenants"]}


def test_pruning_keeps_what_the_rule_says_and_the_last_good_one_always(
    operator: Operator, vault: Path, tenant: str
) -> None:
    ids = [operator.json("backup", "run", tenant)["tenants"][0]["backup"] for _ in range(3)]
    shown = operator.json("backup", "schedule", tenant, "--cron", "0 3 * * *", "--keep", "last=1")
    (schedule,) = shown["schedules"]
    assert (schedule["cron"], schedule["keep"]) == ("0 3 * * *", "last=1")
    assert "this deletes backups for good" in operator.do("backup", "prune", tenant, code=2).stderr
    dry = operator.json("backup", "prune", tenant, "--dry-run")
    assert {each["id"] for each in dry["deleted"]} == set(ids[:2])
    assert {path.name for path in (vault / tenant).iterdir()} == set(ids)

    done = operator.json("backup", "prune", tenant, "--yes")
    assert ({each["id"] for each in done["deleted"]}, done["kept"]) == (set(ids[:2]), 1)
    assert {path.name for path in (vault / tenant).iterdir()} == {ids[2]}
    assert operator.json("backup", "prune", tenant, "--yes")["deleted"] == []
    operator.do("backup", "restore", tenant, "--as", f"{tenant} again")


def test_a_deleted_tenants_backups_open_for_nobody_and_go(operator: Operator, vault: Path, tenant: str) -> None:
    operator.do("backup", "run", tenant)
    (manifest,) = vault.glob(f"{tenant}/*/manifest.json")
    key = vault / ".keys" / f"{json.loads(manifest.read_text())['key_id']}.json"
    assert key.exists()
    operator.do("delete", tenant, "--now", "--yes")
    operator.do("backup", "prune", "--yes")
    assert not key.exists()
    assert not (vault / tenant).exists()


def test_a_damaged_object_and_a_wrong_key_are_told_apart_and_nothing_is_left_of_the_restore(
    operator: Operator, vault: Path, tenant: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.do("backup", "run", tenant)
    (dump,) = vault.glob(f"{tenant}/*/database-0.dump")
    whole = dump.read_bytes()
    for spoiled in (whole[:-40], whole[:200] + bytes([whole[200] ^ 1]) + whole[201:], whole[:90]):
        dump.write_bytes(spoiled)
        refused = operator.do("backup", "restore", tenant, "--as", f"{tenant} bad", code=1)
        assert "backup" in refused.stderr
        assert operator.projects(f"{tenant} bad") == []
    dump.write_bytes(whole)
    other = workdir / "another-key"
    operator.do("vault", "key", str(other))
    with monkeypatch.context() as patched:
        patched.setenv("TENANTRY_BACKUPS__KEY_FROM", f"file:{other}")
        refused = operator.do("backup", "restore", tenant, "--as", f"{tenant} bad", code=1)
        assert "is wrapped by the fleet's key" in refused.stderr
    operator.do("backup", "restore", tenant, "--as", f"{tenant} good")


def test_what_is_due_becomes_a_job_and_is_due_no_more_once_taken(operator: Operator, vault: Path, tenant: str) -> None:
    target = operator.cell.target
    with open_fleet(target.api_url, target.api_key, target.catalog_url) as fleet:
        for each in fleet.list(states=["ready"]):
            fleet.set_backup_schedule(each.slug, cron="0 3 * * *" if each.slug == tenant else "never")
        assert fleet.back_up_due() == ["1 tenants are to be backed up"]
        # The cell's own worker knows of no vault, and says so in the job: this process is the worker that does.
        assert [each.total for each in fleet.jobs.list() if each.kind == "backup"] == [1]
        work = fleet.jobs.kinds["backup"].work(Item(subject=tenant))
        assert work["rows"] == 501
        assert fleet.back_up_due() == []
