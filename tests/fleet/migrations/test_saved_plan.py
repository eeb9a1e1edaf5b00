"""A plan as a file: it says what a run does, and a run that would do anything else is not begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.catalog import runs
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.run import RunOptions, begin_run, pause_run
from tenantry.fleet.migrations.saved_plan import NAMED_MAX, SavedPlan, read_plan
from tenantry.fleet.migrations.selection import Selection
from tenantry.fleet.migrations.waves import Rules

OPTIONS = RunOptions(rules=Rules(canaries=1))


def save(fleet: Any, directory: Path, path: Path) -> SavedPlan:
    plan = fleet.plan(directory, rules=OPTIONS.rules)
    SavedPlan.of(plan, open_folder(directory), Selection(), through=None).write(path)
    return read_plan(path)


def begin(fleet: Any, directory: Path, expected: SavedPlan) -> Any:
    folder = open_folder(directory)
    return begin_run(fleet.catalog, folder, lambda: fleet.select(None), options=OPTIONS, expected=expected)


def test_what_was_saved_is_begun(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], tmp_path: Path
) -> None:
    fleet = new_fleet(3)
    directory = sql_folder(_0001_a="create table a (x int);")
    saved = save(fleet, directory, tmp_path / "plan.json")
    assert saved.canaries == 1
    assert sorted(visit.wave for visit in saved.visits.values()) == ["canary", "rest", "rest"]
    assert saved.selected == Selection()
    run = fleet.work(begin(fleet, directory, saved).run)
    assert run.counts == {"applied": 3}


def test_whoever_came_or_stands_elsewhere_is_named_and_nothing_is_written(
    new_fleet: Callable[[int], Any], new_database: Callable[[], str], sql_folder: Callable[..., Path], tmp_path: Path
) -> None:
    fleet = new_fleet(2)
    directory = sql_folder(_0001_a="create table a (x int);", _0002_b="create table b (x int);")
    saved = save(fleet, directory, tmp_path / "plan.json")
    fleet.roll_out(directory, ["t0"], through="0001")
    fleet.add("late", new_database())
    paused = pause_run(fleet.catalog, fleet.begin(directory).run)
    with pytest.raises(Conflict) as refused:
        begin(fleet, directory, saved)
    assert "late came to it (unknown at nothing, lacks 0001, 0002, in wave " in refused.value.message
    assert "t0 is behind at 0001, lacks 0002, in wave " in refused.value.message
    with fleet.catalog.transaction() as connection:
        assert [(run.id, run.state) for run in runs.open_runs(connection)] == [(paused.id, "paused")]


def test_a_tenant_that_is_born_current_changes_nothing(
    new_fleet: Callable[[int], Any], new_database: Callable[[], str], sql_folder: Callable[..., Path], tmp_path: Path
) -> None:
    fleet = new_fleet(1)
    directory = sql_folder(_0001_a="create table a (x int);")
    saved = save(fleet, directory, tmp_path / "plan.json")
    fleet.add("late", new_database())
    fleet.roll_out(directory, ["late"])
    assert begin(fleet, directory, saved).to_visit == 1


def test_a_long_list_is_cut(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], tmp_path: Path) -> None:
    fleet = new_fleet(1)
    directory = sql_folder(**{f"_{number:04}_m": f"create table t{number} ();" for number in range(1, 9)})
    saved = save(fleet, directory, tmp_path / "plan.json")
    for path in directory.glob("*.sql"):
        path.write_text("create table other ();")
    with pytest.raises(Conflict, match=rf"migration 0001 was edited.*; and {8 - NAMED_MAX} more"):
        begin(fleet, directory, saved)


def test_folders_of_customers_are_one(
    new_fleet: Callable[[int], Any], drizzle_folder: Callable[..., Path], tmp_path: Path
) -> None:
    fleet = new_fleet(1)
    made = drizzle_folder(("0000_a", 1, "create table a ();"))
    directory = tmp_path / "customers"
    directory.mkdir()
    made.rename(directory / "t0")
    saved = save(fleet, directory, tmp_path / "plan.json")
    assert begin(fleet, directory, saved).to_visit == 1
    (directory / "t0" / "0000_a.sql").write_text("create table b ();")
    with pytest.raises(Conflict, match="the customers' folders changed"):
        begin(fleet, directory, saved)


@pytest.mark.parametrize("text", ["", "{}", '{"tenantry_plan": 2}', "[]"])
def test_what_is_no_plan(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InvalidInput, match="is no plan of this release"):
        read_plan(path)
