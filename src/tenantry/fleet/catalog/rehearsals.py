"""Rehearsals of migrations, and the branches that they made. Each runs in the caller's transaction.

A branch holds a customer's data, so its rehearsal is written down before it is made: whoever comes later finds the
branches of one that died, and deletes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, text, update

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import TenantId

REHEARSALS_KEPT: Final = 100
"""Rehearsals that the catalog remembers. One whose branches may be there is not forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsalRecord:
    id: str
    format: str
    directory: str
    checksum: str
    migrations: Mapping[str, str]
    """Version to checksum."""
    tenants: Sequence[TenantId]
    report: object
    """The rehearsal's own document; None while it is under way, and for ever when it died."""
    passed: bool | None
    started_at: datetime
    finished_at: datetime | None
    started_by: str


def begin_rehearsal(
    connection: Connection,
    rehearsal_id: str,
    *,
    format: str,
    directory: str,
    checksum: str,
    migrations: Mapping[str, str],
    tenants: Sequence[TenantId],
    by: str,
) -> datetime:
    """Before the first branch is made. Returns when, by the catalog's clock."""
    table = models.MigrationRehearsal
    started_at: datetime = connection.execute(
        insert(table)
        .values(
            id=rehearsal_id,
            format=format,
            directory=directory,
            checksum=checksum,
            migrations=dict(migrations),
            tenants=list(tenants),
            started_by=by,
        )
        .returning(table.started_at)
    ).scalar_one()
    kept = select(table.id).order_by(table.started_at.desc(), table.id.desc()).limit(REHEARSALS_KEPT)
    connection.execute(delete(table).where(table.id.not_in(kept), table.cleared_at.is_not(None)))
    return started_at


def beat(connection: Connection, rehearsal_id: str) -> None:
    """Whoever rehearses is alive."""
    table = models.MigrationRehearsal
    connection.execute(update(table).where(table.id == rehearsal_id).values(seen_at=func.now()))


def finish_rehearsal(connection: Connection, rehearsal_id: str, *, report: object, passed: bool, cleared: bool) -> None:
    """``cleared``: no branch of it is there any more, or those that are expire as they should."""
    table = models.MigrationRehearsal
    connection.execute(
        update(table)
        .where(table.id == rehearsal_id)
        .values(
            report=report,
            passed=passed,
            finished_at=func.now(),
            seen_at=func.now(),
            cleared_at=func.now() if cleared else None,
        )
    )


def uncleared(connection: Connection, *, silent_seconds: float, limit: int) -> list[RehearsalRecord]:
    """Those whose branches may still be there, and that nobody is at work on; the oldest first."""
    table = models.MigrationRehearsal
    silent = func.now() - text(f"interval '{silent_seconds} seconds'")
    query = select(table.__table__).where(
        table.cleared_at.is_(None), table.finished_at.is_not(None) | (table.seen_at < silent)
    )
    rows = connection.execute(query.order_by(table.started_at).limit(limit)).mappings()
    return [_record(row) for row in rows]


def clear(connection: Connection, rehearsal_id: str) -> None:
    """Its branches are gone. One that died is over now, and has not passed."""
    table = models.MigrationRehearsal
    connection.execute(
        update(table)
        .where(table.id == rehearsal_id)
        .values(
            cleared_at=func.now(),
            finished_at=func.coalesce(table.finished_at, func.now()),
            passed=func.coalesce(table.passed, text("false")),
        )
    )


def rehearsals_page(connection: Connection, *, format: str | None = None, limit: int) -> list[RehearsalRecord]:
    """Those that have ended with a report, the newest first."""
    table = models.MigrationRehearsal
    query = select(table.__table__).where(table.report.is_not(None))
    if format is not None:
        query = query.where(table.format == format)
    rows = connection.execute(query.order_by(table.started_at.desc(), table.id.desc()).limit(limit)).mappings()
    return [_record(row) for row in rows]


def _record(row: RowMapping) -> RehearsalRecord:
    return RehearsalRecord(
        id=row["id"],
        format=row["format"],
        directory=row["directory"],
        checksum=row["checksum"],
        migrations=row["migrations"],
        tenants=[TenantId(each) for each in row["tenants"]],
        report=row["report"],
        passed=row["passed"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        started_by=row["started_by"],
    )
