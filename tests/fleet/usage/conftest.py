"""Providers that meter, and tenants of theirs in a real catalog."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time
from typing import cast

import pytest

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import providers, queries, usage
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord, Tenant
from tenantry.fleet.providers.ports import Feature, Provider, UsedOnDay
from tenantry.neon.ids import ProjectId


class Meter:
    """Tells what it was given, and remembers what it was asked."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.features: frozenset[Feature] = frozenset(["usage"])
        self.used: dict[tuple[ProjectId, date], tuple[int, int, int, int, int]] = {}
        self.asked: list[tuple[date, date, Sequence[ProjectId] | None]] = []
        self.fails_after: int | None = None
        """So many days of projects it tells, and then it is away."""
        self.failure: TenantryError | None = None

    def usage(self, since: date, until: date, projects: Sequence[ProjectId] | None = None) -> Iterator[UsedOnDay]:
        self.asked.append((since, until, projects))
        told = 0
        for (project, day), (active, compute, written, sent, storage) in sorted(self.used.items()):
            if not since <= day <= until or (projects is not None and project not in projects):
                continue
            if self.failure is not None and told == self.fails_after:
                raise self.failure
            told += 1
            yield UsedOnDay(
                project_id=project, day=day, active_seconds=active, compute_seconds=compute,
                written_bytes=written, sent_bytes=sent, storage_bytes=storage,
            )  # fmt: skip
        if self.failure is not None:
            raise self.failure


class Metered:
    """A fleet's providers, each a meter."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.meters: dict[ProviderId, Meter] = {ProviderId(HOME_PROVIDER): Meter("home")}
        self._numbers = itertools.count(1)

    @property
    def home(self) -> Meter:
        return self.meters[ProviderId(HOME_PROVIDER)]

    def add(self, name: str) -> tuple[ProviderId, Meter]:
        with self.catalog.transaction() as connection:
            record, _ = providers.add_provider(
                connection, name=name, kind="neon", api_url="https://api.example", api_ca=None, secret_from="env:KEY"
            )
        self.meters[record.id] = Meter(name)
        return record.id, self.meters[record.id]

    def opened(self, record: ProviderRecord) -> Provider:
        """As a fleet opens them: only what usage asks of one is there."""
        return cast("Provider", self.meters[record.id])

    def tenant(self, slug: str, provider: ProviderId | None = None, plan: str = "launch") -> Tenant:
        """One that is ready."""
        with self.catalog.transaction() as connection:
            intended, _ = queries.intend_tenant(
                connection, slug=slug, name=slug.title(), email=None, plan=plan, region=None, pg_version=None,
                provider_id=provider or ProviderId(HOME_PROVIDER),
            )  # fmt: skip
            return queries.mark_ready(
                connection, intended.id, project_id=ProjectId(f"cool-sun-{next(self._numbers)}"), region="local",
                pg_version=18, database_name="neondb", role_name="neondb_owner",
            )  # fmt: skip

    def delete(self, tenant: Tenant) -> None:
        with self.catalog.transaction() as connection:
            queries.mark_deleting(connection, tenant.id)
            queries.mark_deleted(connection, tenant.id)


@pytest.fixture
def metered(catalog: Catalog) -> Iterator[Metered]:
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE provider SET usage_collected_at = NULL")
    yield Metered(catalog)
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE provider SET usage_collected_at = NULL")


@pytest.fixture
def today(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> date:
    """The day on which usage is collected, which is at noon: it does not end before the test does."""
    clock = usage.clock
    with catalog.transaction() as connection:
        now = clock(connection)
    later = datetime.combine(now.date(), time(12), UTC) - now
    monkeypatch.setattr(usage, "clock", lambda connection: clock(connection) + later)
    return now.date()


@pytest.fixture
def stored(catalog: Catalog) -> Callable[[], dict[tuple[str, date], tuple[int, ...]]]:
    """What the catalog has: by slug and day, compute seconds and bytes sent."""

    def read() -> dict[tuple[str, date], tuple[int, ...]]:
        with catalog.transaction() as connection:
            rows = connection.exec_driver_sql(
                """
                SELECT slug, day, active_seconds, compute_seconds, written_bytes, sent_bytes, storage_bytes
                FROM usage_day JOIN project ON project.id = project_id JOIN customer ON customer.id = customer_id
                """
            ).all()
        return {(row[0], row[1]): tuple(row[2:]) for row in rows}

    return read
