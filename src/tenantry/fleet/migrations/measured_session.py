"""A tenant's session that tells what each migration did: statement by statement, by the server's own counters.

Applies what the plain session applies; only, the statements of a segment are sent one after another, since a server
answers a message of several at its end.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, cast

import psycopg

from tenantry.fleet.migrations import tenant_sql
from tenantry.fleet.migrations.formats.base import Migration, Segment
from tenantry.fleet.migrations.lock_watch import LOCKS_MAX, Key
from tenantry.fleet.migrations.rehearsal import MigrationReport, RewriteReport, StatementReport
from tenantry.fleet.migrations.session import TenantSession
from tenantry.fleet.migrations.statements import Statement
from tenantry.postgres.lsn import Lsn

EXCERPT_LENGTH_MAX: Final = 80
STATEMENTS_MAX: Final = 1_000
"""Statements of one migration whose time is told."""


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    file: int | None
    bytes: int
    written: int
    read: int


@dataclass(frozen=True, slots=True)
class _State:
    lsn: Lsn
    tables: Mapping[int, _Table]


@dataclass(slots=True)
class Measured:
    """What one session did. One thread writes it."""

    migrations: dict[str, MigrationReport] = field(default_factory=dict[str, MigrationReport])
    taken: dict[Key, tuple[str, float]] = field(default_factory=dict[Key, tuple[str, float]])
    """Locks that were held after a migration: the first such migration, and when it had begun."""
    names: dict[int, str] = field(default_factory=dict[int, str])
    """Tables that were there before the first migration."""
    committed_at: float | None = None


class MeasuredSession(TenantSession):
    """See the module. ``measured`` may be read when the session has ended, also when it failed."""

    def __init__(self, connection: psycopg.Connection, measured: Measured) -> None:
        super().__init__(connection)
        self._measured = measured
        self._before: _State | None = None

    def send(self, migration: Migration, segment: Segment) -> None:
        began = time.monotonic()
        before = self._before or self._measure()
        if not self._measured.migrations and not self._measured.names:
            self._measured.names.update((oid, table.name) for oid, table in before.tables.items())
        parts = _parts(segment)
        times: list[StatementReport] = []
        try:
            for part in parts:
                at = time.monotonic()
                super().send(migration, part)
                times.append(_told(migration, part, time.monotonic() - at))
        finally:
            self._add(migration, began, times)
        after = self._measure()
        self._compare(migration, before, after)
        self._before = after
        for oid, mode in cast(
            "list[tuple[int, str]]",
            self.query(tenant_sql.OWN_LOCKS, [list(tenant_sql.STRONG_LOCKS), LOCKS_MAX]),
        ):
            self._measured.taken.setdefault((oid, mode), (migration.version, began))

    def commit(self) -> None:
        super().commit()
        self._measured.committed_at = time.monotonic()
        # Counters are of a transaction.
        self._before = None

    def _measure(self) -> _State:
        rows = self.query(tenant_sql.MEASURE, [tenant_sql.TABLES_MAX])
        tables = {
            cast(int, oid): _Table(
                f"{schema}.{name}",
                cast("int | None", file),
                cast("int | None", size) or 0,
                cast(int, written),
                cast(int, read),
            )
            for oid, schema, name, file, size, written, read in rows
        }
        return _State(self.position(), tables)

    def _add(self, migration: Migration, began: float, times: list[StatementReport]) -> None:
        known = self._measured.migrations.get(migration.version)
        if known is None:
            known = MigrationReport(version=migration.version, file=migration.file, seconds=0.0)
        self._measured.migrations[migration.version] = replace(
            known,
            seconds=known.seconds + time.monotonic() - began,
            statements=(*known.statements, *times)[:STATEMENTS_MAX],
        )

    def _compare(self, migration: Migration, before: _State, after: _State) -> None:
        known = self._measured.migrations[migration.version]
        both = [(oid, before.tables[oid], table) for oid, table in after.tables.items() if oid in before.tables]
        self._measured.migrations[migration.version] = replace(
            known,
            rewritten=(
                *known.rewritten,
                *(
                    RewriteReport(table=new.name, bytes_before=old.bytes, bytes_after=new.bytes)
                    for oid, old, new in both
                    if old.file != new.file and oid in self._measured.names
                ),
            ),
            rows_read=known.rows_read + sum(max(0, new.read - old.read) for _, old, new in both),
            rows_written=known.rows_written
            + sum(max(0, table.written - _written(before, oid)) for oid, table in after.tables.items()),
            wal_bytes=known.wal_bytes + max(0, after.lsn - before.lsn),
        )


def _written(state: _State, oid: int) -> int:
    return state.tables[oid].written if oid in state.tables else 0


def _parts(segment: Segment) -> list[Segment]:
    """The segment's statements, each a segment of its own. Pure."""
    if len(segment.statements) < 2:
        return [segment]
    return [
        Segment(
            text=segment.text[each.start : each.end],
            offset=segment.offset + each.start,
            statements=(Statement(0, each.end - each.start, each.words),),
            statements_before=segment.statements_before + number,
        )
        for number, each in enumerate(segment.statements)
    ]


def _told(migration: Migration, part: Segment, seconds: float) -> StatementReport:
    start = part.statements[0].start if part.statements else 0
    line, _ = migration.line_and_column(part.offset + start)
    end = part.statements[0].end if part.statements else len(part.text)
    excerpt = " ".join(part.text[start:end].split())[:EXCERPT_LENGTH_MAX]
    return StatementReport(statement=part.statements_before + 1, line=line, excerpt=excerpt, seconds=seconds)
