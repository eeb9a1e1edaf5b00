"""Work on many tenants side by side, in threads: what goes wrong with one stops nobody else, and memory stays small.

Who is next is asked for when somebody is free, and what came of it is told in the caller's own thread.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final, Generic, TypeVar

from sqlalchemy import Connection

from tenantry.errors import TenantryError, VaultError
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.runtime.beating import beating
from tenantry.runtime.telemetry import late_log

JOBS_DEFAULT: Final = 4
JOBS_MAX: Final = 64
BEAT_SECONDS: Final = 10.0
SILENT_SECONDS: Final = 120.0
"""Whoever works on a backup and was not heard of for so long is dead."""
VAULT_FAILURES_MIN: Final = 3
"""So many in a row, and as many as work at a time, and the vault is taken to be away."""
_TICK_SECONDS: Final = 0.2

T = TypeVar("T")
Id = TypeVar("Id")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """What came of one: a result, or the error that kept it from it."""

    slug: str
    seconds: float
    result: T | None
    error: TenantryError | None


class VaultWatch:
    """Whether the vault is away: then nobody else is begun, who would wait as long and be woken for nothing. Pure."""

    def __init__(self, jobs: int) -> None:
        self._failures_max: Final = max(jobs, VAULT_FAILURES_MIN)
        self._in_a_row = 0
        self.away: VaultError | None = None
        """What it said last; None: it answers, as far as anybody knows."""

    def still_answers(self, error: TenantryError | None) -> bool:
        """After what came of one more tenant. What failed by itself says nothing about the vault."""
        if error is None:
            self._in_a_row = 0
        elif isinstance(error, VaultError):
            self._in_a_row += 1
            if self._in_a_row >= self._failures_max:
                self.away = error
        return self.away is None


def work_on(
    slugs: Iterable[str],
    work: Callable[[str], T],
    *,
    jobs: int,
    tell: Callable[[Done[T]], None],
    until: float | None = None,
    goes_on: Callable[[Done[T]], bool] = lambda _: True,
    on_interrupt: Callable[[], None] = lambda: None,
) -> list[str]:
    """Begins no other once ``until`` (monotonic) has come or ``goes_on`` has said no; says who was left.

    ``goes_on`` hears of each in the thread that did it, one at a time, before that thread begins another.
    Ctrl-C lets what is under way end, which ``on_interrupt`` is told of, and is raised then. A second one is raised at
    once: what is under way then ends with the process, and is cleared up as if that had been killed.
    """
    waiting = iter(slugs)
    turn = threading.Lock()
    inbox: SimpleQueue[Done[T] | None] = SimpleQueue()
    halt = _Halt()

    def take() -> str | None:
        with turn:
            if halt.stopping or (until is not None and time.monotonic() >= until):
                return None
            return next(waiting, None)

    def run() -> None:
        try:
            while (slug := take()) is not None:
                began = time.monotonic()
                result: T | None = None
                error: TenantryError | None = None
                try:
                    result = work(slug)
                except TenantryError as failure:
                    error = failure
                except Exception as failure:  # noqa: BLE001 - the boundary between tenants
                    late_log("backups").exception("working on a tenant failed unexpectedly", tenant=slug)
                    error = TenantryError(f"unexpected {type(failure).__name__}", next_step="the log has the traceback")
                done = Done(slug, time.monotonic() - began, result, error)
                with turn:
                    if not goes_on(done):
                        halt.stopping = True
                inbox.put(done)
        finally:
            inbox.put(None)

    threads = [threading.Thread(target=run, name=f"backup-{number}", daemon=True) for number in range(jobs)]
    with _interruptible(halt):
        try:
            for thread in threads:
                thread.start()
            living, told = len(threads), False
            while living:
                with contextlib.suppress(Empty):
                    done = inbox.get(timeout=_TICK_SECONDS)
                    if done is None:
                        living -= 1
                    else:
                        tell(done)
                if halt.interrupts and not told:
                    told = True
                    on_interrupt()
        finally:
            halt.stopping = True
    if halt.interrupts:
        raise KeyboardInterrupt
    return list(waiting)


class _Halt:
    """Plain fields, since a signal handler sets them: a lock could be held by whom it interrupts."""

    def __init__(self) -> None:
        self.stopping = False
        self.interrupts = 0


@contextmanager
def _interruptible(halt: _Halt) -> Generator[None]:
    """So that no KeyboardInterrupt falls between hearing of somebody and telling of him, but a second one anywhere."""
    # In a shell's background Ctrl-C is for others, and ignored.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        halt.stopping = True
        halt.interrupts += 1
        if halt.interrupts > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def kept_alive(
    catalog: Catalog, what: str, living: Callable[[], list[Id]], beat: Callable[[Connection, list[Id]], None]
) -> AbstractContextManager[None]:
    """Says meanwhile that those (``what``: backups, verifications) are worked on."""

    def beat_all() -> None:
        if ids := living():
            with catalog.transaction() as connection:
                beat(connection, ids)

    return beating(what, BEAT_SECONDS, beat_all)
