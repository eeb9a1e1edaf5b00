"""What was rolled out, when and by whom: runs with their waves, and everything that was ever done to one tenant.

The catalog remembers the last runs; what a tenant has is what its ledger says. Wakes nobody, but for ``read_ledger``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, cast

import psycopg

from tenantry.fleet.catalog import runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Run, RunTenant, Tenant, Wave
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.formats.base import Format, Judgement
from tenantry.fleet.migrations.results import MigrationFailed, counts_of, run_document, tenant_document
from tenantry.fleet.migrations.run import STALLED_SECONDS
from tenantry.fleet.migrations.session import TenantSession, connect, sql_failure

FAILED_MAX: Final = 1_000
"""Tenants that failed in a run, of which a story tells."""
ENTRIES_MAX: Final = runs.RUNS_KEPT
"""Runs of one tenant that are told: as many as are remembered at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One run with its waves and those that failed."""

    run: Run
    waves: tuple[Wave, ...]
    failed: tuple[RunTenant, ...]
    """At most FAILED_MAX; ``counts`` has how many there are."""

    @property
    def counts(self) -> dict[str, int]:
        return counts_of(self.run)

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it is open."""
        finished = self.run.finished_at
        return None if finished is None else (finished - self.run.started_at).total_seconds()

    def as_dict(self) -> dict[str, object]:
        return {
            **run_document(self.run),
            "seconds": self.seconds,
            "waves": [wave_document(each) for each in self.waves],
            "failed": [tenant_document(each) for each in self.failed],
        }


def wave_document(wave: Wave) -> dict[str, object]:
    """A wave for programs."""
    return {
        "number": wave.number,
        "wave": wave.name,
        "state": wave.state,
        "tenants": wave.tenants,
        "applied": wave.applied,
        "failed": wave.failed,
        "waiting": wave.waiting,
        "seconds_p50": wave.seconds_p50,
        "seconds_p95": wave.seconds_p95,
        "started_at": wave.started_at.isoformat() if wave.started_at else None,
        "finished_at": wave.finished_at.isoformat() if wave.finished_at else None,
        "objections": objections_of(wave),
    }


def objections_of(wave: Wave) -> list[str]:
    """What its gates said against the next wave."""
    said = (wave.verdict or {}).get("objections")
    return [str(each) for each in cast("list[object]", said)] if isinstance(said, list) else []


def read_runs(catalog: Catalog, *, limit: int) -> list[Run]:
    """The newest first; open ones with what is done by now."""
    with catalog.transaction() as connection:
        return [
            _counted(each, lambda run: runs.counts(connection, run)) for each in runs.runs_page(connection, limit=limit)
        ]


def read_story(catalog: Catalog, run: Run) -> Story:
    """The run with all that the catalog knows of it."""
    with catalog.transaction() as connection:
        return Story(
            run=_counted(run, lambda run_id: runs.counts(connection, run_id)),
            waves=tuple(runs.waves(connection, run.id, stalled_seconds=STALLED_SECONDS)),
            failed=tuple(runs.run_tenants(connection, run.id, outcomes=["failed"], limit=FAILED_MAX)),
        )


def _counted(run: Run, counts: Callable[[str], Mapping[str, object]]) -> Run:
    return run if run.counts else replace(run, counts=counts(run.id))


# ------------------------------------------------------------------------------------------------- of one tenant


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run did to the tenant."""

    run: Run
    tenant: RunTenant

    def as_dict(self) -> dict[str, object]:
        return {
            "run_id": self.run.id,
            "created_by": self.run.created_by,
            "target": self.run.target,
            "from_version": self.tenant.from_version,
            "finished_at": self.tenant.finished_at.isoformat() if self.tenant.finished_at else None,
            **tenant_document(self.tenant),
        }


def read_entries(catalog: Catalog, tenant: Tenant) -> list[Entry]:
    """What runs did to this tenant, the latest first, as far as they are remembered."""
    with catalog.transaction() as connection:
        of = {run.id: run for run in runs.runs_page(connection, limit=runs.RUNS_KEPT)}
        found = runs.runs_of_tenant(connection, tenant.id, limit=ENTRIES_MAX)
    return [Entry(of[each.run_id], each) for each in found if each.run_id in of]


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One version of the folder in one tenant: whether its ledger has it, and which run is known to have applied it.

    ``run`` is None for what another tool applied, or a run that is forgotten.
    """

    version: str
    applied: bool
    run: str | None
    at: datetime | None

    @property
    def disagrees(self) -> bool:
        """A run applied it, and the ledger lacks it: somebody went back since."""
        return self.run is not None and not self.applied

    def as_dict(self) -> dict[str, object]:
        return {
            "version": self.version,
            "in_ledger": self.applied,
            "run_id": self.run,
            "at": self.at.isoformat() if self.at else None,
            "disagrees": self.disagrees,
        }


def beside(entries: Sequence[Entry], folder: Format, judgement: Judgement) -> list[LedgerLine]:
    """The folder's versions, oldest first, by the ledger and by the catalog. Pure."""
    by: dict[str, Entry] = {}
    for entry in reversed(entries):
        by |= dict.fromkeys(entry.tenant.applied, entry)
    pending = {migration.version for migration in judgement.pending}
    return [
        LedgerLine(
            version=migration.version,
            applied=migration.version not in pending,
            run=by[migration.version].run.id if migration.version in by else None,
            at=by[migration.version].tenant.finished_at if migration.version in by else None,
        )
        for migration in folder.migrations
    ]


def read_ledger(folder: Format, dsn: str, bounds: Bounds) -> Judgement:
    """What the tenant's ledger means for its folder. Wakes the tenant, changes nothing. Raises MigrationFailed."""
    connection = connect(
        dsn,
        deadline_seconds=bounds.connect_deadline_seconds,
        connect_seconds=bounds.connect_seconds,
        stopping=lambda: False,
    )
    try:
        with closing(connection):
            session = TenantSession(connection)
            session.begin_reading(lock_seconds=bounds.lock_seconds)
            return folder.judge(folder.read_ledger(session))
    except psycopg.Error as error:
        raise MigrationFailed(sql_failure(error, lost=False)) from error
