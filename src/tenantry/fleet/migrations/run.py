"""Carries out a plan: tenants in parallel, each in its own transaction; what went wrong with one stops nobody else.

Rerunning is resuming: each tenant's ledger says what it has. Must never report a tenant as done without having seen
its ledger say so.

Threads, not an event loop: a tenant's work is waiting for its server, libpq waits without the interpreter's lock, and
the ports may block. A tenant costs the client 4 to 6 ms of CPU (measured), two thirds of it libpq's login.
"""

from __future__ import annotations

import secrets
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from types import FrameType
from typing import Final

import structlog

from tenantry.errors import InvalidInput, TenantryError
from tenantry.fleet.migrations.apply import Bounds, Halt, Migrator
from tenantry.fleet.migrations.events import (
    Event,
    RunFinished,
    RunStarted,
    Stopping,
    TenantFinished,
    TenantStarted,
    Warned,
)
from tenantry.fleet.migrations.formats.base import AppliedByTool, Format
from tenantry.fleet.migrations.plan import REFUSED_NEXT_STEP, Plan, TenantPlan
from tenantry.fleet.migrations.ports import RunLog, Tenants
from tenantry.fleet.migrations.restore_point import Points
from tenantry.fleet.migrations.results import Counts, Failure, RunRecord, RunResult, TenantResult
from tenantry.fleet.migrations.tenant import RunId, TenantSlug
from tenantry.runtime.clock import Clock, SystemClock
from tenantry.runtime.failpoints import failpoint

JOBS_DEFAULT: Final = 8
JOBS_MAX: Final = 256
WARNINGS_MAX: Final = 100
"""Warnings that a result keeps; the events have all of them."""

_log: Final = structlog.get_logger("migrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    jobs: int = JOBS_DEFAULT
    """Tenants at a time."""
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True, slots=True)
class _Finished:
    result: TenantResult
    warning: str | None


class _Interrupt:
    """The operator wants the run to end."""


class _WorkerEnded:
    """A worker found nothing more to do."""


_Message = TenantStarted | _Finished | _Interrupt | _WorkerEnded


