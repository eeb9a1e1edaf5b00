"""The catalog's tables of backups: keys of tenants, backups with what became of them, schedules."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, text
from sqlalchemy.dialects.postgresql import JSONB

from tenantry.fleet.catalog.models.base import NOW, Base, Mapped, mapped_column


class TenantKey(Base):
    """What a tenant's backups are encrypted with, sealed by the fleet's key. Deleting ``sealed`` shreds them all."""

    __tablename__ = "tenant_key"
    __table_args__ = (
        CheckConstraint("(shredded_at IS NULL) = (sealed IS NOT NULL)", name="shredded_at"),
        Index("tenant_key_project_id_key", "project_id", unique=True, postgresql_where=text("shredded_at IS NULL")),
        Index("tenant_key_project_id_idx", "project_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """Of the key itself: it says which one it is, and nothing of it."""
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"))
    sealed: Mapped[bytes | None] = mapped_column(LargeBinary())
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    shredded_at: Mapped[datetime | None]


class Backup(Base):
    """One backup of one tenant: ``running -> done | failed``, and ``done -> deleting -> deleted``.

    Written before anything is in the vault, so that what a killed process left there is found. ``done`` says that its
    manifest is there; that it restores is said by ``verified_at`` alone.
    """

    __tablename__ = "backup"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'done', 'failed', 'deleting', 'deleted')", name="state"),
        CheckConstraint("state IN ('running', 'failed') OR manifest_sha256 IS NOT NULL", name="manifest_sha256"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_at"),
        Index("backup_project_id_started_at_idx", "project_id", text("started_at DESC")),
        Index("backup_done_project_id_idx", "project_id", "started_at", postgresql_where=text("state = 'done'")),
        Index("backup_open_idx", "started_at", postgresql_where=text("state IN ('running', 'deleting')")),
        Index("backup_key_id_idx", "key_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"))
    slug: Mapped[str]
    """As the customer was called then: the folder in the vault."""
    vault: Mapped[str]
    """Its URL, without any secret."""
    place: Mapped[str]
    """What the keys of its objects begin with: ``acme-corp/2026-11-30T03-15-00Z-...``."""
    key_id: Mapped[str] = mapped_column(ForeignKey("tenant_key.id"))
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_by: Mapped[str]
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    """When whoever takes or deletes it was last heard of."""
    finished_at: Mapped[datetime | None]
    manifest_sha256: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """In the vault."""
    rows: Mapped[int | None] = mapped_column(BigInteger)
    fingerprint: Mapped[str | None]
    """Of the schema of the tenant's own database."""
    activity: Mapped[dict[str, object] | None] = mapped_column(JSONB())
    """What the provider told of the tenant when this was taken; while it tells the same, nothing has changed."""
    unchanged_at: Mapped[datetime | None]
    """When somebody last saw that the tenant was still as it is in here, and left it asleep."""
    failure: Mapped[dict[str, object] | None] = mapped_column(JSONB())
    verified_at: Mapped[datetime | None]
    """When it was last restored, compared and found to be what it should be."""
    doubted_at: Mapped[datetime | None]
    """When it was last found to be something else: damaged, or not what its manifest says. Such a one is not good."""


class BackupSchedule(Base):
    """What one tenant has of its own, over what its plan says."""

    __tablename__ = "backup_schedule"

    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"), primary_key=True)
    cron: Mapped[str | None]
    """Five fields, in UTC; ``never``; None: as the plan says."""
    keep: Mapped[str | None]
    """Such as ``14d`` or ``daily=7 weekly=4``; None: as the plan says."""
    set_at: Mapped[datetime] = mapped_column(server_default=NOW)
    set_by: Mapped[str]


class BackupVerification(Base):
    """One backup restored for proof: ``running -> passed | failed | broken``.

    Written before its project is made, which holds a customer's data: whoever comes later finds the project of one that
    died, and deletes it. ``failed`` is the backup's fault, or its content's; ``broken`` is nobody's who it is about.
    """

    __tablename__ = "backup_verification"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'passed', 'failed', 'broken')", name="state"),
        CheckConstraint("(state = 'running') = (finished_at IS NULL)", name="finished_at"),
        Index("backup_verification_backup_id_idx", "backup_id", text("started_at DESC")),
        Index("backup_verification_running_key", "backup_id", unique=True, postgresql_where=text("state = 'running'")),
        Index("backup_verification_provider_id_idx", "provider_id"),
        Index("backup_verification_uncleared_idx", "started_at", postgresql_where=text("NOT cleared")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    """The name of its project ends with it."""
    backup_id: Mapped[str] = mapped_column(ForeignKey("backup.id", ondelete="CASCADE"))
    provider_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("provider.id"))
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_by: Mapped[str]
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    """How long the restore took, from an empty project to the last row."""
    proof: Mapped[dict[str, object] | None] = mapped_column(JSONB())
    """What was compared, and what came of it."""
    failure: Mapped[dict[str, object] | None] = mapped_column(JSONB())
    cleared: Mapped[bool] = mapped_column(server_default=text("false"))
    """Whether its project is gone."""
