"""How the state of a tenant before a run is kept, by what its provider can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tenantry.errors import InvalidInput, LimitReached
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.migrations.events import Event, TenantFinished
from tenantry.fleet.migrations.restore_point import (
    ASKED_ONE_BY_ONE_MAX,
    NOTE_NONE,
    ProviderPoints,
    RestorePoint,
    Way,
)
from tenantry.fleet.migrations.results import TenantResult
from tenantry.fleet.migrations.run import tenants_of
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.fleet.providers.ports import ListedProject, Provider
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.find import find_tenant
from tenantry.neon.client import NeonClient
from tenantry.testing.fake_api import FakeApi

AT = datetime(2026, 11, 24, 10, 41, tzinfo=UTC)


@dataclass
class Keeper:
    """Keeps every tenant's state in one way."""

    kept: Way
    taken: list[str] = field(default_factory=list)

    def way(self, slug: TenantSlug) -> Way:
        del slug
        return self.kept

    def snapshot(self, slug: TenantSlug) -> RestorePoint:
        self.taken.append(slug)
        if slug == "t1":
            raise LimitReached("it has 100 snapshots", next_step="delete some of them")
        return RestorePoint(kind="snapshot", value=f"snap-{slug}", at=AT)


def roll_out(fleet: Any, directory: Path, keeper: Keeper) -> dict[str, TenantResult]:
    results: dict[str, TenantResult] = {}

    def listen(event: Event) -> None:
        if isinstance(event, TenantFinished):
            results[event.result.slug] = event.result

    run = fleet.work(fleet.begin(directory).run, listen, points=keeper)
    for tenant in tenants_of(fleet.catalog, run):
        point = results[tenant.slug].restore_point
        assert tenant.restore_point == (point.as_dict() if point else None)
    return results


def test_the_position_lies_before_the_first_change_and_is_told_with_the_lock(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    position = "select pg_current_wal_insert_lsn()::text"
    [(before,)] = fleet.sql("t0", position)
    folder = sql_folder(_0001_there="create table there as select pg_current_wal_insert_lsn() as lsn")
    result = roll_out(fleet, folder, Keeper("lsn"))["t0"]
    point = result.restore_point
    assert point is not None
    [(ordered,)] = fleet.sql(
        "t0", f"select '{before}' <= p and p <= (select lsn from there) from (select '{point.value}'::pg_lsn p)"
    )
    assert (point.kind, ordered, result.outcome) == ("lsn", True, "applied")
    fleet.forget()
    assert roll_out(fleet, folder, Keeper("lsn"))["t0"].restore_point is None


def test_a_snapshot_is_taken_only_of_what_is_changed_and_without_it_nothing_is(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, keeper = new_fleet(2), Keeper("snapshot")
    folder = sql_folder(_0001_there="create table there ()")
    results = roll_out(fleet, folder, keeper)
    assert results["t0"].restore_point == RestorePoint(kind="snapshot", value="snap-t0", at=AT)
    failure = results["t1"].failure
    assert failure is not None
    assert (failure.kind, failure.next_step) == ("restore_point", "delete some of them")
    assert fleet.sql("t1", "select to_regclass('there')::text") == [(None,)]
    fleet.forget()
    keeper.taken.clear()
    again = roll_out(fleet, folder, keeper)
    assert (again["t0"].outcome, keeper.taken) == ("current", ["t1"])


def test_where_nothing_can_be_kept_the_result_says_so(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    result = roll_out(new_fleet(1), sql_folder(_0001_there="create table there ()"), Keeper("none"))["t0"]
    assert (result.outcome, result.restore_point, result.notes) == ("applied", None, (NOTE_NONE,))


def test_a_point_is_what_its_document_says() -> None:
    for point in (
        RestorePoint(kind="lsn", value="0/16B3748", at=AT),
        RestorePoint(kind="snapshot", value="snap-x", at=AT),
    ):
        assert RestorePoint.of(point.as_dict()) == point
    with pytest.raises(InvalidInput, match="is not a restore point"):
        RestorePoint.of({"kind": "dump", "value": "x", "at": AT.isoformat()})


class Counted(NeonProvider):
    """Counts how it is asked for histories."""

    lists = 0

    def list_projects(self) -> Any:
        self.lists += 1
        listed: list[ListedProject] = list(super().list_projects())
        return iter(listed)


def test_a_provider_is_asked_for_its_projects_histories_one_by_one_and_then_for_all(catalog: Catalog) -> None:
    with FakeApi() as api, NeonClient(api.base_url, api.key) as client:
        provider = Counted(client)

        def provider_of(tenant: Tenant) -> Provider:
            del tenant
            return provider

        for number in range(3):
            create_tenant(catalog, provider_of, wish(f"T {number}"))
        without = find_tenant(catalog, "t-1").project_id
        assert without is not None
        client.update_project(without, history_retention_seconds=0)
        points = ProviderPoints(lambda slug: find_tenant(catalog, slug), provider_of)
        for asked in range(0, ASKED_ONE_BY_ONE_MAX + 3, 3):
            ways = [points.way(TenantSlug(f"t-{number}")) for number in range(3)]
            assert ways == ["lsn", "snapshot", "lsn"], asked
        assert provider.lists == 1
        provider.features = frozenset()  # pyright: ignore[reportAttributeAccessIssue] - as plain Postgres has none
        assert points.way(TenantSlug("t-0")) == "none"
