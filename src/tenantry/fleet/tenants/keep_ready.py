"""Keep projects ready for sign-ups: as many as are wanted for each place that takes new tenants.

A pass that looks at the whole state. A row is there before its project, and nobody claims one that is not ``ready``; so
whatever dies wherever, the next pass completes or removes what was begun, and no project is left that no row knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from tenantry.errors import InvalidInput, TenantryError
from tenantry.fleet.catalog import providers, ready
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.ready import ReadyId, ReadyProject
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord, Serving
from tenantry.fleet.providers.ports import Limits, Provider
from tenantry.fleet.tenants.mend import Opened
from tenantry.fleet.tenants.names import READY_PREFIX, ready_name
from tenantry.fleet.tenants.project import project_of
from tenantry.runtime.failpoints import failpoint

READY_MAX: Final = 1_000
"""Of one place."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """What the ready projects of one place are alike in."""

    provider_id: ProviderId
    region: str | None
    pg_version: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    add: Mapping[Shelf, int]
    drop: Sequence[ReadyProject]


def wanted_shelves(servings: Sequence[Serving], *, count: int, pg_version: int | None) -> dict[Shelf, int]:
    """How many shall be ready of what. Without regions everything goes home, as placement has it. Pure."""
    if not servings:
        return {Shelf(ProviderId(HOME_PROVIDER), None, pg_version): count}
    return {
        Shelf(each.provider_id, each.region, pg_version): min(
            count, max(0, count if each.projects_max is None else each.projects_max - each.projects)
        )
        for each in servings
        if each.accepts_new
    }


def decide(rows: Sequence[ReadyProject], wanted: Mapping[Shelf, int]) -> Decision:
    """What is to be made and what is too many: first what is not made yet, then the newest. Pure."""
    there: defaultdict[Shelf, list[ReadyProject]] = defaultdict(list)
    for row in rows:
        there[Shelf(row.provider_id, row.wanted_region, row.wanted_pg_version)].append(row)
    add = {
        shelf: count - len(there.get(shelf, ())) for shelf, count in wanted.items() if count > len(there.get(shelf, ()))
    }
    drop: list[ReadyProject] = []
    for shelf, kept in there.items():
        kept.sort(key=lambda row: (row.state == "making", row.created_at, row.id))
        drop += kept[wanted.get(shelf, 0) :]
    return Decision(add, drop)


def pass_(catalog: Catalog, opened: Opened, count: int, *, pg_version: int | None = None) -> list[str]:
    """Returns a sentence for what it made and removed, and for each place where it could not."""
    if not 0 <= count <= READY_MAX:
        raise InvalidInput(f"{count} ready projects: between 0 and {READY_MAX}")
    pool = _Pool(catalog, opened)
    with catalog.transaction() as connection:
        records = {record.id: record for record in providers.providers(connection)}
        waiting = ready.ready_projects(connection)
    if not waiting and count == 0:
        return []
    for provider_id in {row.provider_id for row in waiting if row.state == "ready"}:
        if provider_id in records:
            pool.look_for(records[provider_id], [row for row in waiting if row.provider_id == provider_id])
    with catalog.transaction() as connection:
        ready.hold_pool(connection)
        decision = decide(ready.ready_projects(connection), _wanted(connection, count, pg_version))
        for shelf, number in decision.add.items():
            ready.add_ready(
                connection, shelf.provider_id, region=shelf.region, pg_version=shelf.pg_version, count=number
            )
    failpoint("ready.intended")
    with catalog.transaction() as connection:
        rows = ready.ready_projects(connection)
    dropped = {row.id for row in decision.drop}
    for provider_id in dict.fromkeys(row.provider_id for row in rows):
        if provider_id in records:
            mine = [row for row in rows if row.provider_id == provider_id]
            pool.work_on(records[provider_id], mine, dropped)
    return pool.said


def _wanted(connection: Connection, count: int, pg_version: int | None) -> dict[Shelf, int]:
    return wanted_shelves(providers.servings(connection), count=count, pg_version=pg_version)


class _Pool:
    """One pass at the providers."""

    def __init__(self, catalog: Catalog, opened: Opened) -> None:
        self._catalog = catalog
        self._opened = opened
        self.said: list[str] = []

    def look_for(self, record: ProviderRecord, rows: Sequence[ReadyProject]) -> None:
        """Nobody is to be given a project that is not there any more."""
        try:
            provider = self._opened(record)
            there = {project.id for project in provider.find_projects(READY_PREFIX)}
            for row in rows:
                # A provider that keeps no names has not told of it yet.
                if row.state == "ready" and row.project_id not in there and not provider.find_projects(str(row.id)):
                    self._unmake(row.id)
                    self.said.append(f"{record.name}: a ready project was gone, and another is made")
        except TenantryError as error:
            self.said.append(f"{record.name}: its ready projects were not looked at: {error}")

    def work_on(self, record: ProviderRecord, rows: Sequence[ReadyProject], dropped: Collection[ReadyId]) -> None:
        made = removed = 0
        try:
            provider = self._opened(record)
            for row in rows:
                if row.id in dropped:
                    removed += self._remove(provider, row.id)
                elif row.state == "making":
                    made += self._make(provider, row.id)
        except TenantryError as error:
            self.said.append(f"{record.name}: ready projects could not be made: {error}")
        if made:
            self.said.append(f"{record.name}: {made} made ready")
        if removed:
            self.said.append(f"{record.name}: {removed} removed that nobody needs to be ready")

    def _make(self, provider: Provider, ready_id: ReadyId) -> bool:
        """False when somebody else is at it. What would be refused for ever is not tried again by itself."""
        with self._catalog.transaction() as connection:
            row = ready.hold_ready(connection, ready_id)
            if row is None or row.state != "making":
                return False
            region = row.wanted_region
            if region is not None:
                region = providers.serving_of(connection, row.provider_id, region) or region
            made = project_of(
                provider,
                row.id,
                name=ready_name(row.id),
                region=region,
                pg_version=row.wanted_pg_version,
                limits=Limits(),
                fresh=False,
                made=lambda: failpoint("ready.called"),
            )
            if isinstance(made, InvalidInput):
                ready.drop_ready(connection, row.id)
            else:
                project, home = made
                ready.mark_made(
                    connection,
                    row.id,
                    project_id=project.id,
                    region=row.wanted_region or project.region,
                    pg_version=project.pg_version,
                    database_name=home.database_name,
                    role_name=home.role_name,
                )
            failpoint("ready.recorded")
        if isinstance(made, InvalidInput):
            raise made
        return True

    def _unmake(self, ready_id: ReadyId) -> bool:
        """From now on nobody claims it. False when somebody just has."""
        with self._catalog.transaction() as connection:
            row = ready.hold_ready(connection, ready_id)
            if row is None:
                return False
            ready.mark_unmade(connection, row.id)
        failpoint("ready.unmade")
        return True

    def _remove(self, provider: Provider, ready_id: ReadyId) -> bool:
        if not self._unmake(ready_id):
            return False
        with self._catalog.transaction() as connection:
            row = ready.hold_ready(connection, ready_id)
            if row is None or row.state != "making":
                return False
            for project in provider.find_projects(str(row.id)):
                provider.delete_project(project.id, for_good=True)
            failpoint("ready.removed")
            ready.drop_ready(connection, row.id)
        return True
