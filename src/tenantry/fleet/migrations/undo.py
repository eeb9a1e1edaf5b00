"""Undo a run: each tenant goes back to the state before it, what it was meanwhile is kept as a branch, and its ledger
is believed.

Decided first and shown (``undo_plan``), then done tenant by tenant. What was begun is written down before it begins,
so that a killed undo is ended by the next, exactly once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psycopg

from tenantry.errors import Conflict, InvalidInput, NotFound, TenantryError
from tenantry.fleet.catalog import events, queries, undoing
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Run, Tenant, TenantId
from tenantry.fleet.catalog.undoing import How, Left, UndoRecord
from tenantry.fleet.migrations import downs
from tenantry.fleet.migrations.apply import Bounds, Halt, Migrator
from tenantry.fleet.migrations.bundle import unpacked
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.formats.per_tenant import folder_of
from tenantry.fleet.migrations.ports import Tenants
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.run import bundle_of, find_run
from tenantry.fleet.migrations.session import TenantSession, connect, sql_failure
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.migrations.undo_plan import (
    BY_HAND,
    Past,
    Seen,
    Step,
    TimeMachine,
    UndoPlan,
    assess,
    assess_down,
)
from tenantry.fleet.migrations.versions import version_before
from tenantry.runtime.clock import Clock, SystemClock
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.telemetry import late_log

JOBS_DEFAULT: Final = 4
JOBS_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Undone:
    """What became of one step."""

    step: Step
    version: str | None = None
    """What the tenant's ledger says now."""
    again: bool = False
    """It was back already: a killed predecessor had come that far."""
    note: str = ""
    failure: str | None = None
    next_step: str = ""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        return {
            **self.step.as_dict(),
            "undone": self.failure is None,
            "version": self.version,
            "again": self.again,
            "note": self.note,
            "failure": self.failure,
            "next_step": self.next_step or self.step.next_step,
            "seconds": round(self.seconds, 4),
        }