class Run:
    """One execution of one plan."""

    def __init__(
        self,
        plan: Plan,
        folder: Format,
        tenants: Tenants,
        *,
        options: RunOptions | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
        log: RunLog | None = None,
        points: Points | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``on_event`` is called in the thread of ``execute`` only. Raises InvalidInput for a plan that cannot run."""
        self._options = options or RunOptions()
        _check(plan, self._options)
        assert (plan.format, plan.directory) == (folder.name, str(folder.directory)), "the plan is of this folder"
        self._plan = plan
        self._folder = folder
        self._tenants = tenants
        self._on_event = on_event
        self._run_log = log
        self._clock = clock or SystemClock()
        self._halt = Halt()
        self._migrator = Migrator(
            folder=folder,
            dsn=tenants.dsn,
            bounds=self._options.bounds,
            accept_edited=plan.accept_edited,
            halt=self._halt,
            points=points,
        )
        self._todo: deque[TenantPlan] = deque(plan.to_visit)
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        """Holds at most two messages for each tenant of the plan; its ``put`` may be called in a signal handler."""
        self._warnings: list[str] = []
        self._results: dict[TenantSlug, TenantResult] = {
            each.tenant.slug: TenantResult(slug=each.tenant.slug, outcome="skipped", state=each.tenant.known)
            for each in plan.of("current")
        }
        self._record = RunRecord(
            run_id=RunId(f"run-{secrets.token_hex(8)}"),
            format=plan.format,
            directory=plan.directory,
            target=plan.target,
            started_at=self._clock.now(),
        )

    def interrupt(self) -> None:
        """The first call lets transactions under way end and begins no other; the second cancels them.

        May be called from any thread and from a signal handler.
        """
        self._halt.stopping = True
        self._inbox.put(_Interrupt())

    def execute(self) -> RunResult:
        """Runs to the end and returns every tenant's result; Ctrl-C counts as ``interrupt`` meanwhile."""
        began = self._clock.monotonic()
        to_visit = len(self._todo)
        self._tell_log(lambda log: log.began(self._record))
        self._on_event(RunStarted(self._record, len(self._plan.tenants), to_visit))
        workers = [
            threading.Thread(target=self._work, name=f"migrate-{number}")
            for number in range(min(self._options.jobs, to_visit))
        ]
        started: list[threading.Thread] = []
        try:
            with self._interrupts():
                for worker in workers:
                    worker.start()
                    started.append(worker)
                self._listen(len(workers), to_visit)
        finally:
            # Reached early only when a listener of events raised: what is under way ends before its error goes on.
            self._halt.stopping = True
            for worker in started:
                worker.join()
            if isinstance(self._folder, AppliedByTool):
                self._folder.close()
        return self._finish(self._clock.monotonic() - began)

    def _listen(self, working: int, to_visit: int) -> None:
        visited = interrupts = 0
        while working:
            message = self._inbox.get()
            if isinstance(message, _Finished):
                visited += 1
                self._results[message.result.slug] = message.result
                self._tell_log(lambda log, result=message.result: log.tenant_finished(self._record.run_id, result))
                if message.warning is not None:
                    self._warn(message.warning)
                self._on_event(TenantFinished(message.result, visited, to_visit))
            elif isinstance(message, _Interrupt):
                interrupts += 1
                self._on_event(Stopping(cancelling=interrupts > 1))
                if interrupts == 2:
                    self._halt.cancel()
            elif isinstance(message, _WorkerEnded):
                working -= 1
            else:
                self._on_event(message)

    def _finish(self, seconds: float) -> RunResult:
        results = tuple(
            self._results.get(slug) or TenantResult(slug=slug, outcome="not_started", state=each.tenant.known)
            for each in self._plan.tenants
            for slug in [each.tenant.slug]
        )
        by_outcome = Counter(result.outcome for result in results)
        counts = Counts(**{outcome: by_outcome[outcome] for outcome in by_outcome})
        self._record = replace(
            self._record, finished_at=self._clock.now(), counts=counts, interrupted=counts.not_started > 0
        )
        self._tell_log(lambda log: log.ended(self._record))
        result = RunResult(run=self._record, results=results, warnings=tuple(self._warnings), seconds=seconds)
        self._on_event(RunFinished(result))
        return result

    def _work(self) -> None:
        try:
            while not self._halt.stopping:
                try:
                    planned = self._todo.popleft()
                except IndexError:
                    return
                self._inbox.put(TenantStarted(planned.tenant.slug))
                self._inbox.put(self._visit(planned))
        finally:
            self._inbox.put(_WorkerEnded())

    def _visit(self, planned: TenantPlan) -> _Finished:
        slug = planned.tenant.slug
        began = self._clock.monotonic()
        try:
            result = self._migrator.migrate(slug)
        except Exception as error:  # noqa: BLE001 - the boundary between tenants: a defect met at one stops nobody else
            _log.exception("migrating a tenant failed unexpectedly", tenant=slug)
            message = str(error) if isinstance(error, TenantryError) else f"unexpected {type(error).__name__}"
            failure = Failure(kind="defect", message=message, next_step="the log has the traceback; report it")
            result = TenantResult(slug=slug, outcome="failed", failure=failure)
        result = replace(result, seconds=self._clock.monotonic() - began)
        return _Finished(result, self._cache(planned, result))

    def _cache(self, planned: TenantPlan, result: TenantResult) -> str | None:
        """Writes what the ledger says to the catalog; a warning when that fails, since the ledger is the truth."""
        if result.state is None or result.state == planned.tenant.known:
            return None
        try:
            self._tenants.record(result.slug, result.state)
        except TenantryError as error:
            return f"{result.slug}: its schema version was not written to the catalog, the next run does it: {error}"
        failpoint("migrate.recorded")
        return None

    def _tell_log(self, tell: Callable[[RunLog], None]) -> None:
        if self._run_log is None:
            return
        try:
            tell(self._run_log)
        except TenantryError as error:
            self._warn(f"the log of runs was not written: {error}")

    def _warn(self, message: str) -> None:
        if len(self._warnings) < WARNINGS_MAX:
            self._warnings.append(message)
        self._on_event(Warned(message))

    @contextmanager
    def _interrupts(self) -> Generator[None]:
        """Turns SIGINT into ``interrupt``, so that no KeyboardInterrupt falls between two steps."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self.interrupt()

        before = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _check(plan: Plan, options: RunOptions) -> None:
    if not 1 <= options.jobs <= JOBS_MAX:
        raise InvalidInput(f"jobs is {options.jobs}; it is 1 to {JOBS_MAX}")
    bounds = options.bounds
    if bounds.lock_seconds <= 0:
        raise InvalidInput(
            "the lock timeout is 0: a migration that waits for ever holds up every session behind it",
            next_step="give a lock timeout above 0",
        )
    if (
        bounds.statement_seconds < 0
        or bounds.tool_seconds <= 0
        or bounds.connect_seconds <= 0
        or bounds.connect_deadline_seconds <= 0
    ):
        raise InvalidInput("a timeout is negative, or 0 where it must not be")
    if plan.refused:
        first = plan.refused[0]
        raise InvalidInput(
            f"{first.file}, statement {first.statement}, line {first.line} ({first.excerpt}): {first.reason}",
            next_step=REFUSED_NEXT_STEP,
            migrations=[each.version for each in plan.refused],
        )
