"""Backups and the keys that they are encrypted with: every question about them and every change to them, by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NewType

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.models import Backup, BackupSchedule, TenantKey
from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.fleet.catalog.silence import unheard_for
from tenantry.neon.ids import ProjectId

BackupId = NewType("BackupId", str)
KeyId = NewType("KeyId", str)
BackupState = Literal["running", "done", "failed", "deleting", "deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedKey:
    id: KeyId
    tenant_id: TenantId
    sealed: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRecord:
    """One backup as the catalog knows it."""

    id: BackupId
    tenant_id: TenantId
    slug: str
    vault: str
    place: str
    key_id: KeyId
    state: BackupState
    started_at: datetime
    started_by: str
    finished_at: datetime | None
    manifest_sha256: str | None
    size_bytes: int | None
    rows: int | None
    fingerprint: str | None
    activity: Mapping[str, object] | None
    unchanged_at: datetime | None
    failure: Mapping[str, object] | None
    verified_at: datetime | None
    doubted_at: datetime | None
    """When it was found not to be what was written; None: not so, as far as anybody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a ready tenant stands: what it wants, and what it has."""

    tenant_id: TenantId
    slug: str
    provider_id: ProviderId
    project_id: ProjectId
    plan: str
    cron: str | None
    """Its own, or its plan's; ``never`` and None: not by itself."""
    keep: str | None
    """Its own, or its plan's."""
    good: BackupRecord | None
    """The newest that is done, and was not found damaged."""
    tried_at: datetime | None
    """When the newest was begun, whatever came of it."""


_BACKUP = Backup.__table__


# -- keys ------------------------------------------------------------------------------------------------------------


def add_key(connection: Connection, tenant_id: TenantId, key_id: KeyId, sealed: bytes) -> SealedKey:
    """Gives the tenant this key, unless it has one already; returns the one that it has."""
    row = upsert(TenantKey).values(id=key_id, project_id=tenant_id, sealed=sealed)
    connection.execute(
        row.on_conflict_do_nothing(index_elements=["project_id"], index_where=TenantKey.shredded_at.is_(None))
    )
    found = key_of_tenant(connection, tenant_id)
    assert found is not None, "a living key of a tenant is there after it was written"
    return found


def key_of_tenant(connection: Connection, tenant_id: TenantId) -> SealedKey | None:
    """The one that new backups are encrypted with."""
    query = select(TenantKey.__table__).where(TenantKey.project_id == tenant_id, TenantKey.shredded_at.is_(None))
    return _key(connection.execute(query).mappings().one_or_none())


def key_by_id(connection: Connection, key_id: KeyId) -> SealedKey | None:
    """None also for one that was shredded."""
    query = select(TenantKey.__table__).where(TenantKey.id == key_id, TenantKey.shredded_at.is_(None))
    return _key(connection.execute(query).mappings().one_or_none())


def keys_page(connection: Connection, *, after: str = "", limit: int) -> list[KeyId]:
    """Keys that were not shredded, in the order of their ids."""
    query = select(TenantKey.id).where(TenantKey.shredded_at.is_(None), TenantKey.id > after)
    return [KeyId(each) for each in connection.execute(query.order_by(TenantKey.id).limit(limit)).scalars()]


def keys_by_fleet_key(connection: Connection) -> dict[str, int]:
    """How many keys each key of the fleet's has wrapped."""
    said = func.convert_from(TenantKey.sealed, "UTF8").cast(JSONB)["fleet_key"].astext
    query = select(said, func.count()).where(TenantKey.shredded_at.is_(None)).group_by(said)
    return {row[0]: row[1] for row in connection.execute(query)}


def replace_key(connection: Connection, key_id: KeyId, *, before: bytes, sealed: bytes) -> bool:
    """The same key, wrapped otherwise. False where somebody has changed or shredded it meanwhile."""
    done = connection.execute(
        update(TenantKey)
        .where(TenantKey.id == key_id, TenantKey.sealed == before, TenantKey.shredded_at.is_(None))
        .values(sealed=sealed)
        .returning(TenantKey.id)
    )
    return done.one_or_none() is not None


def vaults_in_use(connection: Connection) -> list[str]:
    """Where there are backups."""
    query = select(Backup.vault).where(Backup.state == "done").distinct().order_by(Backup.vault)
    return list(connection.execute(query).scalars())


