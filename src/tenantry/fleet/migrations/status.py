"""Where the fleet stands: versions and tenants by the catalog, the last run's failures; the ledgers, when asked.

Reading the catalog wakes nobody. ``check_ledgers`` connects to every tenant, changes nothing there and tells where
the catalog's cache disagrees.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Final

import psycopg

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import runs, schemas
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.quarantine import Quarantined, quarantined
from tenantry.fleet.catalog.records import Run, RunTenant
from tenantry.fleet.catalog.schemas import Sighting
from tenantry.fleet.migrations.apply import NO_FOLDER, Bounds
from tenantry.fleet.migrations.fingerprint import ALGORITHM
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.per_tenant import FolderPerTenant, folder_of
from tenantry.fleet.migrations.plan import Plan, Standing, make_plan
from tenantry.fleet.migrations.ports import Tenants
from tenantry.fleet.migrations.results import Failure, MigrationFailed, run_document, tenant_document
from tenantry.fleet.migrations.session import TenantSession, connect, sql_failure
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug

NEVER_READ: Final = "unknown"
"""The version of a tenant whose ledger nobody has read."""
FAILURES_MAX: Final = 1_000
"""Failures of the last run that are told."""
NOTHING_APPLIED: Final = "none"
"""The version of a tenant whose ledger is empty."""


EXAMPLES_MAX: Final = 3
"""Tenants of a version that are named."""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """How many tenants stand at one version. ``place`` is its index in the folder, None for a version not in it."""

    version: str
    tenants: int
    place: int | None
    behind: int | None = None
    """How many migrations of the folder they lack; None where that cannot be told."""
    examples: tuple[TenantSlug, ...] = ()


@dataclass(frozen=True, slots=True)
class Skew:
    """How far apart the tenants are, of those whose version the folder has."""

    oldest: str
    newest: str
    migrations: int
    """Between the two; 0 when all stand at one version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The fleet by the catalog."""

    plan: Plan
    versions: tuple[VersionRow, ...]
    """Newest first; versions without tenants are left out."""
    standings: dict[Standing, int]
    last_run: Run | None
    last_failures: tuple[RunTenant, ...]
    skew: Skew | None = None
    """None where no tenant stands at a version of the folder."""
    quarantined: tuple[Quarantined, ...] = ()
    """Those that the last run that visited them could not migrate."""
    drifted: tuple[Sighting, ...] = ()
    """Those whose schema was not their version's when somebody last looked."""

    def as_dict(self) -> dict[str, object]:
        return {
            **self.plan.as_dict(),
            "versions": [
                {"version": row.version, "tenants": row.tenants, "behind": row.behind} for row in self.versions
            ],
            "skew": asdict(self.skew) if self.skew else None,
            "standings": dict(self.standings),
            "quarantined": [
                {
                    "tenant": each.slug,
                    "run_id": each.run_id,
                    "failed_at": each.failed_at.isoformat(),
                    "attempts": each.attempts,
                    "failure": each.failure,
                }
                for each in self.quarantined
            ],
            "drifted": [
                {
                    "tenant": each.slug,
                    "schema_version": each.version,
                    "differences_total": each.differences,
                    "seen_at": each.seen_at.isoformat() if each.seen_at else None,
                }
                for each in self.drifted
            ],
            "last_run": run_document(self.last_run) if self.last_run else None,
            "last_failures": [tenant_document(tenant) for tenant in self.last_failures],
        }


def read_status(folder: Format, tenants: Iterable[TenantRef], catalog: Catalog | None = None) -> Status:
    """The fleet's versions by the catalog, against ``folder``, and what failed in the last run."""
    plan = make_plan(folder, tenants)
    rows = _rows(folder, plan)
    latest, failures = (None, []) if catalog is None else _latest(catalog)
    selected = {each.tenant.slug for each in plan.tenants}
    left, drifted = ([], []) if catalog is None else _left(catalog)
    return Status(
        plan=plan,
        versions=tuple(sorted(rows, key=_newest_first)),
        standings=dict(Counter(each.standing for each in plan.tenants)),
        last_run=latest,
        last_failures=tuple(failures),
        skew=_skew(rows),
        quarantined=tuple(each for each in left if each.slug in selected),
        drifted=tuple(each for each in drifted if each.slug in selected),
    )


def _rows(folder: Format, plan: Plan) -> list[VersionRow]:
    place_of = {migration.version: place for place, migration in enumerate(folder.migrations)}
    tenants_at: defaultdict[str, list[TenantSlug]] = defaultdict(list)
    counted: Counter[str] = Counter()
    for each in plan.tenants:
        version = _version_of(each.tenant.known, folder.name)
        counted[version] += 1
        if len(tenants_at[version]) < EXAMPLES_MAX:
            tenants_at[version].append(each.tenant.slug)
    newest = len(folder.migrations) - 1
    rows: list[VersionRow] = []
    for version, count in counted.items():
        place = -1 if version == NOTHING_APPLIED else place_of.get(version)
        behind = None if place is None or isinstance(folder, FolderPerTenant) else newest - place
        rows.append(VersionRow(version, count, place_of.get(version), behind, tuple(tenants_at[version])))
    return rows


