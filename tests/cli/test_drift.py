"""``tenantry migrate drift`` on a real cell: sleeping tenants are woken, references are made and forgotten."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tenantry.fleet.migrations import throwaway
from tenantry.neon.client import NeonClient

from .conftest import Operator, Query


@pytest.fixture(autouse=True)
def without_golden(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder of its own, and the fleet's golden database is of one folder."""
    monkeypatch.setenv("TENANTRY_MIGRATIONS__GOLDEN", "false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "sql"
    directory.mkdir()
    (directory / "0001_people.sql").write_text("create table people (id bigint primary key, name text not null);")
    (directory / "0002_born.sql").write_text("alter table people add column born date;")
    (tmp_path / ".git").mkdir()
    return directory


def test_drift_is_named_with_what_differs(operator: Operator, name: str, query: Query, folder: Path) -> None:
    slugs = [operator.json("create", f"{name} {number}")["tenant"]["slug"] for number in range(3)]
    some = ",".join(slugs)
    operator.do("migrate", "run", "--dir", str(folder), "--tenants", some)
    url = operator.do("url", slugs[1]).stdout
    query(url, "alter table people add column nick text; create index people_name_idx on people (name)")
    for slug in slugs:
        operator.do("suspend", slug)
    done = operator.do("migrate", "drift", "--dir", str(folder), "--tenants", some, code=3)
    lines = done.stdout.splitlines()
    assert "looking at 3 tenants; those that sleep are woken" in done.stderr
    assert lines == [
        f"{slugs[1]}: 0002 on Postgres 18, 2 differences; expected: made by applying the folder",
        "  + alter table public.people add column nick text",
        "  + CREATE INDEX people_name_idx ON public.people USING btree (name)",
        "2 as expected, 1 drifted",
    ]
    assert operator.projects(throwaway.NAME) == []

    document = operator.json("migrate", "drift", "--dir", str(folder), "--tenants", some, code=3)
    assert [each["standing"] for each in document["tenants"]] == ["same", "drifted", "same"]
    assert {each["expected_from"] for each in document["tenants"]} == {"remembered"}
    assert [each["what"] for each in document["tenants"][1]["differences"]] == ["extra", "extra"]

    query(url, "alter table people drop column nick; drop index people_name_idx")
    assert operator.do("migrate", "drift", "--dir", str(folder), "--tenants", some).stdout == (
        "3 as expected, 0 drifted\n"
    )
    older = operator.do("migrate", "drift", "--dir", str(folder), "--tenants", some, "--expect", "0001", code=3)
    assert older.stdout.count("  + alter table public.people add column born date") == 3
    like = operator.do("migrate", "drift", "--dir", str(folder), "--tenants", slugs[0], "--expect", slugs[1])
    assert like.stdout == "2 as expected, 0 drifted\n"
    lost = operator.do("migrate", "drift", "--dir", str(folder), "--expect", "0009", code=2)
    assert "--expect 0009: neither a version of the folder nor a tenant" in lost.stderr


def test_a_reference_that_was_left_is_deleted_by_the_next(
    operator: Operator, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    (folder / "0001_people.sql").write_text(f"create table people_{uuid4().hex} (id bigint primary key);")
    target = operator.cell.target
    with NeonClient(target.api_url, target.api_key) as client:
        left = client.create_project(name=f"{throwaway.NAME} [{uuid4()}]").project
        operator.do("migrate", "run", "--dir", str(folder), "--tenants", slug, "--through", "0001")
        operator.do("migrate", "drift", "--dir", str(folder), "--tenants", slug)
        assert [each.id for each in operator.projects(throwaway.NAME)] == [left.id]
        monkeypatch.setattr(throwaway, "LEFT_AFTER", timedelta())
        (folder / "0002_born.sql").write_text("create table b ();")
        operator.do("migrate", "run", "--dir", str(folder), "--tenants", slug)
        operator.do("migrate", "drift", "--dir", str(folder), "--tenants", slug)
    assert operator.projects(throwaway.NAME) == []


def test_a_failing_reference_is_deleted_too(operator: Operator, name: str, folder: Path, query: Query) -> None:
    (folder / "0002_born.sql").write_text("alter table made_by_hand add column born date;")
    slug = operator.json("create", name)["tenant"]["slug"]
    query(operator.do("url", slug).stdout, "create table made_by_hand ()")
    operator.do("migrate", "run", "--dir", str(folder), "--tenants", slug)
    done = operator.do("migrate", "drift", "--dir", str(folder), "--tenants", slug)
    assert re.search(r'0002 on Postgres 18 could not be made: .*relation "made_by_hand" does not exist', done.stderr)
    assert "the only tenant of its version" in done.stdout
    assert operator.projects(throwaway.NAME) == []


def test_what_was_seen_is_in_the_catalog(
    operator: Operator, name: str, folder: Path, query: Query, within: Callable[..., Any]
) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    operator.do("migrate", "run", "--dir", str(folder), "--tenants", slug)
    operator.do("migrate", "drift", "--dir", str(folder), "--tenants", slug)
    ready = json.loads((operator.cell.data / "ready.json").read_text())
    seen = "select standing || ' ' || version from schema_seen join project on project.id = project_id"
    seen += f" join customer on customer.id = customer_id where slug = '{slug}'"
    assert query(ready["catalog_url"], seen) == ["same 0002"]
    query(operator.do("url", slug).stdout, "drop table people")
    operator.do("migrate", "drift", "--dir", str(folder), "--tenants", slug, code=3)
    assert query(ready["catalog_url"], seen) == ["drifted 0002"]