def shred_keys(connection: Connection, tenant_id: TenantId) -> list[KeyId]:
    """Nobody reads the tenant's backups from now on; says which keys there ever were, for the vaults' copies."""
    connection.execute(
        update(TenantKey)
        .where(TenantKey.project_id == tenant_id, TenantKey.shredded_at.is_(None))
        .values(sealed=None, shredded_at=func.now())
    )
    return [
        KeyId(each)
        for each in connection.execute(select(TenantKey.id).where(TenantKey.project_id == tenant_id)).scalars()
    ]


def shredded_among(connection: Connection, key_ids: Collection[KeyId]) -> list[KeyId]:
    """Those of these keys that were shredded, whose copies elsewhere are to go too."""
    query = select(TenantKey.id).where(TenantKey.id.in_(key_ids), TenantKey.shredded_at.is_not(None))
    return [KeyId(each) for each in connection.execute(query).scalars()]


def _key(row: RowMapping | None) -> SealedKey | None:
    if row is None:
        return None
    return SealedKey(
        id=KeyId(row["id"]), tenant_id=TenantId(row["project_id"]), sealed=row["sealed"], created_at=row["created_at"]
    )


# -- backups ---------------------------------------------------------------------------------------------------------


def begin_backup(
    connection: Connection, backup_id: BackupId, tenant_id: TenantId, *, slug: str, vault: str, place: str,
    key_id: KeyId, by: str, started_at: datetime,
) -> None:  # fmt: skip
    """Written before the vault is touched."""
    connection.execute(
        insert(Backup).values(
            id=backup_id,
            project_id=tenant_id,
            slug=slug,
            vault=vault,
            place=place,
            key_id=key_id,
            started_by=by,
            started_at=started_at,
        )
    )


def beat_backups(connection: Connection, backup_ids: Collection[BackupId]) -> None:
    """Whoever works on these is alive."""
    connection.execute(update(Backup).where(Backup.id.in_(backup_ids)).values(seen_at=func.now()))


def finish_backup(
    connection: Connection,
    backup_id: BackupId,
    *,
    manifest_sha256: str,
    size_bytes: int,
    rows: int,
    fingerprint: str | None,
    activity: Mapping[str, object] | None,
    silent_seconds: float | None = None,
) -> bool:
    """Its manifest is in the vault. False when somebody has given it up meanwhile.

    ``silent_seconds`` says that it is done for somebody else, and only while he is silent for so long.
    """
    done = connection.execute(
        update(Backup)
        .where(Backup.id == backup_id, Backup.state == "running", *_silent(silent_seconds))
        .values(
            state="done",
            finished_at=func.now(),
            seen_at=func.now(),
            manifest_sha256=manifest_sha256,
            size_bytes=size_bytes,
            rows=rows,
            fingerprint=fingerprint,
            activity=None if activity is None else dict(activity),
        )
        .returning(Backup.id)
    )
    return done.one_or_none() is not None


def fail_backup(
    connection: Connection, backup_id: BackupId, failure: Mapping[str, object], *, silent_seconds: float | None = None
) -> bool:
    """It came to nothing. False when it had ended already, and, as above, when he who works on it was heard of."""
    done = connection.execute(
        update(Backup)
        .where(Backup.id == backup_id, Backup.state == "running", *_silent(silent_seconds))
        .values(state="failed", finished_at=func.now(), failure=dict(failure))
        .returning(Backup.id)
    )
    return done.one_or_none() is not None


def silent_backups(connection: Connection, *, silent_seconds: float, limit: int) -> list[BackupRecord]:
    """Those that nobody works on any more: begun, or to be deleted, and not heard of for so long; the oldest first."""
    query = select(_BACKUP).where(Backup.state.in_(["running", "deleting"]), *_silent(silent_seconds))
    return [_record(row) for row in connection.execute(query.order_by(Backup.started_at).limit(limit)).mappings()]


def _silent(seconds: float | None) -> list[ColumnElement[bool]]:
    return [] if seconds is None else [unheard_for(Backup.seen_at, seconds)]


def backup_by_id(connection: Connection, backup_id: str) -> BackupRecord | None:
    row = connection.execute(select(_BACKUP).where(Backup.id == backup_id)).mappings().one_or_none()
    return None if row is None else _record(row)


