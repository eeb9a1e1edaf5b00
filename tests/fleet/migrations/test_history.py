"""Runs and tenants as the catalog remembers them, beside what a ledger says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.fleet.catalog import queries, runs
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.history import (
    LedgerLine,
    beside,
    read_entries,
    read_ledger,
    read_runs,
    read_story,
)
from tenantry.fleet.migrations.results import MigrationFailed

BOUNDS = Bounds(connect_deadline_seconds=0.5)
FIRST, SECOND = "create table a (x int);", "create table b (x int);"


def entries_of(fleet: Any, slug: str) -> list[Any]:
    with fleet.catalog.transaction() as connection:
        tenant = queries.tenant_by_slug(connection, slug)
    assert tenant is not None
    return read_entries(fleet.catalog, tenant)


def test_runs_are_told_with_waves_and_failures(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(3)
    first = fleet.roll_out(sql_folder(_0001_a=FIRST)).run
    fleet.sql("t1", "create table b ()")
    second = fleet.roll_out(sql_folder(_0001_a=FIRST, _0002_b=SECOND)).run
    fleet.asked.clear()
    found = read_runs(fleet.catalog, limit=10)
    assert [(each.id, each.target) for each in found] == [(second.id, "0002"), (first.id, "0001")]
    assert [each.id for each in read_runs(fleet.catalog, limit=1)] == [second.id]
    story = read_story(fleet.catalog, second)
    assert story.counts["failed"] == 1
    assert sum(wave.tenants for wave in story.waves) == 3
    assert [each.slug for each in story.failed] == ["t1"]
    assert story.seconds is None or story.seconds > 0
    document = story.as_dict()
    assert {wave["wave"] for wave in document["waves"]} == {wave.name for wave in story.waves}  # type: ignore[union-attr,index]
    assert document["created_by"] == second.created_by
    assert fleet.asked == []


def test_an_open_run_is_counted_as_it_is_now(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(2)
    begun = fleet.begin(sql_folder(_0001_a=FIRST))
    (run,) = read_runs(fleet.catalog, limit=10)
    assert run.counts == {"waiting": 2}
    story = read_story(fleet.catalog, begun.run)
    assert (story.counts["waiting"], story.seconds) == (2, None)


def test_a_tenant_is_told_with_all_that_was_done_to_it(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)
    first = fleet.roll_out(sql_folder(_0001_a=FIRST)).run
    fleet.sql("t1", "create table b ()")
    directory = sql_folder(_0001_a=FIRST, _0002_b=SECOND)
    second = fleet.roll_out(directory).run
    fleet.sql("t1", "drop table b")
    third = fleet.roll_out(directory).run
    told = [(each.run.id, each.tenant.outcome, each.tenant.applied) for each in entries_of(fleet, "t1")]
    assert told == [
        (third.id, "applied", ("0002",)),
        (second.id, "failed", ()),
        (first.id, "applied", ("0001",)),
    ]
    assert [each.run.id for each in entries_of(fleet, "t0")] == [second.id, first.id]
    assert entries_of(fleet, "t1")[1].as_dict()["failure"]["sqlstate"] == "42P07"  # type: ignore[index]


def test_the_ledger_stands_beside_it(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(1)
    directory = sql_folder(_0001_a=FIRST, _0002_b=SECOND, _0003_c="select 1;")
    fleet.roll_out(directory, through="0002")
    folder = open_folder(directory)

    def lines() -> list[LedgerLine]:
        entries = entries_of(fleet, "t0")
        return beside(entries, folder, read_ledger(folder, fleet.dsns["t0"], BOUNDS))

    assert [(each.version, each.applied, each.run is not None) for each in lines()] == [
        ("0001", True, True),
        ("0002", True, True),
        ("0003", False, False),
    ]
    assert all(each.at is not None for each in lines() if each.run)
    fleet.sql("t0", "delete from tenantry.migrations where version = '0002'")
    assert [each.version for each in lines() if each.disagrees] == ["0002"]
    with fleet.catalog.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM migration_run")
    assert [(each.applied, each.run) for each in lines()] == [(True, None), (False, None), (False, None)]
    assert entries_of(fleet, "t0") == []
    with pytest.raises(MigrationFailed):
        read_ledger(folder, "host=/nonexistent", BOUNDS)


def test_no_more_is_read_than_is_remembered() -> None:
    assert runs.RUNS_KEPT <= runs.LISTED_MAX
