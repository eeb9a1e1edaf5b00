"""Rehearse: a plan's migrations are applied to branches of real tenants, by the same code as in a run, and measured.

The branches hold customers' data. Each is written down before it is made, expires by itself, opens with none of the
tenant's passwords, and is deleted for good at the end, or by whoever rehearses next. Tenants themselves are not woken.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psycopg

from tenantry.errors import InvalidInput, NotFound, TenantryError, Unavailable
from tenantry.fleet.catalog import events, queries, rehearsals
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant, TenantId
from tenantry.fleet.migrations.apply import Bounds, Halt, Migrator
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.per_tenant import folder_of
from tenantry.fleet.migrations.lock_watch import LockWatch, Span, Spans
from tenantry.fleet.migrations.measured_session import Measured, MeasuredSession
from tenantry.fleet.migrations.rehearsal import BranchReport, LockReport, Outcome, Rehearsal, checksum_of, report_of
from tenantry.fleet.migrations.results import Failure, TenantResult
from tenantry.fleet.migrations.session import TenantSession
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.migrations.versions import version_before
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.runtime.beating import beating
from tenantry.runtime.clock import Clock, SystemClock
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.telemetry import late_log

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

BRANCHES_AT_ONCE: Final = 2
JOBS_MAX: Final = 32
EXPIRES_SECONDS: Final = 1800.0
"""A branch that nobody renews goes after this."""
RENEW_SECONDS: Final = 600.0
KEPT_HOURS: Final = 24
"""How long a branch stays that is to be looked at."""
BEAT_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 90.0
"""Whoever rehearses and was not heard of for so long is dead."""
SWEPT_MAX: Final = 50
"""Dead rehearsals that one rehearsal clears up; the next finds the rest."""
MADE_SECONDS_MAX: Final = 600.0
"""A branch that takes longer to be made is not waited for; a large one is copied where blocks cannot be shared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearseOptions:
    jobs: int = BRANCHES_AT_ONCE
    """Branches at a time."""
    bounds: Bounds = field(default_factory=Bounds)
    """As in the run that is rehearsed."""
    accept_edited: bool = False
    keep: bool = False
    """The branches stay for KEPT_HOURS."""


@dataclass(frozen=True, slots=True)
class Began:
    tenant: TenantSlug


@dataclass(frozen=True, slots=True)
class Ended:
    report: BranchReport


