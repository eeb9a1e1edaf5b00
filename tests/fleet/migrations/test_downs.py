"""Ways back of plain SQL: all of them in one transaction with the ledger, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import InvalidInput, NotSupported
from tenantry.fleet.migrations.apply import Bounds, Halt, Migrator
from tenantry.fleet.migrations.downs import WentBack, go_back
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import states_of
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.tenant import TenantSlug

T0 = TenantSlug("t0")
FILES = {
    "_0001_a": "create table a ();",
    "_0002_b.up": "create table b ();",
    "_0002_b.down": "drop table b;",
    "_0003_c": "alter table b add x int;",
    "_0003_c.down": "alter table b drop x;",
}


@pytest.fixture
def fleet(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> Any:
    """One tenant with all three."""
    fleet = new_fleet(1)
    folder = open_folder(sql_folder(**FILES))
    assert fleet.roll_out(folder.directory).results[0].applied == (
        "0001",
        "0002",
        "0003",
    )
    return fleet


def back(fleet: Any, directory: Path, to: str | None) -> WentBack:
    migrator = Migrator(
        folder=open_folder(directory), dsn=fleet.dsn, bounds=Bounds(), accept_edited=False, halt=Halt()
    )  # fmt: skip
    return go_back(migrator, T0, to)


def failure_of(fleet: Any, directory: Path, to: str | None) -> Failure:
    with pytest.raises(MigrationFailed) as raised:
        back(fleet, directory, to)
    assert fleet.sql("t0", "select version from tenantry.migrations order by 1") == [("0001",), ("0002",), ("0003",)]
    return raised.value.failure


def test_a_tenant_goes_back_and_forth(fleet: Any, tmp_path: Path) -> None:
    directory = tmp_path / "migrations"
    states = states_of(open_folder(directory))
    assert back(fleet, directory, "0001") == WentBack(("0003", "0002"), states[1])
    assert fleet.sql("t0", "select to_regclass('b'), to_regclass('a')::text") == [(None, "a")]
    assert fleet.sql("t0", "select version from tenantry.migrations") == [("0001",)]
    assert back(fleet, directory, "0001") == WentBack((), states[1])
    folder = open_folder(directory)
    again = fleet.roll_out(folder.directory, trust_catalog=False)
    assert again.results[0].applied == ("0002", "0003")


def test_nothing_is_changed_when_one_of_them_fails(fleet: Any, sql_folder: Callable[..., Path]) -> None:
    directory = sql_folder(**{"_0002_b.down": "drop table b;\nselect 1 / 0"})
    failure = failure_of(fleet, directory, "0001")
    assert (failure.sqlstate, failure.file, failure.line) == ("22012", "0002_b.down.sql", 2)
    assert fleet.sql("t0", "select count(*) from information_schema.columns where table_name = 'b'") == [(1,)]


def test_a_migration_without_a_way_back_is_named(fleet: Any, tmp_path: Path) -> None:
    failure = failure_of(fleet, tmp_path / "migrations", None)
    assert (failure.kind, failure.message) == ("no_down", "0001_a.sql has no way back")


def test_a_version_that_the_tenant_has_not_is_refused(fleet: Any, tmp_path: Path) -> None:
    assert failure_of(fleet, tmp_path / "migrations", "0007").message == "the tenant has no version 0007 to go back to"


@pytest.mark.parametrize("text", ["commit", "drop index concurrently i"])
def test_what_leaves_the_transaction_is_refused(fleet: Any, sql_folder: Callable[..., Path], text: str) -> None:
    failure = failure_of(fleet, sql_folder(**{"_0003_c.down": text}), "0002")
    assert (failure.kind, failure.file) == ("refused", "0003_c.down.sql")


def test_an_edited_migration_is_not_taken_back(fleet: Any, sql_folder: Callable[..., Path]) -> None:
    assert failure_of(fleet, sql_folder(_0003_c="alter table b add y int;"), "0002").kind == "edited"


def test_the_way_back_may_be_edited(fleet: Any, sql_folder: Callable[..., Path]) -> None:
    directory = sql_folder(**{"_0003_c.down": "alter table b drop if exists x;"})
    assert back(fleet, directory, "0002").versions == ("0003",)


def test_a_half_applied_migration_is_finished_first(fleet: Any, sql_folder: Callable[..., Path]) -> None:
    folder = open_folder(sql_folder(_0004_d="vacuum; select 1 / 0"))
    assert fleet.roll_out(folder.directory).failed
    assert failure_of(fleet, folder.directory, "0002").kind == "half_applied"


def test_a_way_back_of_nothing_is_a_mistake(sql_folder: Callable[..., Path]) -> None:
    with pytest.raises(InvalidInput, match=r"0001_b.down.sql is the way back of no migration"):
        open_folder(sql_folder(**{"_0001_a": "select 1", "_0001_b.down": "select 1"}))


def test_other_formats_have_no_way_back(new_fleet: Callable[[int], Any], drizzle_folder: Callable[..., Path]) -> None:
    with pytest.raises(NotSupported, match="drizzle"):
        back(new_fleet(1), drizzle_folder(("0000_a", 5, "select 1")), None)
