"""All that is found of a fleet, in the order in which a reader wants it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import health as rows
from tenantry.fleet.catalog import providers, usage
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.current import REVISION
from tenantry.fleet.catalog.health import Connections, Still, Waiting
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord, Serving
from tenantry.fleet.health import catalog as said
from tenantry.fleet.health.projects import of_projects
from tenantry.fleet.jobs.jobs import Jobs, PassShown
from tenantry.fleet.providers.check import Checked, check_providers
from tenantry.fleet.providers.open import Providers
from tenantry.runtime.findings import Finding

AT_ONCE_MAX: Final = 8
"""Providers that are listed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the catalog says, read at one moment."""

    now: datetime
    connections: Connections
    unfinished: Waiting
    leaving: Waiting
    still: Still
    versions: Sequence[tuple[ProviderId, int, int]]
    schemas: Sequence[tuple[str | None, str | None, int]]
    records: Sequence[ProviderRecord]
    servings: Sequence[Serving]
    collected_at: Mapping[ProviderId, datetime]


def examine(
    catalog: Catalog,
    opened: Providers,
    jobs: Jobs,
    *,
    everything: bool = False,
    at_home: Collection[int] | None = None,
    today: date | None = None,
) -> list[Finding]:
    """Blocking; bounded in what it asks unless ``everything`` is wanted, which lists every project of every provider.

    ``at_home``: the majors that the home provider's machine has builds of, where somebody knows.
    """
    try:
        seen = _read(catalog)
        passes = jobs.passes() if isinstance(seen, _Seen) else []
    except TenantryError as error:
        return [Finding("catalog", "wrong", error.message, error.next_step)]
    if isinstance(seen, Finding):
        return [seen]
    checked = check_providers(seen.records, seen.servings, opened.opened)
    return [
        said.of_revision(REVISION, sum(count for _, _, count in seen.versions)),
        said.of_connections(seen.connections),
        *_work(seen, passes),
        said.of_schemas(seen.schemas),
        *(_provider(each, seen) for each in checked),
        *said.of_versions(
            seen.versions,
            {each.id: each.name for each in seen.records},
            today or datetime.now(UTC).date(),
            at_home=at_home,
        ),
        *said.of_usage(_collected(seen, checked, opened), seen.connections.workers, seen.now),
        *_projects(catalog, opened, checked, everything=everything),
    ]


def _read(catalog: Catalog) -> _Seen | Finding:
    with catalog.transaction() as connection:
        revision = rows.revision(connection)
        if revision != REVISION:
            # What an older or newer catalog has in its tables is not known here.
            return said.of_revision(revision, 0)
        return _Seen(
            now=usage.clock(connection),
            connections=rows.connections(connection, silent_seconds=said.SILENT_SECONDS),
            unfinished=rows.unfinished(connection, late_seconds=said.LATE_SECONDS),
            leaving=rows.leaving(connection, late_seconds=said.PURGE_LATE_SECONDS),
            still=rows.still(connection, late_seconds=said.LATE_SECONDS),
            versions=rows.versions(connection),
            schemas=rows.schemas(connection),
            records=providers.providers(connection),
            servings=providers.servings(connection),
            collected_at=usage.collected_at(connection),
        )


def _work(seen: _Seen, passes: Sequence[PassShown]) -> list[Finding]:
    workers = seen.connections.workers
    return [
        said.of_unfinished(seen.unfinished, workers),
        said.of_leaving(seen.leaving, workers),
        *said.of_jobs(seen.still, workers, passes),
    ]


def _provider(checked: Checked, seen: _Seen) -> Finding:
    record = checked.provider
    tenants = sum(count for provider, _, count in seen.versions if provider == record.id)
    facts: dict[str, object] = {"provider": record.name, "kind": record.kind, "tenants": tenants}
    if checked.health is None:
        return Finding("provider", "wrong", f"{record.name}: {'; '.join(checked.wrong)}", checked.next_step, facts)
    facts |= {"version": checked.health.version, "clock_seconds": checked.health.clock_seconds}
    found = f"{record.name} ({record.kind}) answers: {checked.health.version}"
    if checked.wrong:
        return Finding("provider", "wrong", f"{found}; {'; '.join(checked.wrong)}", checked.next_step, facts)
    if checked.health.notes:
        return Finding("provider", "note", f"{found}; {'; '.join(checked.health.notes)}", facts=facts)
    return Finding("provider", "ok", found, facts=facts)


def _collected(seen: _Seen, checked: Sequence[Checked], opened: Providers) -> dict[str, datetime | None]:
    """Of providers that answer and meter; of the others it is said elsewhere why nothing comes."""
    return {
        each.provider.name: seen.collected_at.get(each.provider.id)
        for each in checked
        if each.health is not None and "usage" in opened.opened(each.provider).features
    }


def _projects(catalog: Catalog, opened: Providers, checked: Sequence[Checked], *, everything: bool) -> list[Finding]:
    """Of those that answer, some at a time: each takes a connection to the catalog now and then."""
    answering = [each.provider for each in checked if each.health is not None]
    if not answering:
        return []

    def look(record: ProviderRecord) -> list[Finding]:
        return of_projects(catalog, record, opened.opened(record), everything=everything)

    with ThreadPoolExecutor(min(AT_ONCE_MAX, len(answering))) as pool:
        return [found for findings in pool.map(look, answering) for found in findings]
