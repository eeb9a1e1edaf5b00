"""Backups of real tenants on a real cell, into a directory, and back into tenants, branches and databases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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
