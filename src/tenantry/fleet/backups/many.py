"""Work on many tenants side by side, in threads: what goes wrong with one stops nobody else, and memory stays small.

Who is next is asked for when somebody is free, and what came of it is told in the caller's own thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from sqlalchemy import Connection

from tenantry.errors import TenantryError, VaultError
from tenantry.fleet.catalog.catalog import Catalog
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
) -> list[str]:
    """Begins no other once ``until`` (monotonic) has come or ``goes_on`` has said no; says who was left.

    ``goes_on`` hears of each in the thread that did it, one at a time, before that thread begins another.
    An interrupt lets what is under way end, and is raised then.
    """
    waiting = iter(slugs)
    turn = threading.Lock()
    inbox: SimpleQueue[Done[T] | None] = SimpleQueue()
    stop = threading.Event()

    def take() -> str | None:
        with turn:
            if stop.is_set() or (until is not None and time.monotonic() >= until):
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
                        stop.set()
                inbox.put(done)
        finally:
            inbox.put(None)

    threads = [threading.Thread(target=run, name=f"backup-{number}", daemon=True) for number in range(jobs)]
    for thread in threads:
        thread.start()
    living = len(threads)
    interrupted: KeyboardInterrupt | None = None
    while living:
        try:
            with contextlib.suppress(Empty):
                done = inbox.get(timeout=_TICK_SECONDS)
                if done is None:
                    living -= 1
                else:
                    tell(done)
        except KeyboardInterrupt as interrupt:
            if interrupted is not None:
                raise
            interrupted = interrupt
            stop.set()
        except BaseException:
            stop.set()
            raise
    if interrupted is not None:
        raise interrupted
    return list(waiting)


@contextmanager
def beating(
    catalog: Catalog, what: str, living: Callable[[], list[Id]], beat: Callable[[Connection, list[Id]], None]
) -> Generator[None]:
    """Says meanwhile that those (``what``: backups, verifications) are worked on."""
    ended = threading.Event()

    def go_on() -> None:
        while not ended.wait(BEAT_SECONDS):
            ids = living()
            if not ids:
                continue
            try:
                with catalog.transaction() as connection:
                    beat(connection, ids)
            except TenantryError as error:
                late_log("backups").warning(f"the catalog did not hear that {what} are under way", reason=str(error))

    thread = threading.Thread(target=go_on, name=f"{what}-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
