"""Verifications of backups, and how tenants stand with them: every question and change, in the caller's transaction.

A verification's project holds a customer's data, so it is written down before it is made: whoever comes later finds
the project of one that died, and deletes it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NewType
from uuid import UUID

from sqlalchemy import Connection, RowMapping, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.backups import BackupId
from tenantry.fleet.catalog.models import Backup, BackupSchedule, BackupVerification
from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.fleet.catalog.silence import unheard_for

VerificationId = NewType("VerificationId", UUID)
VerificationState = Literal["running", "passed", "failed", "broken"]
_TABLE: Final = BackupVerification.__table__


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationRecord:
    id: VerificationId
    backup_id: BackupId
    provider_id: ProviderId
    state: VerificationState
    started_at: datetime
    started_by: str
    finished_at: datetime | None
    seconds: float | None
    proof: Mapping[str, object] | None
    failure: Mapping[str, object] | None
    cleared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """How a ready tenant stands: its newest backup, what proves one of its backups, and what was tried last."""

    tenant_id: TenantId
    slug: str
    name: str
    plan: str
    cron: str | None
    """Its own, or its plan's."""
    keep: str | None
    backups: int
    """That can be restored."""
    newest: BackupId | None
    newest_at: datetime | None
    """As of when its content is."""
    seen_at: datetime | None
    """Until when the tenant is known not to have changed since."""
    newest_doubted: bool
    verified: BackupId | None
    """The one that was verified last."""
    verified_as_of: datetime | None
    verified_at: datetime | None
    tried_at: datetime | None
    """When its newest backup was last tried, whatever came of it."""
    tried_state: VerificationState | None
    failure: Mapping[str, object] | None
    """Of the last try of its newest backup."""


def begin_verification(
    connection: Connection, verification_id: VerificationId, backup_id: BackupId, provider_id: ProviderId, *, by: str
) -> bool:
    """Before its project is made. False: somebody else is at it."""
    row = insert(BackupVerification).values(
        id=verification_id, backup_id=backup_id, provider_id=provider_id, started_by=by
    )
    done = connection.execute(
        row.on_conflict_do_nothing(index_elements=["backup_id"], index_where=text("state = 'running'")).returning(
            BackupVerification.id
        )
    )
    return done.one_or_none() is not None


def beat_verifications(connection: Connection, ids: Collection[VerificationId]) -> None:
    """Whoever verifies is alive."""
    connection.execute(update(BackupVerification).where(BackupVerification.id.in_(ids)).values(seen_at=func.now()))


def finish_verification(
    connection: Connection,
    verification_id: VerificationId,
    state: VerificationState,
    *,
    seconds: float | None,
    proof: Mapping[str, object] | None,
    failure: Mapping[str, object] | None,
    doubt: bool,
) -> bool:
    """What came of it, in the backup's row too. False: it was given up, or the backup is being deleted; nothing counts.

    ``doubt``: the backup is not what was written, and counts as a good one no more.
    """
    table = BackupVerification
    done = connection.execute(
        update(table)
        .where(table.id == verification_id, table.state == "running")
        .values(
            state=state,
            seconds=seconds,
            proof=None if proof is None else dict(proof),
            failure=None if failure is None else dict(failure),
            finished_at=func.now(),
            seen_at=func.now(),
        )
        .returning(table.backup_id)
    ).one_or_none()
    if done is None:
        return False
    said: dict[str, object] = {}
    if state == "passed":
        said = {"verified_at": func.now(), "doubted_at": None}
    elif doubt:
        said = {"doubted_at": func.now(), "verified_at": None}
    if not said:
        return True
    kept = connection.execute(
        update(Backup).where(Backup.id == done.backup_id, Backup.state == "done").values(**said).returning(Backup.id)
    )
    return kept.one_or_none() is not None


def uncleared_verifications(connection: Connection, *, silent_seconds: float, limit: int) -> list[VerificationRecord]:
    """Those whose project may still be there, and that nobody is at work on; the oldest first."""
    table = BackupVerification
    query = select(_TABLE).where(~table.cleared, unheard_for(table.seen_at, silent_seconds))
    return [_record(row) for row in connection.execute(query.order_by(table.started_at).limit(limit)).mappings()]


