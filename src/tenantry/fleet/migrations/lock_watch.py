"""Watches, from a second connection, which tables somebody keeps others out of, and for how long at most.

A lock is known to be held when it is seen, and not to be held when it is not: what lies between two looks is counted as
held. The in-between of a migration that no look has met is told by its own session.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import psycopg

from tenantry.fleet.migrations import tenant_sql

LOOK_SECONDS: Final = 0.02
"""Between two looks."""
LOCKS_MAX: Final = 10_000
"""Locks that one look takes in."""
STOP_SECONDS_MAX: Final = 10.0

Key = tuple[int, str]
"""A relation's oid, and the mode of a lock on it."""


@dataclass(frozen=True, slots=True)
class Span:
    """From a moment at which the lock may have been taken to one by which it was gone (``time.monotonic``)."""

    since: float
    until: float

    @property
    def seconds(self) -> float:
        return self.until - self.since


@dataclass(slots=True)
class Spans:
    """What looks have seen so far. Pure: it is told of each look."""

    begun: float
    """The first lock may be as old as this."""
    spans: dict[Key, Span] = field(default_factory=dict[Key, Span])
    """The longest of each lock."""
    names: dict[int, str] = field(default_factory=dict[int, str])
    _open: dict[Key, float] = field(default_factory=dict[Key, float])
    _last: float | None = None

    def look(self, seen: Iterable[tuple[int, str, str]], before: float, after: float) -> None:
        """A look that began at ``before`` and ended at ``after`` saw these: oid, name and mode."""
        now: set[Key] = set()
        for oid, name, mode in seen:
            self.names[oid] = name
            now.add((oid, mode))
        for key in now - self._open.keys():
            self._open[key] = self.begun if self._last is None else self._last
        for key in self._open.keys() - now:
            self._close(key, after)
        # A lock that was taken while this look looked may not have been seen by it.
        self._last = before

    def close(self, at: float) -> None:
        """Nobody looks any more."""
        for key in list(self._open):
            self._close(key, at)

    def _close(self, key: Key, at: float) -> None:
        span = Span(self._open.pop(key), at)
        known = self.spans.get(key)
        if known is None or span.seconds > known.seconds:
            self.spans[key] = span


class LockWatch:
    """Looks all the time while it is entered. What it cannot see is not told of, and ``failure`` says why."""

    def __init__(self, dsn: str, *, connect_seconds: float) -> None:
        """``dsn`` is a secret."""
        self._dsn = dsn
        self._connect_seconds = connect_seconds
        self._stopping = threading.Event()
        self._looking = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lock-watch", daemon=True)
        self.spans = Spans(time.monotonic())
        self.failure: str | None = None

    def __enter__(self) -> Self:
        """Returns when the first look was taken, or could not be."""
        self._thread.start()
        self._looking.wait(self._connect_seconds + STOP_SECONDS_MAX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(STOP_SECONDS_MAX)
        self.spans.close(time.monotonic())

    def _watch(self) -> None:
        try:
            with psycopg.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=max(2, round(self._connect_seconds)),
                application_name="tenantry rehearsal",
            ) as connection:
                self.spans.begun = time.monotonic()
                while not self._stopping.is_set():
                    self._look(connection)
                    self._looking.set()
                    self._stopping.wait(LOOK_SECONDS)
                # What ended meanwhile is seen to be gone.
                self._look(connection)
        except psycopg.Error as error:
            self.failure = " ".join((error.diag.message_primary or str(error)).split())
        finally:
            self._looking.set()

    def _look(self, connection: psycopg.Connection) -> None:
        before = time.monotonic()
        rows = connection.execute(tenant_sql.LOCKS_OF_OTHERS, [list(tenant_sql.STRONG_LOCKS), LOCKS_MAX]).fetchall()
        self.spans.look(((oid, f"{schema}.{name}", mode) for oid, schema, name, mode in rows), before, time.monotonic())