def _skew(rows: Sequence[VersionRow]) -> Skew | None:
    """Pure. Whoever has nothing applied counts as before the first version."""
    known = [row for row in rows if row.behind is not None]
    if not known:
        return None
    oldest, newest = max(known, key=_behind), min(known, key=_behind)
    return Skew(oldest.version, newest.version, _behind(oldest) - _behind(newest))


def _behind(row: VersionRow) -> int:
    assert row.behind is not None
    return row.behind


def _left(catalog: Catalog) -> tuple[list[Quarantined], list[Sighting]]:
    with catalog.transaction() as connection:
        return (
            quarantined(connection, limit=FAILURES_MAX),
            schemas.drifted(connection, algorithm=ALGORITHM, limit=FAILURES_MAX),
        )


def _latest(catalog: Catalog) -> tuple[Run | None, list[RunTenant]]:
    with catalog.transaction() as connection:
        run = runs.latest_run(connection)
        if run is None:
            return None, []
        if not run.counts:
            run = replace(run, counts=runs.counts(connection, run.id))
        return run, runs.run_tenants(connection, run.id, outcomes=["failed"], limit=FAILURES_MAX)


def _version_of(known: SchemaState | None, format_name: str) -> str:
    if known is None or known.format != format_name:
        return NEVER_READ
    return known.version or NOTHING_APPLIED


def _newest_first(row: VersionRow) -> tuple[int, int, str]:
    """Versions the folder lacks come first (they are newer), then its own, then nothing applied, then unknown."""
    if row.place is not None:
        return 1, -row.place, row.version
    last = {NOTHING_APPLIED: 2, NEVER_READ: 3}
    return last.get(row.version, 0), 0, row.version


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCheck:
    """What one tenant's ledger says, beside what the catalog says. ``ledger`` is None where it could not be read."""

    slug: TenantSlug
    catalog: SchemaState | None
    ledger: SchemaState | None
    pending: tuple[str, ...] = ()
    objections: tuple[str, ...] = ()
    failure: Failure | None = None

    @property
    def agrees(self) -> bool:
        """Whether the catalog's cache is right; a ledger that was not read is no agreement."""
        return self.ledger is not None and self.ledger == self.catalog

    def as_dict(self) -> dict[str, object]:
        return {
            "tenant": self.slug,
            "agrees": self.agrees,
            "catalog_version": self.catalog.version if self.catalog else None,
            "ledger_version": self.ledger.version if self.ledger else None,
            "pending": list(self.pending),
            "objections": list(self.objections),
            "failure": str(self.failure) if self.failure else None,
        }


def check_ledgers(
    folder: Format,
    selected: Iterable[TenantRef],
    tenants: Tenants,
    *,
    jobs: int,
    bounds: Bounds | None = None,
) -> Iterator[LedgerCheck]:
    """Reads each tenant's ledger, ``jobs`` at a time, in the order given. Wakes tenants; changes nothing anywhere."""
    waiting = iter(selected)
    reading = bounds or Bounds()

    def check(tenant: TenantRef) -> LedgerCheck:
        return _check(folder, tenant, tenants.dsn, reading)

    with ThreadPoolExecutor(jobs, thread_name_prefix="ledger") as pool:
        # In batches, so that a fleet of any size has a bounded number of tasks and results waiting.
        while batch := list(islice(waiting, jobs * 4)):
            yield from pool.map(check, batch)


def _check(folders: Format, tenant: TenantRef, dsn: Callable[[TenantSlug], str], bounds: Bounds) -> LedgerCheck:
    folder = folder_of(folders, tenant.slug)
    if folder is None:
        return LedgerCheck(slug=tenant.slug, catalog=tenant.known, ledger=None, failure=NO_FOLDER)
    try:
        connection = connect(
            dsn(tenant.slug),
            deadline_seconds=bounds.connect_deadline_seconds,
            connect_seconds=bounds.connect_seconds,
            stopping=lambda: False,
        )
        with closing(connection):
            session = TenantSession(connection)
            session.begin_reading(lock_seconds=bounds.lock_seconds)
            judgement = folder.judge(folder.read_ledger(session))
            session.rollback()
    except MigrationFailed as error:
        return LedgerCheck(slug=tenant.slug, catalog=tenant.known, ledger=None, failure=error.failure)
    except psycopg.Error as error:
        failure = sql_failure(error, lost=False)
        return LedgerCheck(slug=tenant.slug, catalog=tenant.known, ledger=None, failure=failure)
    except TenantryError as error:
        failure = Failure(kind="connect", message=error.message, next_step=error.next_step)
        return LedgerCheck(slug=tenant.slug, catalog=tenant.known, ledger=None, failure=failure)
    return LedgerCheck(
        slug=tenant.slug,
        catalog=tenant.known,
        ledger=judgement.state,
        pending=tuple(migration.version for migration in judgement.pending),
        objections=tuple(each.message for each in judgement.objections),
    )