def give_up_verification(connection: Connection, verification_id: VerificationId, *, silent_seconds: float) -> bool:
    """Its project may be deleted, and nothing counts that is said of it from now on. False when it was heard of."""
    table = BackupVerification
    given_up = connection.execute(
        update(table)
        .where(table.id == verification_id, ~table.cleared, unheard_for(table.seen_at, silent_seconds))
        .values(
            state=func.coalesce(func.nullif(table.state, "running"), "broken"),
            finished_at=func.coalesce(table.finished_at, func.now()),
        )
        .returning(table.id)
    )
    return given_up.one_or_none() is not None


def projects_there(connection: Connection) -> set[UUID]:
    """What the names of projects end with that are restored into now, or that a sweep will delete."""
    return set(connection.execute(select(BackupVerification.id).where(~BackupVerification.cleared)).scalars())


def clear_verification(connection: Connection, verification_id: VerificationId) -> None:
    """Its project is gone. One that died is over now, and proves nothing."""
    table = BackupVerification
    connection.execute(
        update(table)
        .where(table.id == verification_id)
        .values(
            cleared=True,
            finished_at=func.coalesce(table.finished_at, func.now()),
            state=func.coalesce(func.nullif(table.state, "running"), "broken"),
        )
    )


def passed_verifications(connection: Connection, backup_ids: Collection[BackupId]) -> list[VerificationRecord]:
    """The last of each of these backups that it has passed."""
    table = BackupVerification
    newest = func.row_number().over(partition_by=table.backup_id, order_by=table.finished_at.desc()).label("newest")
    passed = select(_TABLE, newest).where(table.backup_id.in_(backup_ids), table.state == "passed").subquery("passed")
    return [_record(row) for row in connection.execute(select(passed).where(passed.c.newest == 1)).mappings()]


def proven_page(
    connection: Connection, *, slugs: Sequence[str] | None = None, after: str = "", limit: int
) -> list[Proven]:
    """Ready tenants in the order of their slugs."""
    mine = Backup.project_id == models.Project.id
    newest = (
        select(Backup.id, Backup.started_at, Backup.unchanged_at, Backup.doubted_at)
        .where(mine, Backup.state == "done")
        .order_by(Backup.started_at.desc())
        .limit(1)
        .lateral("newest")
    )
    verified = (
        select(Backup.id, Backup.started_at, Backup.verified_at)
        .where(mine, Backup.state == "done", Backup.verified_at.is_not(None))
        .order_by(Backup.verified_at.desc())
        .limit(1)
        .lateral("verified")
    )
    tried = (
        select(BackupVerification.started_at, BackupVerification.state, BackupVerification.failure)
        .where(BackupVerification.backup_id == newest.c.id)
        .order_by(BackupVerification.started_at.desc())
        .limit(1)
        .lateral("tried")
    )
    good = select(func.count()).where(mine, Backup.state == "done").correlate(models.Project).scalar_subquery()
    days = func.nullif(func.concat(models.Plan.backup_keep_days, "d"), "d")
    query = (
        select(
            models.Project.id.label("tenant_id"),
            models.Customer.slug,
            models.Customer.name,
            models.Customer.plan_slug.label("plan"),
            func.coalesce(BackupSchedule.cron, models.Plan.backup_cron).label("cron"),
            func.coalesce(BackupSchedule.keep, models.Plan.backup_keep, days).label("keep"),
            good.label("backups"),
            newest.c.id.label("newest"),
            newest.c.started_at.label("newest_at"),
            newest.c.unchanged_at.label("seen_at"),
            newest.c.doubted_at.is_not(None).label("newest_doubted"),
            verified.c.id.label("verified"),
            verified.c.started_at.label("verified_as_of"),
            verified.c.verified_at,
            tried.c.started_at.label("tried_at"),
            tried.c.state.label("tried_state"),
            tried.c.failure,
        )
        .select_from(models.Project)
        .join(models.Customer, models.Customer.id == models.Project.customer_id)
        .join(models.Plan, models.Plan.slug == models.Customer.plan_slug)
        .outerjoin(BackupSchedule, BackupSchedule.project_id == models.Project.id)
        .outerjoin(newest, text("true"))
        .outerjoin(verified, text("true"))
        .outerjoin(tried, text("true"))
        .where(models.Project.state == "ready", models.Customer.slug > after)
    )
    if slugs is not None:
        query = query.where(models.Customer.slug.in_(slugs))
    found = connection.execute(query.order_by(models.Customer.slug).limit(limit)).mappings()
    return [Proven(**row) for row in found]


def _record(row: RowMapping) -> VerificationRecord:
    fields = {name: row[name] for name in VerificationRecord.__dataclass_fields__}
    return VerificationRecord(**fields)
