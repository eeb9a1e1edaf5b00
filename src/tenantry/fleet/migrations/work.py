"""Carries out a run: looks where it stands, does what it needs next, writes down what came of it, and looks again.

Any number of processes may do this for one run at once; each takes tenants that nobody has in hand. One that dies
leaves claims behind, which others take over once it has been silent for long.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

from sqlalchemy import Connection

from tenantry.errors import Conflict, TenantryError, Unavailable
from tenantry.fleet.catalog import queries, runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.events import actor, record
from tenantry.fleet.catalog.records import Claimed, Done, KnownSchema, Run, Tenant, Wave
from tenantry.fleet.migrations import gates
from tenantry.fleet.migrations.apply import Halt, Migrator
from tenantry.fleet.migrations.bundle import unpacked
from tenantry.fleet.migrations.claims import Claims
from tenantry.fleet.migrations.conduct import Begin, Finish, Held, Judge, Migrate, Others, Prove, Shut, Step, next_step
from tenantry.fleet.migrations.crew import Crew
from tenantry.fleet.migrations.events import (
    Event,
    RunFinished,
    RunStarted,
    Stopping,
    TenantFinished,
    TenantStarted,
    Waiting,
    Warned,
    WaveJudged,
    WaveStarted,
)
from tenantry.fleet.migrations.formats.base import AppliedByTool, Format
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.formats.per_tenant import FolderPerTenant
from tenantry.fleet.migrations.plan import states_of
from tenantry.fleet.migrations.ports import Tenants
from tenantry.fleet.migrations.restore_point import Points
from tenantry.fleet.migrations.results import TenantResult
from tenantry.fleet.migrations.run import (
    OPTIONS,
    STALLED_SECONDS,
    TENANTS_AT_ONCE,
    bundle_of,
    release_dead,
    worker_name,
)
from tenantry.fleet.migrations.tenant import SchemaState, TenantSlug
from tenantry.fleet.migrations.waves import BORN_MEANWHILE
from tenantry.runtime.beating import beating
from tenantry.runtime.clock import Clock, SystemClock
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.windows import parse_window

FLUSH_RESULTS: Final = 16
"""Results that wait to be written; a tick writes them too."""
HEARTBEAT_SECONDS: Final = 10.0
OTHERS_SECONDS: Final = 0.5
"""How often is looked whether the others are done."""
CATALOG_SECONDS_MAX: Final = 60.0
"""How long a catalog that is away is waited for; then the work ends, and is resumed by somebody."""
CATALOG_PAUSE_SECONDS: Final = 0.5
T = TypeVar("T")


@contextmanager
def folder_of_run(catalog: Catalog, run: Run, opened: Format | None = None) -> Generator[Format]:
    """The migrations that the run is of. Raises Conflict where they are not what was planned.

    ``opened`` is what it was planned with, where that is at hand: a tool's project takes its time to load.
    """
    with ExitStack() as closing:
        bundle = bundle_of(catalog, run)
        if isinstance(opened, AppliedByTool) and str(opened.directory.absolute()) == run.directory:
            folder = opened
            closing.callback(opened.close)
        elif bundle is not None:
            folder = closing.enter_context(unpacked(bundle, through=run.target))
        else:
            folder = open_folder(Path(run.directory))
            if folder.migrations and folder.migrations[-1].version != run.target:
                folder = open_folder(Path(run.directory), through=run.target)
            if isinstance(folder, AppliedByTool):
                closing.callback(folder.close)
        if states_of(folder)[-1].fingerprint != run.fingerprint:
            raise Conflict(
                f"{run.directory} is not what {run.id} was planned with",
                next_step="restore it, or begin a new run: `tenantry migrate run`",
                run_id=run.id,
            )
        yield folder


class Work:
    """One process's part in carrying out one run."""

    def __init__(
        self,
        catalog: Catalog,
        tenants: Tenants,
        run: Run,
        folder: Format,
        *,
        golden: Callable[[], AbstractContextManager[str]] | None = None,
        points: Points | None = None,
        met: Callable[[Sequence[Tenant]], None] = lambda _: None,
        on_event: Callable[[Event], None] = lambda _: None,
        clock: Clock | None = None,
        wait_for_windows: bool = False,
    ) -> None:
        """``golden`` gives the DSN of an empty database for a moment; without it that wave passes untried. ``points``
        keeps the state of tenants before their first change. ``met`` is told of tenants that are about to be visited.

        ``on_event`` is called in the thread of ``execute`` only.
        """
        self._catalog = catalog
        self._tenants = tenants
        self._run = run
        self._folder = folder
        self._golden = golden
        self._points = points
        self._met = met
        self._on_event = on_event
        self._clock = clock or SystemClock()
        self._wait_for_windows = wait_for_windows
        self._options = OPTIONS.validate_python(run.plan.get("options", {}))
        self._worker = worker_name()
        self._halt = Halt()
        self._crew: Crew | None = None
        self._interrupts = 0
        self._wake = threading.Event()
        self._claims: Claims | None = None
        self._in_hand: dict[TenantSlug, Claimed] = {}
        self._results: list[tuple[Claimed, TenantResult]] = []
        """Not written yet: at most FLUSH_RESULTS, and while the catalog is away as many more as there are threads."""
        self._beaten = self._clock.monotonic()
        self._wave: Wave | None = None
        self._visited = 0
        self._to_visit = 0

    def interrupt(self) -> None:
        """The first call lets transactions under way end and begins no other; the second cancels them.

        May be called from any thread and from a signal handler.
        """
        self._interrupts += 1
        if (crew := self._crew) is not None:
            crew.interrupt()
        self._halt.stopping = True
        self._wake.set()

    def execute(self) -> Run:
        """Returns when the run has ended, is held, or waits for tenants' windows; Ctrl-C counts as ``interrupt``."""
        with self._interruptible():
            self._begin()
            try:
                while self._do(self._look()):
                    pass
            finally:
                self._leave()
        return self._end()

    # -- what is next ------------------------------------------------------------------------------------------

    def _ask(self, ask: Callable[[Connection], T]) -> T:
        """One transaction in the catalog, tried again while that is away.

        Where the answer to a commit was lost it took place and is repeated: what is asked must bear that.
        """
        began = self._clock.monotonic()
        while True:
            try:
                with self._catalog.transaction() as connection:
                    return ask(connection)
            except Unavailable:
                if self._interrupts > 1 or self._clock.monotonic() - began > CATALOG_SECONDS_MAX:
                    raise
            self._wake.wait(CATALOG_PAUSE_SECONDS)

    def _begin(self) -> None:
        def ask(connection: Connection) -> dict[str, int]:
            release_dead(connection, self._run.id)
            return runs.counts(connection, self._run.id)

        counted = self._ask(ask)
        self._to_visit = sum(counted.values())
        self._visited = self._to_visit - counted.get("waiting", 0)
        total = int(str(self._run.plan.get("total", self._to_visit)))
        self._on_event(RunStarted(self._run, total, self._to_visit))

    def _look(self) -> Step:
        """What the run needs, begun in the same transaction where nobody else may begin it too."""

        def ask(connection: Connection) -> Step:
            run = runs.hold_run(connection, self._run.id)
            if run is None:
                return Held()
            self._run = run
            for tenant, window in runs.missed_windows(connection, run.id, limit=TENANTS_AT_ONCE):
                opens, closes = parse_window(window).next(self._clock.now()) if window else (None, None)
                runs.set_window(connection, run.id, tenant, opens, closes)
            step = self._next(connection, run)
            if isinstance(step, Finish) and not run.plan.get("selection") and self._born_meanwhile(connection, run):
                step = self._next(connection, run)
            if isinstance(step, Others) and release_dead(connection, run.id):
                step = self._next(connection, run)
            match step:
                case Begin(wave):
                    runs.set_wave(connection, run.id, wave.number, "running")
                case Judge(wave) | Prove(wave):
                    runs.set_wave(connection, run.id, wave.number, "judging", worker=self._worker)
                case Finish():
                    runs.set_state(connection, run.id, "finished", only_from=["running"])
                case _:
                    pass
            return step

        return self._ask(ask)

    def _next(self, connection: Connection, run: Run) -> Step:
        return next_step(run, runs.waves(connection, run.id, stalled_seconds=STALLED_SECONDS), worker=self._worker)

    def _born_meanwhile(self, connection: Connection, run: Run) -> bool:
        """Whoever was created while the run ran gets a wave at its end, unless each has a folder of its own."""
        if isinstance(self._folder, FolderPerTenant):
            return False
        born = runs.born_meanwhile(connection, run.id, fingerprint=run.fingerprint, limit=TENANTS_AT_ONCE)
        if not born:
            return False
        wave = runs.add_wave(connection, run.id, BORN_MEANWHILE)
        versions = tuple(migration.version for migration in self._folder.migrations)
        runs.add_tenants(connection, run.id, [replace(each, wave=wave, pending=versions) for each in born])
        self._to_visit += len(born)
        return True

    def _do(self, step: Step) -> bool:
        """Whether there is more to do for us."""
        if self._interrupts:
            return False
        match step:
            case Begin(wave):
                self._on_event(WaveStarted(wave.number, wave.name, wave.tenants))
            case Migrate(wave):
                self._migrate(wave)
            case Prove(wave):
                with self._judging(wave):
                    found = self._prove()
                self._judged(wave, found)
            case Judge(wave):
                with self._judging(wave):
                    found = self._objections(wave)
                self._judged(wave, found)
            case Others():
                self._wait(OTHERS_SECONDS)
            case Shut(wave, until):
                self._on_event(Waiting(until, wave.shut))
                if not self._wait_for_windows:
                    return False
                self._wait(HEARTBEAT_SECONDS)
            case Finish() | Held():
                return False
        return True

    def _wait(self, seconds: float) -> None:
        self._wake.wait(seconds)

    def _leave(self) -> None:
        """Nothing of ours is left in hand, and an interrupted run is paused."""

        def ask(connection: Connection) -> None:
            runs.release_claims(connection, self._run.id, self._worker)
            if self._interrupts:
                reason = f"interrupted by {actor()}"
                runs.set_state(connection, self._run.id, "paused", only_from=["running"], reason=reason)

        self._flush()
        self._ask(ask)

    def _end(self) -> Run:
        def ask(connection: Connection) -> Run:
            run = runs.run_by_id(connection, self._run.id)
            assert run is not None, "a run that was begun is kept"
            return run if run.counts else replace(run, counts=runs.counts(connection, run.id))

        run = self._ask(ask)
        self._on_event(RunFinished(run))
        return run

    # -- tenants -------------------------------------------------------------------------------------------------

    def _migrate(self, wave: Wave) -> None:
        self._wave = wave
        migrator = Migrator(
            folder=self._folder,
            dsn=self._tenants.dsn,
            bounds=self._options.bounds,
            accept_edited=self._options.accept_edited,
            halt=self._halt,
            points=self._points,
        )
        jobs = min(self._options.jobs, max(1, wave.waiting - wave.in_hand - wave.shut))
        with Claims(self._claim, handful=self._options.jobs, low=jobs // 2 - 2) as self._claims:
            self._crew = Crew(migrator, self._take, self, jobs=jobs, clock=self._clock)
            if self._interrupts:
                self._crew.interrupt()
            self._crew.work()
            self._crew = None
        self._flush()
        # Also what was claimed and never heard of: where the answer to a claim was lost, it is nobody's otherwise.
        self._ask(lambda connection: runs.release_claims(connection, self._run.id, self._worker))

    def _take(self) -> TenantSlug | None:
        """The next tenant that is ours, in a thread of the crew."""
        assert self._claims is not None, "a crew is at work"
        claimed = self._claims.take()
        if claimed is None:
            return None
        slug = TenantSlug(claimed.slug)
        self._in_hand[slug] = claimed
        return slug

    def _claim(self) -> list[Claimed]:
        """The next handful, in a thread of its own."""
        assert self._wave is not None, "a crew is at work on a wave"
        number = self._wave.number

        def ask(connection: Connection) -> tuple[list[Claimed], Sequence[Tenant]]:
            run = runs.hold_run(connection, self._run.id)
            if run is None or run.state != "running" or self._halt.stopping:
                return [], []
            claimed = runs.claim_tenants(
                connection,
                run.id,
                number,
                worker=self._worker,
                limit=self._options.jobs,
                of_provider_max=self._options.jobs_per_provider,
                stalled_seconds=STALLED_SECONDS,
            )
            gone = [each for each in claimed if not each.ready]
            runs.record_done(
                connection, run.id, [Done(tenant_id=each.tenant_id, fence=each.fence, outcome="gone") for each in gone]
            )
            ready = [each for each in claimed if each.ready]
            return ready, queries.tenants_called(connection, [each.slug for each in ready]) if ready else []

        claimed, tenants = self._ask(ask)
        failpoint("migrate.claimed")
        if not self._halt.stopping:
            self._met(tenants)
        return claimed

    def started(self, slug: TenantSlug) -> None:
        self._on_event(TenantStarted(slug))

    def finished(self, result: TenantResult) -> None:
        self._results.append((self._in_hand.pop(result.slug), result))
        self._visited += result.outcome != "not_started"
        self._on_event(TenantFinished(result, self._visited, self._to_visit))
        # A failure is told at once: it may be the one too many.
        if len(self._results) >= FLUSH_RESULTS or result.outcome == "failed":
            self.tick()

    def interrupted(self, *, cancelling: bool) -> None:
        self._on_event(Stopping(cancelling=cancelling))

    def tick(self) -> None:
        self._flush()
        self._beat()

    def _flush(self) -> None:
        """Writes what is done: the run's own record, and the cache of where each tenant stands."""
        if not self._results:
            return

        def ask(connection: Connection) -> bool:
            known: list[KnownSchema] = []
            for claimed, result in self._results:
                if result.outcome == "not_started":
                    runs.release_tenant(connection, self._run.id, claimed.tenant_id, claimed.fence)
                elif (state := result.state) is not None and state != _known(claimed):
                    known.append(_schema_of(claimed, state))
            queries.record_schemas(connection, known)
            done = [_done(claimed, result) for claimed, result in self._results if result.outcome != "not_started"]
            runs.record_done(connection, self._run.id, done)
            return runs.is_running(connection, self._run.id)

        if not self._ask(ask):
            self._halt.stopping = True  # what was claimed before it was held is not begun
        failpoint("migrate.recorded")
        failed = any(result.outcome == "failed" for _, result in self._results)
        self._results.clear()
        if failed:
            self._stop_if_too_many_failed()

    def _stop_if_too_many_failed(self) -> None:
        assert self._wave is not None, "a crew is at work on a wave"
        number = self._wave.number

        def ask(connection: Connection) -> tuple[Wave, str] | None:
            run = runs.hold_run(connection, self._run.id)
            waves = runs.waves(connection, self._run.id, stalled_seconds=STALLED_SECONDS)
            wave = next(each for each in waves if each.number == number)
            reason = gates.too_many_failed(wave, self._options.gates)
            if reason is None or run is None or run.state != "running":
                return None
            self._stop(connection, wave, [reason])
            return wave, reason

        if (stopped := self._ask(ask)) is not None:
            wave, reason = stopped
            self._halt.stopping = True
            self._on_event(WaveJudged(wave.number, wave.name, (reason,)))

    def _beat(self) -> None:
        if self._clock.monotonic() - self._beaten < HEARTBEAT_SECONDS:
            return
        self._ask(lambda connection: runs.keep_claims(connection, self._run.id, self._worker))
        self._beaten = self._clock.monotonic()

    # -- gates -----------------------------------------------------------------------------------------------------

    def _judging(self, wave: Wave) -> AbstractContextManager[None]:
        """Says meanwhile that this worker lives: a gate may take longer than anybody may be silent."""

        def beat() -> None:
            with self._catalog.transaction() as connection:
                runs.keep_judging(connection, self._run.id, wave.number, self._worker)

        return beating("a judged wave", HEARTBEAT_SECONDS, beat)

    def _objections(self, wave: Wave) -> list[str]:
        found = gates.objections(wave, self._options.gates)
        if not found:
            found = gates.ask_outside(self._options.gates, gates.document(self._run.id, self._run.target, wave))
        return found

    def _prove(self) -> list[str]:
        """What an empty database says of the migrations; nothing where there is none to ask."""
        if self._golden is None or isinstance(self._folder, FolderPerTenant):
            return []
        try:
            with self._golden() as dsn:
                migrator = Migrator(
                    folder=self._folder,
                    dsn=lambda _: dsn,
                    bounds=self._options.bounds,
                    accept_edited=self._options.accept_edited,
                    halt=self._halt,
                )
                result = migrator.migrate(TenantSlug("golden"))
        except TenantryError as error:
            self._on_event(Warned(f"the migrations were not tried on an empty database first: {error}"))
            return []
        return [] if result.failure is None else [f"an empty database refuses it: {result.failure}"]

    def _judged(self, wave: Wave, found: list[str]) -> None:
        if self._interrupts:
            return  # the wave is given back, and judged again by whoever goes on

        def ask(connection: Connection) -> bool:
            run = runs.hold_run(connection, self._run.id)
            if run is None or run.state != "running":
                return False
            # Whoever has taken the wave over says what becomes of it, and it may be over, or begun again, since.
            if not runs.keep_judging(connection, run.id, wave.number, self._worker):
                return False
            if found:
                self._stop(connection, wave, found)
            else:
                runs.set_wave(connection, run.id, wave.number, "passed", verdict={"objections": []})
            return True

        if self._ask(ask):
            self._on_event(WaveJudged(wave.number, wave.name, tuple(found)))

    def _stop(self, connection: Connection, wave: Wave, found: list[str]) -> None:
        runs.set_wave(connection, self._run.id, wave.number, "failed", verdict={"objections": found})
        reason = f"wave {wave.name}: {'; '.join(found)}"
        runs.set_state(connection, self._run.id, "stopped", only_from=["running"], reason=reason)
        record(connection, "migrate_stopped", run=self._run.id, wave=wave.name, objections=found)

    # -- Ctrl-C ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _interruptible(self) -> Generator[None]:
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


def _known(claimed: Claimed) -> SchemaState | None:
    if claimed.schema_format is None or claimed.schema_fingerprint is None:
        return None
    return SchemaState(claimed.schema_format, claimed.schema_version, claimed.schema_fingerprint)


def _schema_of(claimed: Claimed, state: SchemaState) -> KnownSchema:
    return KnownSchema(claimed.tenant_id, claimed.as_of, state.version, state.format, state.fingerprint)


def _done(claimed: Claimed, result: TenantResult) -> Done:
    assert result.outcome in {"applied", "current", "failed"}
    return Done(
        tenant_id=claimed.tenant_id,
        fence=claimed.fence,
        outcome=result.outcome,  # pyright: ignore[reportArgumentType] - asserted above
        applied=result.applied,
        to_version=result.state.version if result.state else None,
        failure=asdict(result.failure) if result.failure else None,
        notes=result.notes,
        restore_point=result.restore_point.as_dict() if result.restore_point else None,
        seconds=result.seconds,
    )
