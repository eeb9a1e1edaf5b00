"""Who is migrated when: the empty database first, tenants in their windows, and new tenants at their birth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tenantry.testing.throwaway import ThrowawayCell

from ..forks import Nurseries

if TYPE_CHECKING:
    from conftest import Operator, Query

TABLES = "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


@pytest.fixture
def folder(workdir: Path) -> Path:
    (workdir / "0001_users.sql").write_text("CREATE TABLE users (id int PRIMARY KEY);\n")
    return workdir


def test_what_an_empty_database_refuses_reaches_no_tenant(operator: Operator, name: str, folder: Path) -> None:
    slug = operator.json("create", name)["tenant"]["slug"]
    (folder / "0002_nowhere.sql").write_text("ALTER TABLE nowhere ADD COLUMN x int;\n")
    stopped = operator.do("migrate", "run", "--dir", str(folder), "--tenants", slug, code=1)
    assert "wave golden: STOPPED: an empty database refuses it: 42P01" in stopped.stderr
    assert "0002_nowhere.sql, statement 1, line 1" in stopped.stderr
    shown = operator.json("show", slug)
    assert (shown["tenant"]["schema_version"], shown["endpoints"][0]["state"]) == (None, "idle")
    assert operator.projects("tenantry-reference") == []


def test_a_tenant_waits_for_its_window_unless_somebody_says_otherwise(
    operator: Operator, name: str, folder: Path
) -> None:
    early, late = (operator.json("create", f"{name} {letter}")["tenant"]["slug"] for letter in "ab")
    assert operator.do("window", late).stdout == f"{late}: at any time\n"
    in_two_days = f"{datetime.now(UTC) + timedelta(days=2):%a}".lower()
    window = f"{in_two_days} 02:00-05:00 UTC"
    assert operator.json("window", late, window) == {"tenant": late, "maintenance_window": window}
    assert "sat,sun 02:00-05:00" in operator.do("window", late, "whenever", code=2).stderr
    assert operator.do("window", late, window, "--any-time", code=2).stdout == ""

    where = ("--dir", str(folder), "--tenants", f"{early},{late}")
    waits = operator.do("migrate", "run", *where, code=1)
    assert "1 tenants wait for their maintenance window until" in waits.stderr
    assert [operator.json("show", slug)["tenant"]["schema_version"] for slug in (early, late)] == ["0001", None]

    operator.do("migrate", "run", *where, "--ignore-windows")
    assert operator.json("show", late)["tenant"]["schema_version"] == "0001"
    assert operator.json("window", late, "--any-time")["maintenance_window"] is None


# -- a fleet of its own: what all tenants got is what new ones are born with ---------------------------------


@pytest.fixture
def alone(
    new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell], nurseries: Nurseries, operator: Operator
) -> Iterator[Operator]:
    with new_cell(new_workdir("births") / "data", options=["--spares", "2", "--no-worker"]) as cell:
        yield type(operator)(cell, nurseries)


def test_a_tenant_is_born_current(alone: Operator, query: Query, folder: Path) -> None:
    alone.do("create", "First")
    alone.do("migrate", "run", "--dir", str(folder))
    born = alone.json("create", "Second")["tenant"]
    assert born["schema_version"] == "0001"
    assert query(alone.do("url", "second").stdout, TABLES) == ["users"]
    plan = alone.json("migrate", "plan", "--dir", str(folder))
    assert {each["tenant"]: each["standing"] for each in plan["tenants"]} == {"first": "current", "second": "current"}

    alone.do("create", "Third", TENANTRY_MIGRATIONS__BORN_CURRENT="false")
    assert query(alone.do("url", "third").stdout, TABLES) == []
    # A run over some is not what the fleet has.
    (folder / "0002_more.sql").write_text("CREATE TABLE more ();\n")
    alone.do("migrate", "run", "--dir", str(folder), "--tenants", "first")
    assert alone.json("create", "Fourth")["tenant"]["schema_version"] == "0001"
    alone.do("migrate", "run", "--dir", str(folder))
    assert alone.json("create", "Fifth")["tenant"]["schema_version"] == "0002"