class Rehearse:
    """Rehearses a folder. One thread calls it."""

    def __init__(
        self,
        catalog: Catalog,
        provider_of: ProviderOf,
        folder: Format,
        *,
        options: RehearseOptions | None = None,
        on_event: Callable[[Began | Ended], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        """``on_event`` is called in the thread of ``execute``, and as a branch begins in threads of its own."""
        self._options = options or RehearseOptions()
        if not 1 <= self._options.jobs <= JOBS_MAX:
            raise InvalidInput(f"jobs is {self._options.jobs}; it is 1 to {JOBS_MAX}")
        self._catalog = catalog
        self._provider_of = provider_of
        self._folder = folder
        self._on_event = on_event
        self._clock = clock or SystemClock()
        self._halt = Halt()
        self._branches: dict[TenantId, tuple[NeonClient, ProjectId, BranchId]] = {}
        """Those that are there, for their renewal."""
        self._left: set[TenantId] = set()
        """Where a branch may be left that could not be deleted."""
        self._renewed = self._clock.monotonic()

    def sweep(self) -> list[str]:
        """Deletes the branches of rehearsals that died; a sentence for each. Safe at any time and by anybody."""
        with self._catalog.transaction() as connection:
            dead = rehearsals.uncleared(connection, silent_seconds=SILENT_SECONDS, limit=SWEPT_MAX)
        return [self._clear(each) for each in dead]

    def execute(self, tenants: Sequence[tuple[TenantSlug, Sequence[str]]]) -> Rehearsal:
        """``tenants`` with the versions that each lacks, as a plan has them. The result is in the catalog.

        An interrupt ends what is under way, deletes the branches and goes on. Raises NotFound and Conflict before any
        branch is made.
        """
        if not tenants:
            raise InvalidInput("there is nobody to rehearse with: nobody of those chosen is behind")
        self.sweep()
        checksums = {each.version: each.checksum for each in self._folder.migrations}
        wanted = {version for _, pending in tenants for version in pending}
        migrations = {version: checksum for version, checksum in checksums.items() if version in wanted}
        found = self._find([slug for slug, _ in tenants])
        rehearsal_id = f"rehearsal-{secrets.token_hex(6)}"
        with self._catalog.transaction() as connection:
            started_at = rehearsals.begin_rehearsal(
                connection,
                rehearsal_id,
                format=self._folder.name,
                directory=str(self._folder.directory),
                checksum=checksum_of(self._folder.name, migrations.items()),
                migrations=migrations,
                tenants=[tenant.id for tenant in found],
                by=events.actor(),
            )
        failpoint("rehearse.written")
        rehearsal = Rehearsal(
            id=rehearsal_id,
            format=self._folder.name,
            directory=str(self._folder.directory),
            checksum=checksum_of(self._folder.name, migrations.items()),
            migrations=migrations,
            started_at=started_at,
            finished_at=None,
            by=events.actor(),
            branches=(),
        )
        with beating("a rehearsal", BEAT_SECONDS, lambda: self._beat(rehearsal_id)):
            try:
                reports = self._all(rehearsal_id, found)
            except BaseException:
                if not self._left:
                    with self._catalog.transaction() as connection:
                        rehearsals.clear(connection, rehearsal_id)
                raise
        return self._finish(replace(rehearsal, branches=tuple(reports)))

    def _find(self, slugs: Sequence[str]) -> list[Tenant]:
        found: list[Tenant] = []
        with self._catalog.transaction() as connection:
            for slug in slugs:
                tenant = queries.tenant_by_slug(connection, slug)
                if tenant is None or tenant.state != "ready":
                    raise NotFound(f"there is no ready tenant {slug}", next_step="see `tenantry list`")
                found.append(tenant)
        return found

    def _all(self, rehearsal_id: str, tenants: Sequence[Tenant]) -> list[BranchReport]:
        reports: dict[str, BranchReport] = {}
        with ThreadPoolExecutor(self._options.jobs, thread_name_prefix="rehearse") as pool:
            waiting: list[Future[BranchReport]] = [pool.submit(self._one, rehearsal_id, each) for each in tenants]
            try:
                for future in as_completed(waiting):
                    report = future.result()
                    reports[report.tenant] = report
                    self._on_event(Ended(report))
            except BaseException:
                # Also KeyboardInterrupt: branches go before it does.
                self._halt.cancel()
                raise
        return [reports[tenant.slug] for tenant in tenants]

    def _finish(self, rehearsal: Rehearsal) -> Rehearsal:
        with self._catalog.transaction() as connection:
            rehearsals.finish_rehearsal(
                connection,
                rehearsal.id,
                report=report_of(rehearsal.branches),
                passed=rehearsal.passed,
                cleared=not self._left,
            )
            events.record(
                connection,
                "rehearse migrations",
                rehearsal_id=rehearsal.id,
                passed=rehearsal.passed,
                tenants=len(rehearsal.branches),
            )
        return replace(rehearsal, finished_at=self._clock.now())

    # -- one branch ----------------------------------------------------------------------------------------------

    def _one(self, rehearsal_id: str, tenant: Tenant) -> BranchReport:
        slug = TenantSlug(tenant.slug)
        if self._halt.stopping:
            return BranchReport(tenant=slug, outcome="interrupted")
        self._on_event(Began(slug))
        try:
            provider = self._provider_of(tenant)
            if "branches" not in provider.features:
                message = f"provider {provider.name} has no branches"
                return _without(slug, "impossible", Failure(kind="connect", message=message))
            return self._on_branch(rehearsal_id, tenant, provider.api("branches"))
        except TenantryError as error:
            return _without(slug, "failed", Failure(kind="connect", message=error.message, next_step=error.next_step))
        except Exception as error:  # noqa: BLE001 - the boundary between tenants: a defect met at one stops nobody else
            late_log("rehearsal").exception("rehearsing with a tenant failed unexpectedly", tenant=slug)
            message = f"unexpected {type(error).__name__}"
            return _without(slug, "failed", Failure(kind="defect", message=message, next_step="see the log"))

    def _on_branch(self, rehearsal_id: str, tenant: Tenant, client: NeonClient) -> BranchReport:
        assert tenant.project_id and tenant.database_name and tenant.role_name, "a ready tenant has all of them"
        # From here on a branch may be there, whatever the answer.
        self._left.add(tenant.id)
        lost = False
        seconds = KEPT_HOURS * 3600 if self._options.keep else EXPIRES_SECONDS
        try:
            made = client.create_branch(
                tenant.project_id, name=rehearsal_id, expires_at=datetime.now(UTC) + timedelta(seconds=seconds)
            )
            branch_id = BranchId(made.branch.id)
            self._branches[tenant.id] = client, tenant.project_id, branch_id
            client.wait_for_operations(tenant.project_id, made.operations, deadline_seconds=MADE_SECONDS_MAX)
            failpoint("rehearse.branched")
            _change_passwords(client, tenant.project_id, branch_id)
            uri = client.operator_uri(
                tenant.project_id,
                database_name=tenant.database_name,
                role_name=tenant.role_name,
                branch_id=branch_id,
            )
            report = replace(
                self._measured(TenantSlug(tenant.slug), uri),
                size_bytes=client.get_branch(tenant.project_id, branch_id).logical_size,
                branch=rehearsal_id if self._options.keep else None,
            )
            failpoint("rehearse.measured")
            return report
        except Unavailable as error:
            # A request whose answer was lost may still make it.
            lost = bool(error.fields.get("maybe_done"))
            raise
        finally:
            self._branches.pop(tenant.id, None)
            if self._options.keep or (self._delete(client, tenant.project_id, rehearsal_id) and not lost):
                self._left.discard(tenant.id)

    def _measured(self, slug: TenantSlug, uri: str) -> BranchReport:
        measured = Measured()

        def session(connection: psycopg.Connection) -> TenantSession:
            return MeasuredSession(connection, measured)

        migrator = Migrator(
            folder=self._folder,
            dsn=lambda _: uri,
            bounds=self._options.bounds,
            accept_edited=self._options.accept_edited,
            halt=self._halt,
            sessions=session,
        )
        # The watch is the first to connect, and wakes the branch.
        began = time.monotonic()
        with LockWatch(uri, connect_seconds=self._options.bounds.connect_seconds) as watch:
            migrating = time.monotonic()
            result = migrator.migrate(slug)
            ended = time.monotonic()
        report = _report(result, measured, watch, seconds=ended - began, ended=ended, migrating=migrating)
        own = folder_of(self._folder, slug)
        return replace(report, from_version=version_before(own, result.applied) if own and result.applied else None)

    # -- branches go in any case -----------------------------------------------------------------------------------

    def _delete(self, client: NeonClient, project_id: ProjectId, name: str) -> bool:
        """By its name: of a branch whose making was not answered nobody knows the id. False when it may be there."""
        try:
            for branch in client.branches(project_id, search=name):
                if branch.name == name and not branch.default:
                    # For good: nobody shall recover a customer's data from it.
                    gone = client.delete_branch(project_id, BranchId(branch.id), hard=True)
                    if gone is not None:
                        client.wait_for_operations(project_id, gone.operations)
        except NotFound:
            return True
        except TenantryError as error:
            late_log("rehearsal").warning(
                "a rehearsal's branch was not deleted", project_id=project_id, branch=name, error=str(error)
            )
            return False
        return True

    def _clear(self, dead: rehearsals.RehearsalRecord) -> str:
        left: list[str] = []
        for tenant_id in dead.tenants:
            with self._catalog.transaction() as connection:
                tenant = queries.hold_tenant(connection, tenant_id)
            # What is deleted took its branches along.
            if tenant.project_id is None or tenant.state == "deleted":
                continue
            try:
                client = self._provider_of(tenant).api("branches")
            except TenantryError:
                continue  # without branches there is none to delete
            if not self._delete(client, tenant.project_id, dead.id):
                left.append(tenant.slug)
        if left:
            return f"{dead.id}: branches of {', '.join(left[:5])} are left, and expire by themselves"
        with self._catalog.transaction() as connection:
            rehearsals.clear(connection, dead.id)
        return f"{dead.id}: what it left is deleted"

    def _beat(self, rehearsal_id: str) -> None:
        """The catalog hears of it, and its branches stay."""
        with self._catalog.transaction() as connection:
            rehearsals.beat(connection, rehearsal_id)
        if self._clock.monotonic() - self._renewed > RENEW_SECONDS and not self._options.keep:
            self._renewed = self._clock.monotonic()
            until = datetime.now(UTC) + timedelta(seconds=EXPIRES_SECONDS)
            for client, project_id, branch_id in list(self._branches.values()):
                client.update_branch(project_id, branch_id, expires_at=until)


def _change_passwords(client: NeonClient, project_id: ProjectId, branch_id: BranchId) -> None:
    """Whoever can open the tenant cannot open its branch, which may let in more addresses than a protected one."""
    for role in client.list_roles(project_id, branch_id):
        changed = client.reset_password(project_id, branch_id, role.name)
        client.wait_for_operations(project_id, changed.operations)


def _without(slug: TenantSlug, outcome: Outcome, failure: Failure) -> BranchReport:
    return BranchReport(tenant=slug, outcome=outcome, failure=failure)


def _report(
    result: TenantResult, measured: Measured, watch: LockWatch, *, seconds: float, ended: float, migrating: float
) -> BranchReport:
    outcomes: dict[str, Outcome] = {"applied": "applied", "current": "current", "not_started": "interrupted"}
    notes = result.notes
    if watch.failure is not None:
        notes = (*notes, f"locks were not watched: {watch.failure}")
    return BranchReport(
        tenant=result.slug,
        outcome=outcomes.get(result.outcome, "failed"),
        to_version=result.state.version if result.state else None,
        applied=result.applied,
        migrations=tuple(measured.migrations.values()),
        locks=locks_of(measured, watch.spans, ended=measured.committed_at or ended, migrating=migrating),
        seconds=seconds,
        failure=result.failure,
        notes=notes,
    )


def locks_of(measured: Measured, spans: Spans, *, ended: float, migrating: float) -> tuple[LockReport, ...]:
    """What was seen from outside, and what the session itself held and no look has met; the longest first. Pure.

    A lock is released at the commit: ``ended``. Of what was seen the session often knows better when it began.
    """
    names = {**spans.names, **measured.names}
    found: dict[tuple[int, str], Span] = {key: span for key, span in spans.spans.items() if span.until > migrating}
    for key, (_, began) in measured.taken.items():
        # What was made by the migrations themselves kept nobody out.
        if key[0] in measured.names and key not in found:
            found[key] = Span(began, ended)
    reports = [
        LockReport(
            table=names.get(oid, str(oid)),
            mode=mode,
            migration=measured.taken[oid, mode][0] if (oid, mode) in measured.taken else None,
            seconds_max=max(0.0, span.seconds),
        )
        for (oid, mode), span in found.items()
    ]
    return tuple(sorted(reports, key=lambda each: (-each.seconds_max, each.table, each.mode)))
