"""Threads that migrate tenants side by side, each in its own transaction; what goes wrong with one stops nobody else.

Who is next comes from the caller, and every result goes back to it, in the caller's own thread: nothing is kept here,
so a crew needs as much memory for ten tenants as for ten thousand. Must never report a tenant as done without having
seen its ledger say so.

Threads, not an event loop: a tenant's work is waiting for its server, libpq waits without the interpreter's lock, and
the ports may block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from tenantry.errors import TenantryError
from tenantry.fleet.migrations.apply import Migrator
from tenantry.fleet.migrations.results import Failure, TenantResult
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.runtime.clock import Clock, SystemClock
from tenantry.runtime.telemetry import late_log

JOBS_DEFAULT: Final = 8
JOBS_MAX: Final = 256
TICK_SECONDS: Final = 0.2


class Listener(Protocol):
    """Whoever gave a crew its tenants. Called in the thread of ``work`` only."""

    def started(self, slug: TenantSlug) -> None: ...

    def finished(self, result: TenantResult) -> None: ...

    def interrupted(self, *, cancelling: bool) -> None: ...

    def tick(self) -> None:
        """Every TICK_SECONDS or oftener, also while nothing happens."""
        ...


@dataclass(frozen=True, slots=True)
class _Started:
    slug: TenantSlug


@dataclass(frozen=True, slots=True)
class _Visited:
    result: TenantResult
    heard: threading.Event


class _Interrupt:
    """The operator wants it to end."""


class _Ended:
    """A thread found nothing more to do."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Crew:
    """One crew works once."""

    def __init__(
        self,
        migrator: Migrator,
        take: Callable[[], TenantSlug | None],
        listener: Listener,
        *,
        jobs: int,
        clock: Clock | None = None,
    ) -> None:
        """``take`` is called by all threads at once, until it returns None; what it raises ends the work."""
        self._migrator = migrator
        self._take = take
        self._listener = listener
        self._jobs = jobs
        self._clock = clock or SystemClock()
        self._inbox: SimpleQueue[_Started | _Visited | _Interrupt | _Ended] = SimpleQueue()
        """Holds at most two messages for each thread and tick; its ``put`` may be called in a signal handler."""

    def interrupt(self) -> None:
        """The first call lets transactions under way end and begins no other; the second cancels them.

        May be called from any thread and from a signal handler.
        """
        # In this order: threads that stop because of it say so behind it, and it is heard.
        self._inbox.put(_Interrupt())
        self._migrator.halt.stopping = True

    def work(self) -> None:
        """Returns when there is nothing more to take, or what was under way at an interrupt has ended."""
        threads = [threading.Thread(target=self._work, name=f"migrate-{number}") for number in range(self._jobs)]
        started: list[threading.Thread] = []
        try:
            for thread in threads:
                thread.start()
                started.append(thread)
            self._listen(len(threads))
        finally:
            # Reached early only when the listener raised: what is under way ends before its error goes on.
            self._migrator.halt.stopping = self._migrator.halt.stopping or any(each.is_alive() for each in started)
            for thread in started:
                thread.join()

    def _listen(self, working: int) -> None:
        interrupts = 0
        error: BaseException | None = None
        ticked = self._clock.monotonic()
        while working:
            message = self._next()
            if isinstance(message, _Visited):
                self._listener.finished(message.result)
                message.heard.set()
            elif isinstance(message, _Started):
                self._listener.started(message.slug)
            elif isinstance(message, _Interrupt):
                interrupts += 1
                self._listener.interrupted(cancelling=interrupts > 1)
                if interrupts == 2:
                    self._migrator.halt.cancel()
            elif isinstance(message, _Ended):
                working -= 1
                error = error or message.error
            if message is None or self._clock.monotonic() - ticked >= TICK_SECONDS:
                ticked = self._clock.monotonic()
                self._listener.tick()
        if error is not None:
            raise error

    def _next(self) -> _Started | _Visited | _Interrupt | _Ended | None:
        try:
            return self._inbox.get(timeout=TICK_SECONDS)
        except Empty:
            return None

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            while not self._migrator.halt.stopping and (slug := self._take()) is not None:
                self._inbox.put(_Started(slug))
                visited = _Visited(self._visit(slug), threading.Event())
                self._inbox.put(visited)
                if visited.result.outcome == "failed":
                    self._wait_until_judged(visited)
        except BaseException as raised:  # noqa: BLE001 - handed to the thread that waits for this one
            error = raised
        finally:
            self._inbox.put(_Ended(error))

    def _wait_until_judged(self, visited: _Visited) -> None:
        """Whoever met a failure begins no other tenant before the listener has said whether it was one too many."""
        while not visited.heard.wait(TICK_SECONDS) and not self._migrator.halt.stopping:
            pass

    def _visit(self, slug: TenantSlug) -> TenantResult:
        began = self._clock.monotonic()
        try:
            result = self._migrator.migrate(slug)
        except Exception as error:  # noqa: BLE001 - the boundary between tenants: a defect met at one stops nobody else
            late_log("migrations").exception("migrating a tenant failed unexpectedly", tenant=slug)
            message = str(error) if isinstance(error, TenantryError) else f"unexpected {type(error).__name__}"
            failure = Failure(kind="defect", message=message, next_step="the log has the traceback; report it")
            result = TenantResult(slug=slug, outcome="failed", failure=failure)
        return replace(result, seconds=self._clock.monotonic() - began)
