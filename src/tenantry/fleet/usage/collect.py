"""Collects usage from every provider, for the days that may still change since it last told everything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final

from tenantry.errors import TenantryError, Unavailable
from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog import usage as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderRecord, Tenant
from tenantry.fleet.catalog.usage import Amounts
from tenantry.fleet.providers.ports import Provider, UsedOnDay, no_feature

DAYS_MAX: Final = 58
"""How far back a provider is asked: Neon and cells keep 60 days, and clocks differ."""
LATE: Final = timedelta(hours=6)
"""A day is final when its provider was asked so long after its end: meters report late."""
BATCH_ROWS: Final = 2_000
"""Days of tenants that one transaction writes."""
PROVIDER_SECONDS_MAX: Final = 1_500.0
"""What one provider may take: its next turn begins where it left off, and the others have theirs."""

Opening = Callable[[ProviderRecord], Provider]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What came of asking one provider."""

    provider: str
    metered: bool
    """False: it has no usage to tell, and that is as it should be."""
    since: date | None = None
    until: date | None = None
    """Which days were asked for."""
    rows: int = 0
    """Days of tenants that were written, because they were new or had changed."""
    at: datetime | None = None
    """The last time that it told everything."""
    problem: str | None = None
    next_step: str = ""

    def sentence(self) -> str:
        if not self.metered:
            return f"provider {self.provider} has no metered usage"
        if self.problem is not None:
            return f"usage of provider {self.provider} was not collected: {self.problem}"
        return f"usage of provider {self.provider} from {self.since} on: {self.rows} days of tenants changed"


def first_open_day(collected_at: datetime | None, now: datetime) -> date:
    """The first day that may still change, for a provider that last told everything at ``collected_at``. Pure."""
    oldest = now.date() - timedelta(days=DAYS_MAX)
    return oldest if collected_at is None else max(oldest, (collected_at - LATE).astimezone(UTC).date())


def collect(catalog: Catalog, opening: Opening) -> list[Collected]:
    """Asks all providers, one after another. One that fails is said, and asked again for the same days next time."""
    with catalog.transaction() as connection:
        known = providers.providers(connection)
        last = rows.collected_at(connection)
    return [_of_provider(catalog, opening, record, last.get(record.id)) for record in known]


def _of_provider(catalog: Catalog, opening: Opening, record: ProviderRecord, last: datetime | None) -> Collected:
    written, since, until = 0, None, None
    try:
        provider = opening(record)
        if "usage" not in provider.features:
            return Collected(provider=record.name, metered=False)
        with catalog.transaction() as connection:
            # Before it is asked: whatever happens meanwhile is in the next answer.
            asked_at = rows.clock(connection)
        since, until = first_open_day(last, asked_at), asked_at.date()
        for batch in _batches(_in_time(record.name, provider.usage(since, until))):
            written += _put(catalog, record, asked_at, batch)
        with catalog.transaction() as connection:
            rows.mark_collected(connection, record.id, asked_at)
    except TenantryError as error:
        return Collected(
            provider=record.name, metered=True, since=since, until=until, rows=written, at=last,
            problem=error.message, next_step=error.next_step,
        )  # fmt: skip
    return Collected(provider=record.name, metered=True, since=since, until=until, rows=written, at=asked_at)


def collect_of_tenant(catalog: Catalog, record: ProviderRecord, provider: Provider, tenant: Tenant, since: date) -> int:
    """One tenant's days from ``since`` on, in two or three requests. Raises what asking raises, and NotSupported."""
    if "usage" not in provider.features:
        raise no_feature(record.name, record.kind, "usage")
    if tenant.project_id is None:
        return 0
    with catalog.transaction() as connection:
        asked_at = rows.clock(connection)
    today = asked_at.date()
    first = max(since, today - timedelta(days=DAYS_MAX))
    return sum(
        _put(catalog, record, asked_at, batch) for batch in _batches(provider.usage(first, today, [tenant.project_id]))
    )


def _put(catalog: Catalog, record: ProviderRecord, asked_at: datetime, batch: Sequence[UsedOnDay]) -> int:
    # Of a project that two pages had, the later word counts.
    said = {
        (used.project_id, used.day): Amounts(
            active_seconds=used.active_seconds,
            compute_seconds=used.compute_seconds,
            written_bytes=used.written_bytes,
            sent_bytes=used.sent_bytes,
            storage_byte_days=used.storage_bytes,
        )
        for used in batch
    }
    with catalog.transaction() as connection:
        return rows.put_usage(connection, record.id, asked_at, said)


def _batches(used: Iterator[UsedOnDay]) -> Iterator[list[UsedOnDay]]:
    while batch := list(islice(used, BATCH_ROWS)):
        yield batch


def _in_time(name: str, used: Iterator[UsedOnDay]) -> Iterator[UsedOnDay]:
    deadline = time.monotonic() + PROVIDER_SECONDS_MAX
    for each in used:
        if time.monotonic() > deadline:
            raise Unavailable(f"provider {name} was still telling its usage after {PROVIDER_SECONDS_MAX:g} s")
        yield each