class Undo:
    """Undoes one run. Reading ledgers wakes the tenants that are asked."""

    def __init__(
        self,
        catalog: Catalog,
        tenants: Tenants,
        machine: TimeMachine,
        run: Run,
        folder: Format | None,
        *,
        jobs: int = JOBS_DEFAULT,
        bounds: Bounds | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``folder`` reads the ledgers; without one what they say stays unknown until the next run asks."""
        if not 1 <= jobs <= JOBS_MAX:
            raise InvalidInput(f"jobs is {jobs}; it is 1 to {JOBS_MAX}")
        self._catalog = catalog
        self._tenants = tenants
        self._machine = machine
        self._run = run
        self._folder = folder
        self._jobs = jobs
        self._bounds = bounds or Bounds()
        self._clock = clock or SystemClock()

    def plan(self, tenants: Sequence[str] | None = None, *, how: How = "restore") -> UndoPlan:
        """Changes nothing. Raises NotFound for tenants that the run did not visit, InvalidInput without a way down."""
        run_id = self._run.id
        with self._catalog.transaction() as connection:
            found = [self._known_before(each) for each in undoing.left_by(connection, run_id)]
            later = undoing.changed_since(connection, run_id)
        if tenants is not None:
            by_slug = {each.slug: each for each in found}
            if missing := [slug for slug in tenants if slug not in by_slug]:
                raise NotFound(f"{run_id} has not visited {missing[0]}", next_step="see `tenantry migrate history`")
            found = [by_slug[slug] for slug in dict.fromkeys(tenants)]
        with self._catalog.transaction() as connection:
            records = undoing.undos(connection, [each.tenant_id for each in found])
        known: dict[TenantId, list[UndoRecord]] = {}
        for record in records:
            known.setdefault(record.tenant_id, []).append(record)

        def step(left: Left) -> Step:
            return self._assess(left, known.get(left.tenant_id, []), later.get(left.tenant_id), how)

        with ThreadPoolExecutor(self._jobs, thread_name_prefix="undo-plan") as pool:
            steps = tuple(pool.map(step, found))
        return UndoPlan(run_id=run_id, how=how, steps=steps)

    def execute(self, plan: UndoPlan, *, on_done: Callable[[Undone], None] = lambda _: None) -> list[Undone]:
        """Undoes what the plan has to undo, several tenants at a time; one that fails stops no other.

        ``on_done`` is called in this thread. An interrupt lets those under way end.
        """
        stopping = threading.Event()

        def work(step: Step) -> Undone | None:
            return None if stopping.is_set() else self._undo(step, plan.how)

        done: list[Undone] = []
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="undo") as pool:
            waiting: list[Future[Undone | None]] = [pool.submit(work, step) for step in plan.of("to_undo")]
            try:
                for future in as_completed(waiting):
                    if (result := future.result()) is not None:
                        done.append(result)
                        on_done(result)
            finally:
                stopping.set()
        return done

    def _known_before(self, left: Left) -> Left:
        """What a run notes as the version before is what the catalog believed when it was planned."""
        folder = None if self._folder is None else folder_of(self._folder, TenantSlug(left.slug))
        if folder is None or not left.applied or left.applied[0] not in {each.version for each in folder.migrations}:
            return left
        return replace(left, from_version=version_before(folder, left.applied))

    def _assess(self, left: Left, known: Sequence[UndoRecord], later: str | None, how: How) -> Step:
        done = any(each.run_id == left.run_id and each.finished_at is not None for each in known)
        worth_asking = left.state == "ready" and not done and (left.applied or left.failure)
        slug = TenantSlug(left.slug)
        seen = self._look(slug) if worth_asking and later is None else None
        if how == "down":
            folder = None if self._folder is None else folder_of(self._folder, slug)
            return assess_down(left, known=known, later=later, folder=folder, seen=seen)
        past: Past | TenantryError
        try:
            past = self._machine.look_back(slug)
        except TenantryError as error:
            past = error
        return assess(left, known=known, later=later, past=past, seen=seen)

    def _look(self, slug: TenantSlug) -> Seen | Failure:
        folder = None if self._folder is None else folder_of(self._folder, slug)
        try:
            with closing(self._connect(slug)) as connection:
                session = TenantSession(connection)
                session.begin_reading(lock_seconds=self._bounds.lock_seconds)
                state = folder.judge(folder.read_ledger(session)).state if folder else None
                lsn = session.position()
                session.rollback()
        except MigrationFailed as error:
            return error.failure
        except psycopg.Error as error:
            return sql_failure(error, lost=False)
        except TenantryError as error:
            return Failure(kind="connect", message=error.message, next_step=error.next_step)
        return Seen(state=state, lsn=lsn)

    def _connect(self, slug: TenantSlug) -> psycopg.Connection:
        return connect(
            self._tenants.dsn(slug),
            deadline_seconds=self._bounds.connect_deadline_seconds,
            connect_seconds=self._bounds.connect_seconds,
            stopping=lambda: False,
        )

    def _undo(self, step: Step, how: How) -> Undone:
        began = self._clock.monotonic()
        try:
            done = self._down(step) if how == "down" else self._restore(step)
        except MigrationFailed as error:
            done = Undone(step=step, failure=str(error.failure), next_step=error.failure.next_step)
        except TenantryError as error:
            done = Undone(step=step, failure=error.message, next_step=error.next_step)
        return replace(done, seconds=self._clock.monotonic() - began)

    def _restore(self, step: Step) -> Undone:
        assert step.preserved_as is not None, "only what can be kept is to be undone"
        with self._catalog.transaction() as connection:
            record = undoing.begin_undo(
                connection,
                step.run_id,
                step.tenant_id,
                how="restore",
                preserved_as=step.preserved_as,
                by=events.actor(),
            )
        failpoint("undo.begun")
        if record.finished_at is not None:
            return Undone(step=step, version=record.version, again=True)
        assert record.preserved_as is not None, "the catalog's own checks hold this"
        step = replace(step, preserved_as=record.preserved_as)
        if step.point is None:
            raise Conflict(f"no state of {step.slug} from before the run was kept", next_step=BY_HAND)
        fresh = self._machine.go_back(step.slug, step.point, record.preserved_as)
        failpoint("undo.restored")
        return self._finish(step, again=not fresh)

    def _down(self, step: Step) -> Undone:
        if self._folder is None:
            raise Conflict(f"the migrations of {step.run_id} are not there any more", next_step=BY_HAND)
        with self._catalog.transaction() as connection:
            record = undoing.begin_undo(
                connection, step.run_id, step.tenant_id, how="down", preserved_as=None, by=events.actor()
            )
            # Whatever comes, the next run asks the ledger.
            queries.forget_schema(connection, step.tenant_id)
        if record.finished_at is not None:
            return Undone(step=step, version=record.version, again=True)
        migrator = Migrator(
            folder=self._folder, dsn=self._tenants.dsn, bounds=self._bounds, accept_edited=False, halt=Halt()
        )
        back = downs.go_back(migrator, step.slug, step.to_version)
        failpoint("undo.reverted")
        return self._finish(step, again=not back.versions)

    def _finish(self, step: Step, *, again: bool = False) -> Undone:
        """What the ledger says is written down with the undo. Nothing is asked of a format that nobody reads here."""
        seen = self._look(step.slug)
        version, note = None, ""
        if isinstance(seen, Failure):
            note = f"its ledger was not read, the next run does it: {seen.message}"
        elif seen.state is not None:
            version = seen.state.version
            if version != step.to_version:
                note = f"its ledger says {version or 'no version'}, and was expected to say {step.to_version}"
        failpoint("undo.read")
        with self._catalog.transaction() as connection:
            if isinstance(seen, Seen) and seen.state is not None:
                state = seen.state
                queries.record_schema(
                    connection, step.slug, version=version, format=state.format, fingerprint=state.fingerprint
                )
            if undoing.finish_undo(connection, step.run_id, step.tenant_id, version=version):
                tenant = queries.hold_tenant(connection, step.tenant_id)
                events.record(
                    connection,
                    "undo migration",
                    tenant,
                    run_id=step.run_id,
                    version=version,
                    preserved_as=step.preserved_as,
                )
        failpoint("undo.finished")
        return Undone(step=step, version=version, again=again, note=note)


@contextmanager
def _folder_of(catalog: Catalog, run: Run) -> Generator[Format | None]:
    """The migrations as the run had them, or as they are now; None where neither can be read."""
    with ExitStack() as closing:
        folder: Format | None = None
        try:
            bundle = bundle_of(catalog, run)
            folder = open_folder(Path(run.directory)) if bundle is None else None
            if bundle is not None:
                folder = closing.enter_context(unpacked(bundle, through=None))
        except TenantryError as error:
            late_log("undo").warning(
                "ledgers are not read: the migrations are not there", run_id=run.id, error=str(error)
            )
        yield folder


@contextmanager
def undo_of(
    catalog: Catalog,
    tenants: Tenants,
    machine: TimeMachine,
    run_id: str | None,
    *,
    tenant: Tenant | None = None,
    jobs: int = JOBS_DEFAULT,
) -> Generator[Undo]:
    """Undoing of this run, or of the last that changed the tenant. Raises NotFound, and Conflict for half an id."""
    if tenant is not None:
        with catalog.transaction() as connection:
            run_id = undoing.last_run_of(connection, tenant.id)
        if run_id is None:
            raise NotFound(
                f"no run has changed {tenant.slug}, or all that did are undone",
                next_step="see `tenantry migrate history`",
            )
    run = find_run(catalog, run_id)
    with _folder_of(catalog, run) as folder:
        yield Undo(catalog, tenants, machine, run, folder, jobs=jobs)