def backups_page(
    connection: Connection,
    *,
    tenant_id: TenantId | None = None,
    states: Sequence[BackupState] = (),
    limit: int,
) -> list[BackupRecord]:
    """The newest first."""
    query = select(_BACKUP)
    if tenant_id is not None:
        query = query.where(Backup.project_id == tenant_id)
    if states:
        query = query.where(Backup.state.in_(states))
    rows = connection.execute(query.order_by(Backup.started_at.desc(), Backup.id.desc()).limit(limit)).mappings()
    return [_record(row) for row in rows]


def good_backups(connection: Connection, tenant_ids: Collection[TenantId]) -> list[BackupRecord]:
    """All that are done of these tenants, the newest first."""
    query = select(_BACKUP).where(Backup.state == "done", Backup.project_id.in_(tenant_ids))
    return [_record(row) for row in connection.execute(query.order_by(Backup.started_at.desc())).mappings()]


def mark_unchanged(connection: Connection, backup_ids: Collection[BackupId]) -> None:
    """Their tenants are still as they are in these backups."""
    connection.execute(update(Backup).where(Backup.id.in_(backup_ids)).values(unchanged_at=func.now()))


def mark_deleting(connection: Connection, backup_id: BackupId) -> bool:
    """From here on it counts for nothing, and its objects may go. False when it is not one that is done.

    Refuses the tenant's newest good one in its vault, and the newest that is verified, whoever asks: the last way back
    is never taken away.
    """
    asked = select(Backup.project_id, Backup.vault).where(Backup.id == backup_id)
    found = connection.execute(asked).one_or_none()
    if found is None:
        return False
    # All good ones of the tenant are held, so that two who prune at once cannot delete each other's last one.
    good = connection.execute(
        select(Backup.id, Backup.verified_at, Backup.doubted_at)
        .where(Backup.project_id == found.project_id, Backup.vault == found.vault, Backup.state == "done")
        .order_by(Backup.started_at.desc())
        .with_for_update()
    ).all()
    verified = next((row.id for row in good if row.verified_at is not None), None)
    sound = next((row.id for row in good if row.doubted_at is None), None)
    if not good or backup_id in (good[0].id, sound, verified):
        return False
    done = connection.execute(
        update(Backup)
        .where(Backup.id == backup_id, Backup.state == "done")
        .values(state="deleting", seen_at=func.now())
        .returning(Backup.id)
    )
    return done.one_or_none() is not None


def backups_of_deleted_tenants(connection: Connection, *, vault: str, limit: int) -> list[BackupRecord]:
    """Good ones, as far as anybody can say who has no key for them any more; the oldest first."""
    gone = select(models.Project.id).where(models.Project.state == "deleted")
    query = select(_BACKUP).where(Backup.state == "done", Backup.vault == vault, Backup.project_id.in_(gone))
    return [_record(row) for row in connection.execute(query.order_by(Backup.started_at).limit(limit)).mappings()]


def mark_orphan_deleting(connection: Connection, backup_id: BackupId) -> bool:
    """The same for one whose tenant was deleted: there also the last one goes."""
    gone = select(models.Project.id).where(models.Project.state == "deleted")
    done = connection.execute(
        update(Backup)
        .where(Backup.id == backup_id, Backup.state == "done", Backup.project_id.in_(gone))
        .values(state="deleting", seen_at=func.now())
        .returning(Backup.id)
    )
    return done.one_or_none() is not None


def dead_places(connection: Connection, *, vault: str, places: Collection[str]) -> list[str]:
    """Those of these places of a vault that hold what failed, or was deleted."""
    query = select(Backup.place).where(
        Backup.vault == vault, Backup.place.in_(places), Backup.state.in_(["failed", "deleted"])
    )
    return list(connection.execute(query).scalars())


def mark_deleted(connection: Connection, backup_id: BackupId) -> None:
    """Nothing of it is in the vault any more."""
    connection.execute(update(Backup).where(Backup.id == backup_id, Backup.state == "deleting").values(state="deleted"))


def forget_backups(connection: Connection, *, kept_days: int, limit: int) -> int:
    """Rows of what failed or was deleted long ago go; says how many."""
    old = (
        select(Backup.id)
        .where(
            Backup.state.in_(["failed", "deleted"]),
            Backup.started_at < func.now() - text(f"interval '{int(kept_days)} days'"),
        )
        .limit(limit)
    )
    return len(connection.execute(delete(Backup).where(Backup.id.in_(old)).returning(Backup.id)).all())


