"""What an undone run means for the catalog: new tenants are not born with it, and whoever undoes it twice is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tenantry.fleet.catalog import runs, undoing
from tenantry.fleet.catalog.catalog import Catalog


def latest(catalog: Catalog) -> str | None:
    with catalog.transaction() as connection:
        run = runs.latest_of_all(connection)
    return None if run is None else run.id


def undo(catalog: Catalog, run_id: str, slug: str) -> None:
    with catalog.transaction() as connection:
        [left] = [each for each in undoing.left_by(connection, run_id) if each.slug == slug]
        undoing.begin_undo(connection, run_id, left.tenant_id, how="restore", preserved_as="kept", by="x")
    with catalog.transaction() as connection:
        assert undoing.finish_undo(connection, run_id, left.tenant_id, version="0001")
        assert not undoing.finish_undo(connection, run_id, left.tenant_id, version="0001")


def test_new_tenants_are_born_with_the_last_run_that_is_not_undone_everywhere(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], catalog: Catalog
) -> None:
    fleet = new_fleet(2)
    folder = sql_folder(_0001_a="create table a ()")
    first = fleet.roll_out(folder).run.id
    second = fleet.roll_out(sql_folder(_0002_b="create table b ()")).run.id
    assert latest(catalog) == second
    undo(catalog, second, "t0")
    assert latest(catalog) == second
    undo(catalog, second, "t1")
    assert latest(catalog) == first
    assert folder.exists()


def test_what_a_run_left_and_who_came_after_it_is_known(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], catalog: Catalog
) -> None:
    fleet = new_fleet(2)
    first = fleet.roll_out(sql_folder(_0001_a="create table a ()")).run.id
    fleet.sql("t1", "create table b ()")
    second = fleet.roll_out(sql_folder(_0002_b="create table b ()")).run.id
    with catalog.transaction() as connection:
        found = {each.slug: each for each in undoing.left_by(connection, second)}
        assert (found["t0"].outcome, list(found["t0"].applied), found["t0"].to_version) == ("applied", ["0002"], "0002")
        assert (found["t1"].outcome, list(found["t1"].applied)) == ("failed", [])
        assert undoing.changed_since(connection, first) == {found["t0"].tenant_id: second}
        assert undoing.changed_since(connection, second) == {}
        assert undoing.last_run_of(connection, found["t0"].tenant_id) == second
        assert undoing.last_run_of(connection, found["t1"].tenant_id) == first
    undo(catalog, second, "t0")
    with catalog.transaction() as connection:
        assert undoing.changed_since(connection, first) == {}
        assert undoing.last_run_of(connection, found["t0"].tenant_id) == first
        # Begun one way, it may be ended another way; what is finished stays.
        again = undoing.begin_undo(connection, second, found["t0"].tenant_id, how="down", preserved_as=None, by="x")
        assert (again.how, again.preserved_as, again.version) == ("restore", "kept", "0001")
