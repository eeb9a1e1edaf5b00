"""Where the fleet stands: by the catalog without waking anybody, and by the ledgers when asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.drift import TenantDrift
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.schema_memory import CatalogMemory
from tenantry.fleet.migrations.status import Skew, check_ledgers, read_status
from tenantry.fleet.migrations.tenant import SchemaState, TenantSlug

BOUNDS = Bounds(connect_deadline_seconds=0.5)


def test_versions_standings_and_the_last_failures(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(3)
    fleet.roll_out(sql_folder(_0001_a="create table a (x int);"), ["t0", "t1"])
    fleet.sql("t1", "create table b ()")
    directory = sql_folder(_0001_a="create table a (x int);", _0002_b="create table b (x int);")
    fleet.roll_out(directory, ["t0", "t1"])
    folder = open_folder(directory)
    fleet.add("far", "")
    fleet.know("far", SchemaState("sql", "0009", "f"))
    fleet.add("empty", "")
    fleet.know("empty", SchemaState("sql", None, read_empty(folder)))
    fleet.asked.clear()

    status = read_status(folder, fleet.select(None), fleet.catalog)
    assert [(row.version, row.tenants, row.place) for row in status.versions] == [
        ("0009", 1, None),
        ("0002", 1, 1),
        ("0001", 1, 0),
        ("none", 1, None),
        ("unknown", 1, None),
    ]
    assert status.standings == {"current": 1, "behind": 2, "unknown": 1, "ahead": 1}
    assert status.last_run is not None
    assert status.last_run.counts["failed"] == 1
    assert [(each.slug, each.failure and each.failure["sqlstate"]) for each in status.last_failures] == [
        ("t1", "42P07")
    ]
    assert fleet.asked == []
    document = status.as_dict()
    assert document["versions"] == [
        {"version": row.version, "tenants": row.tenants, "behind": row.behind} for row in status.versions
    ]
    assert [row.behind for row in status.versions] == [None, 0, 1, 2, None]
    assert [row.examples for row in status.versions] == [("far",), ("t0",), ("t1",), ("empty",), ("t2",)]
    assert status.skew == Skew(oldest="none", newest="0002", migrations=2)
    assert document["skew"] == {"oldest": "none", "newest": "0002", "migrations": 2}
    assert [(each.slug, each.failure["sqlstate"], each.failure["statement"]) for each in status.quarantined] == [
        ("t1", "42P07", 1)
    ]
    assert read_status(folder, fleet.select(["t0"]), fleet.catalog).quarantined == ()


def test_one_that_failed_is_told_until_it_is_migrated_or_gone(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(3)
    for slug in ("t0", "t1", "t2"):
        fleet.sql(slug, "create table b ()")
    directory = sql_folder(_0001_a="create table a (x int);", _0002_b="create table b (x int);")
    fleet.roll_out(directory)
    folder = open_folder(directory)

    def left() -> list[str]:
        return [each.slug for each in read_status(folder, fleet.select(None), fleet.catalog).quarantined]

    assert left() == ["t0", "t1", "t2"]
    fleet.sql("t0", "drop table b")
    fleet.roll_out(directory, ["t0"])
    assert left() == ["t1", "t2"]
    # Somebody else has migrated it, and its ledger was read since.
    fleet.know("t1", fleet.known["t0"])
    assert left() == ["t2"]
    fleet.roll_out(directory, ["t2"])
    (again,) = read_status(folder, fleet.select(None), fleet.catalog).quarantined
    assert again.run_id == read_status(folder, (), fleet.catalog).last_run.id  # type: ignore[union-attr]
    with fleet.catalog.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE project SET state = 'deleting', deleting_at = now() WHERE provider_project_id = 'project-t2'"
        )
    assert left() == []


def test_drift_is_told_as_it_was_last_seen(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(2)
    directory = sql_folder(_0001_a="create table a (x int);")
    fleet.roll_out(directory)
    seen = [
        TenantDrift(slug=TenantSlug(slug), standing=standing, version="0001", major=18, fingerprint="f", count=count)
        for slug, standing, count in (("t0", "drifted", 2), ("t1", "same", 0))
    ]
    CatalogMemory(fleet.catalog).saw(seen)
    status = read_status(open_folder(directory), fleet.select(None), fleet.catalog)
    assert [(each.slug, each.differences) for each in status.drifted] == [("t0", 2)]
    assert status.skew == Skew(oldest="0001", newest="0001", migrations=0)
    told = status.as_dict()["drifted"]
    assert [(each["tenant"], each["differences_total"]) for each in told] == [("t0", 2)]  # type: ignore[index,union-attr]


def read_empty(folder: Any) -> str:
    return folder.judge(None).state.fingerprint


def test_the_ledgers_are_read_and_nothing_is_changed(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(4)
    directory = sql_folder(_0001_a="create table a (x int);")
    fleet.roll_out(directory, ["t0", "t1", "t2"])
    folder = open_folder(directory)
    # t1: somebody went back in the tenant; t2: the catalog is wrong about the files; t3 was never looked at.
    fleet.sql("t1", "delete from tenantry.migrations")
    fleet.know("t2", replace(fleet.known["t2"], fingerprint="f" * 64))
    fleet.add("gone", "host=/nonexistent")
    known = fleet.known

    checks = {each.slug: each for each in check_ledgers(folder, fleet.select(None), fleet, jobs=2, bounds=BOUNDS)}
    assert [slug for slug, check in checks.items() if check.agrees] == ["t0"]
    assert checks["t1"].ledger == SchemaState("sql", None, read_empty(folder))
    assert checks["t1"].pending == ("0001",)
    assert checks["t2"].ledger == known["t0"]
    assert checks["t3"].catalog is None
    assert checks["t3"].pending == ("0001",)
    assert checks["gone"].failure is not None
    assert checks["gone"].failure.kind == "connect"
    assert fleet.known == known
    assert fleet.sql("t3", "select to_regclass('tenantry.migrations')") == [(None,)]
    assert checks["t1"].as_dict() == {
        "tenant": "t1",
        "agrees": False,
        "catalog_version": "0001",
        "ledger_version": None,
        "pending": ["0001"],
        "objections": [],
        "failure": None,
    }