# -- schedules -------------------------------------------------------------------------------------------------------


def set_schedule(connection: Connection, tenant_id: TenantId, *, cron: str | None, keep: str | None, by: str) -> None:
    """What the tenant has of its own from now on."""
    if cron is None and keep is None:
        connection.execute(delete(BackupSchedule).where(BackupSchedule.project_id == tenant_id))
        return
    row = upsert(BackupSchedule).values(project_id=tenant_id, cron=cron, keep=keep, set_by=by)
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["project_id"],
            set_={"cron": row.excluded.cron, "keep": row.excluded.keep, "set_by": by, "set_at": func.now()},
        )
    )


def own_schedule(connection: Connection, tenant_id: TenantId) -> tuple[str | None, str | None]:
    """Cron and keep of its own; None where it has what its plan says."""
    query = select(BackupSchedule.cron, BackupSchedule.keep).where(BackupSchedule.project_id == tenant_id)
    row = connection.execute(query).one_or_none()
    return (None, None) if row is None else (row.cron, row.keep)


def standings_page(
    connection: Connection, *, slugs: Collection[str] | None = None, after: str = "", limit: int
) -> list[Standing]:
    """Ready tenants in the order of their slugs, with what they want and have."""
    newest = (
        select(_BACKUP)
        .where(Backup.project_id == models.Project.id, Backup.state == "done", Backup.doubted_at.is_(None))
        .order_by(Backup.started_at.desc())
        .limit(1)
        .lateral("good")
    )
    tried = (
        select(func.max(Backup.started_at))
        .where(Backup.project_id == models.Project.id)
        .correlate(models.Project)
        .scalar_subquery()
    )
    days = func.nullif(func.concat(models.Plan.backup_keep_days, "d"), "d")
    query = (
        select(
            models.Project.id.label("tenant_id"),
            models.Customer.slug.label("tenant_slug"),
            models.Project.provider_id.label("provider_id"),
            models.Project.provider_project_id.label("provider_project_id"),
            models.Customer.plan_slug.label("plan_slug"),
            func.coalesce(BackupSchedule.cron, models.Plan.backup_cron).label("wanted_cron"),
            func.coalesce(BackupSchedule.keep, models.Plan.backup_keep, days).label("wanted_keep"),
            tried.label("tried_at"),
            newest,
        )
        .select_from(models.Project)
        .join(models.Customer, models.Customer.id == models.Project.customer_id)
        .join(models.Plan, models.Plan.slug == models.Customer.plan_slug)
        .outerjoin(BackupSchedule, BackupSchedule.project_id == models.Project.id)
        .outerjoin(newest, text("true"))
        .where(models.Project.state == "ready", models.Customer.slug > after)
    )
    if slugs is not None:
        query = query.where(models.Customer.slug.in_(slugs))
    rows = connection.execute(query.order_by(models.Customer.slug).limit(limit)).mappings()
    return [
        Standing(
            tenant_id=TenantId(row["tenant_id"]),
            slug=row["tenant_slug"],
            provider_id=ProviderId(row["provider_id"]),
            project_id=ProjectId(row["provider_project_id"]),
            plan=row["plan_slug"],
            cron=row["wanted_cron"],
            keep=row["wanted_keep"],
            good=None if row["id"] is None else _record(row),
            tried_at=row["tried_at"],
        )
        for row in rows
    ]


def _record(row: RowMapping) -> BackupRecord:
    return BackupRecord(
        id=BackupId(row["id"]),
        tenant_id=TenantId(row["project_id"]),
        slug=row["slug"],
        vault=row["vault"],
        place=row["place"],
        key_id=KeyId(row["key_id"]),
        state=row["state"],
        started_at=row["started_at"],
        started_by=row["started_by"],
        finished_at=row["finished_at"],
        manifest_sha256=row["manifest_sha256"],
        size_bytes=row["size_bytes"],
        rows=row["rows"],
        fingerprint=row["fingerprint"],
        activity=row["activity"],
        unchanged_at=row["unchanged_at"],
        failure=row["failure"],
        verified_at=row["verified_at"],
        doubted_at=row["doubted_at"],
    )
