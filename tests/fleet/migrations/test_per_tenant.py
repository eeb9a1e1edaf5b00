"""A folder for each customer, as the guide has it: each tenant is planned and migrated by its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.formats.per_tenant import FolderPerTenant, folder_of
from tenantry.fleet.migrations.plan import make_plan, states_of
from tenantry.fleet.migrations.status import check_ledgers, read_status
from tenantry.fleet.migrations.tenant import TenantSlug

from .conftest import write_drizzle_folder
from .test_drizzle_v1 import write as write_v1

Text = tuple[str, int, str]
USERS: Text = ("0000_wide_hulk", 5, "create table users ()")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """``drizzle/t0`` and ``drizzle/t1``, made at other times from the same schema; t2 has no folder."""
    write_drizzle_folder(tmp_path / "drizzle/t0", USERS, ("0001_calm_thor", 7, "create table a ()"))
    write_drizzle_folder(tmp_path / "drizzle/t1", ("0000_nice_wasp", 6, USERS[2]))
    (tmp_path / "drizzle/README.md").write_text("not a folder")
    return tmp_path


def test_each_tenant_is_judged_by_its_own_folder(new_fleet: Callable[[int], Any], project: Path) -> None:
    fleet = new_fleet(3)
    folder = open_folder(project)
    plan = make_plan(folder, fleet.select())
    assert [(each.standing, each.pending) for each in plan.tenants] == [
        ("unknown", ("0000_wide_hulk", "0001_calm_thor")),
        ("unknown", ("0000_nice_wasp",)),
        ("no_folder", ()),
    ]
    result = fleet.roll_out(project)
    assert [(each.outcome, each.applied) for each in result.results] == [
        ("applied", ("0000_wide_hulk", "0001_calm_thor")),
        ("applied", ("0000_nice_wasp",)),
        ("failed", ()),
    ]
    assert result.results[2].failure is not None
    assert (result.results[2].failure.kind, result.exit_code) == ("no_folder", 3)
    assert fleet.asked.count("t2") == 0
    for slug in ("t0", "t1"):
        own = folder_of(folder, TenantSlug(slug))
        assert own is not None
        assert fleet.known[slug] == states_of(own)[-1]
    again = make_plan(folder, fleet.select())
    assert [each.standing for each in again.tenants] == ["current", "current", "no_folder"]
    checks = list(check_ledgers(folder, fleet.select(), fleet, jobs=2))
    assert [(each.slug, each.agrees) for each in checks] == [("t0", True), ("t1", True), ("t2", False)]
    status = read_status(folder, fleet.select())
    assert {row.version for row in status.versions} == {"0001_calm_thor", "0000_nice_wasp", "unknown"}


def test_what_is_never_run_is_named_with_its_customer(new_fleet: Callable[[int], Any], project: Path) -> None:
    write_drizzle_folder(project / "drizzle/t2", ("0000_x", 5, "commit"))
    write_drizzle_folder(project / "drizzle/nobody", ("0000_x", 5, "commit"))
    (refused,) = make_plan(open_folder(project / "drizzle"), new_fleet(3).select()).refused
    assert refused.file == "t2/0000_x.sql"


def test_the_same_text_is_told_once(project: Path) -> None:
    folder = open_folder(project)
    assert isinstance(folder, FolderPerTenant)
    assert [each.file for each in folder.migrations] == ["t0/0000_wide_hulk.sql", "t0/0001_calm_thor.sql"]


def test_folders_of_drizzle_kit_1(new_fleet: Callable[[int], Any], tmp_path: Path) -> None:
    fleet = new_fleet(1)
    write_v1(tmp_path / "drizzle/t0", _20260101000000_a="create table a ()")
    folder = open_folder(tmp_path)
    assert (folder.name, folder.directory) == ("drizzle-1", tmp_path / "drizzle")
    assert fleet.roll_out(tmp_path).results[0].outcome == "applied"
    write_drizzle_folder(tmp_path / "drizzle/t1", USERS)
    with pytest.raises(InvalidInput, match="drizzle and of drizzle-1"):
        open_folder(tmp_path)


def test_there_is_no_version_to_stop_at(project: Path) -> None:
    with pytest.raises(InvalidInput, match="versions of its own"):
        open_folder(project, through="0000_wide_hulk")


def test_a_damaged_folder_of_one_customer_is_named(project: Path) -> None:
    (project / "drizzle/t1/0000_nice_wasp.sql").unlink()
    with pytest.raises(InvalidInput, match=r"drizzle/t1/0000_nice_wasp.sql cannot be read"):
        open_folder(project)


def test_a_project_with_one_folder_is_not_taken_for_customers(tmp_path: Path) -> None:
    write_drizzle_folder(tmp_path / "db", USERS)
    (tmp_path / "package.json").write_text("{}")
    with pytest.raises(InvalidInput, match="has no"):
        open_folder(tmp_path)
