"""`tenantry migrate` on a real cell: what no transaction holds, and a folder for each customer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from conftest import Operator


def test_an_index_is_built_concurrently_through_the_front_door(operator: Operator, name: str, workdir: Path) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    (workdir / "0001_users.sql").write_text("CREATE TABLE users (id int PRIMARY KEY, email text);\n")
    (workdir / "0002_index.sql").write_text("CREATE INDEX CONCURRENTLY by_email ON users (email);\nVACUUM users;\n")
    where = ("--dir", str(workdir), "--tenants", slug)
    planned = operator.do("migrate", "plan", *where).stdout
    assert "statement by statement, since no transaction can hold all of it: 0002_index.sql" in planned
    assert f"{slug}: applied 0001, 0002" in operator.do("migrate", "run", *where).stderr
    with psycopg.connect(operator.do("url", slug).stdout.strip()) as connection:
        valid = connection.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'by_email'::regclass")
        assert valid.fetchall() == [(True,)]
        assert connection.execute("SELECT version FROM tenantry.migrations ORDER BY 1").fetchall() == [
            ("0001",),
            ("0002",),
        ]


def test_each_customer_is_migrated_by_its_own_folder(operator: Operator, name: str, workdir: Path) -> None:
    slugs = [operator.json("create", f"{name} {letter}")["tenant"]["slug"] for letter in "ab"]
    folder = workdir / "drizzle" / slugs[0]
    (folder / "meta").mkdir(parents=True)
    (folder / "0000_wide_hulk.sql").write_text('CREATE TABLE "users" ("id" integer);')
    entry = {"idx": 0, "version": "7", "when": 5, "tag": "0000_wide_hulk", "breakpoints": True}
    journal = {"version": "7", "dialect": "postgresql", "entries": [entry]}
    (folder / "meta/_journal.json").write_text(json.dumps(journal))
    where = ("--dir", str(workdir), "--tenants", ",".join(slugs))
    planned = operator.json("migrate", "plan", *where)
    assert [(each["tenant"], each["standing"]) for each in planned["tenants"]] == [
        (slugs[0], "unknown"),
        (slugs[1], "no_folder"),
    ]
    done = operator.do("migrate", "run", *where, code=3)
    assert f"{slugs[0]}: applied 0000_wide_hulk" in done.stderr
    assert "other customers have folders of their own here, and it has none" in done.stdout
    assert operator.json("show", slugs[0])["tenant"]["schema_version"] == "0000_wide_hulk"
