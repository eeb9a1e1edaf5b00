"""`tenantry migrate`, on a real cell: what the operator sees, and what a program reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from conftest import Operator


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "0001_users.sql").write_text("CREATE TABLE users (id int PRIMARY KEY, email text);\n")
    return workdir


def test_plan_run_and_status_of_two_tenants(operator: Operator, name: str, folder: Path) -> None:
    slugs = [operator.json("create", f"{name} {letter}")["tenant"]["slug"] for letter in "ab"]
    where = ("--dir", str(folder), "--tenants", ",".join(slugs))

    plan = operator.json("migrate", "plan", *where)
    assert [(t["tenant"], t["standing"], t["pending"]) for t in plan["tenants"]] == [
        (slug, "unknown", ["0001"]) for slug in slugs
    ]
    shown = operator.do("migrate", "plan", *where).stdout
    assert "2 to visit, 0 current" in shown
    assert operator.json("show", slugs[0])["endpoints"][0]["state"] == "idle"

    run = operator.do("migrate", "run", *where)
    assert "2 migrated in" in run.stdout
    assert f"{slugs[0]}: applied 0001" in run.stderr
    assert operator.json("show", slugs[0])["tenant"]["schema_version"] == "0001"

    again = operator.json("migrate", "run", *where)
    assert again["counts"]["skipped"] == 2
    status = operator.json("migrate", "status", *where, "--check")
    assert status["versions"] == [{"version": "0001", "tenants": 2, "behind": 0}]
    assert [ledger["agrees"] for ledger in status["ledgers"]] == [True, True]


def test_one_tenant_fails_the_others_are_done_and_rerunning_resumes(
    operator: Operator, name: str, folder: Path
) -> None:
    slugs = [operator.json("create", f"{name} {letter}")["tenant"]["slug"] for letter in "abc"]
    where = ("--dir", str(folder), "--tenants", slugs[0], "--tenants", f"{slugs[1]},{slugs[2]}")
    operator.do("migrate", "run", *where)
    (folder / "0002_unique.sql").write_text("ALTER TABLE users ADD UNIQUE (email);\n")
    url = operator.do("url", slugs[1]).stdout.strip()
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO users VALUES (1, '[x]'), (2, '[x]')")

    done = operator.do("migrate", "run", *where, "--json", code=3)
    result = json.loads(done.stdout)
    assert {t["tenant"]: t["outcome"] for t in result["tenants"]} == {
        slugs[0]: "applied", slugs[1]: "failed", slugs[2]: "applied",
    }  # fmt: skip
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [event["event"] for event in events][:2] == ["lint", "run_started"]
    assert events[-1]["event"] == "run_finished"
    assert events[-1]["counts"]["failed"] == 1

    # By the catalog, also after the process that ran it is gone.
    status = operator.do("migrate", "status", *where).stdout
    assert slugs[1] in status
    assert "23505" in status
    failed = operator.do("migrate", "run", *where, code=3)
    assert "1 failed" in failed.stdout
    assert "23505" in failed.stdout
    assert "tenantry migrate resume run-" in failed.stderr

    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM users WHERE id = 2")
    resumed = operator.json("migrate", "resume")
    assert resumed["counts"] | {"applied": 1, "skipped": 2, "failed": 0} == resumed["counts"]
    assert operator.json("migrate", "status", *where)["last_failures"] == []


def test_a_migration_that_was_mended_is_tried_on_an_empty_database_anew(
    operator: Operator, name: str, folder: Path
) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    where = ("--dir", str(folder), "--tenants", slug)
    operator.do("migrate", "run", *where)
    with psycopg.connect(operator.do("url", slug).stdout.strip()) as connection:
        connection.execute("INSERT INTO users VALUES (1, NULL)")
    (folder / "0002_email.sql").write_text("ALTER TABLE users ALTER email SET NOT NULL;\n")
    failed = operator.do("migrate", "run", *where, code=3)
    assert "wave golden: passed" in failed.stderr
    (folder / "0002_email.sql").write_text(
        "UPDATE users SET email = '';\nALTER TABLE users ALTER email SET NOT NULL;\n"
    )
    assert "1 migrated in" in operator.do("migrate", "run", *where).stdout
    assert operator.projects("tenantry-reference") == []


def test_what_cannot_be_migrated_is_said_with_the_next_step(operator: Operator, name: str, folder: Path) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    assert "there is no tenant nobody-here" in operator.do(
        "migrate", "run", "--dir", str(folder), "--tenants", "nobody-here", code=1
    ).stderr  # fmt: skip
    assert "is not a directory" in operator.do("migrate", "plan", "--dir", str(folder / "no"), code=2).stderr
    (folder / "0002_end.sql").write_text("CREATE TABLE b ();\nCOMMIT;\n")
    planned = operator.do("migrate", "plan", "--dir", str(folder), "--tenants", slug, code=1)
    assert "refused: 0002_end.sql, statement 2" in planned.stdout
    assert "0002_end.sql, statement 2, line 2" in operator.do(
        "migrate", "run", "--dir", str(folder), "--tenants", slug, code=2
    ).stderr  # fmt: skip
