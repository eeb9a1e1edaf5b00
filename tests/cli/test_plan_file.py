"""`tenantry migrate plan --save` and `run --plan-file`, on a real cell: what was shown is done, or nothing is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Operator


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "0001_users.sql").write_text("CREATE TABLE users (id int PRIMARY KEY);\n")
    return workdir


def test_a_saved_plan_is_carried_out_and_only_while_it_is_true(operator: Operator, name: str, folder: Path) -> None:
    slugs = [operator.json("create", f"{name} {letter}")["tenant"]["slug"] for letter in "abc"]
    plan = folder / "plan.json"
    where = ("--dir", str(folder), "--tenants", ",".join(slugs))
    saved = operator.do("migrate", "plan", *where, "--canaries", "1", "--save", str(plan))
    assert f"migrate run --plan-file {plan}" in saved.stderr
    assert json.loads(plan.read_text())["visits"].keys() == set(slugs)

    # One that was migrated meanwhile has nothing left of what was shown.
    operator.do("migrate", "run", "--dir", str(folder), "--tenants", slugs[0])
    refused = operator.do("migrate", "run", "--plan-file", str(plan), code=1)
    assert f"{slugs[0]} is not to be visited any more" in refused.stderr
    assert operator.json("show", slugs[1])["tenant"]["schema_version"] is None

    operator.do("migrate", "plan", *where, "--canaries", "1", "--save", str(plan))
    done = operator.do("migrate", "run", "--plan-file", str(plan))
    assert "wave canary: 1 tenant\n" in done.stderr
    assert done.stdout.startswith("2 migrated, 1 current by the catalog, not woken in")
    assert [operator.json("show", slug)["tenant"]["schema_version"] for slug in slugs] == ["0001"] * 3
    assert "not to be visited any more" in operator.do("migrate", "run", "--plan-file", str(plan), code=1).stderr


def test_other_migrations_and_other_options_are_another_plan(operator: Operator, name: str, folder: Path) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    plan = folder / "plan.json"
    operator.do("migrate", "plan", "--dir", str(folder), "--tenants", slug, "--save", str(plan))
    other = operator.do("migrate", "run", "--plan-file", str(plan), "--tenants", slug, code=2)
    assert "the plan says already which tenants are meant" in other.stderr
    (folder / "0001_users.sql").write_text("CREATE TABLE users (id bigint PRIMARY KEY);\n")
    (folder / "0002_more.sql").write_text("CREATE TABLE more ();\n")
    refused = operator.do("migrate", "run", "--plan-file", str(plan), code=1).stderr
    assert "migration 0001 was edited; migration 0002 is new" in refused
    assert operator.json("show", slug)["endpoints"][0]["state"] == "idle"
    plan.write_text("{}")
    assert "is no plan of this release" in operator.do("migrate", "run", "--plan-file", str(plan), code=2).stderr
    missing = operator.do("migrate", "run", "--plan-file", str(folder / "no"), code=2)
    assert "cannot be read: No such file" in missing.stderr
