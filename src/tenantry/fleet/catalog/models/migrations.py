"""Runs of migrations, what became of them for each tenant, and the schemas that were seen."""

from __future__ import annotations

import uuid
from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from tenantry.fleet.catalog.models.base import NOW, Base, Mapped, mapped_column


class MigrationFolder(Base):
    """A folder of migrations as it was when a run was planned, so that it is executed exactly so, on any machine."""

    __tablename__ = "migration_folder"
    __table_args__ = (CheckConstraint("octet_length(content) <= 33554432", name="content"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of the files' names and texts, in hexadecimal."""
    content: Mapped[bytes]
    """The files, packed (``migrations/bundle.py``)."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class MigrationRun(Base):
    """One run of migrations over the fleet: what was planned, and where it stands. Survives whoever carries it out."""

    __tablename__ = "migration_run"
    __table_args__ = (
        CheckConstraint("finished_at >= started_at", name="finished_at"),
        CheckConstraint("state IN ('planned', 'running', 'paused', 'stopped', 'aborted', 'finished')", name="state"),
        Index("migration_run_started_at_idx", text("started_at DESC")),
        Index(
            "migration_run_open_idx",
            "state",
            postgresql_where=text("state IN ('planned', 'running', 'paused', 'stopped')"),
        ),
        Index("migration_run_folder_digest_idx", "folder_digest"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    format: Mapped[str]
    directory: Mapped[str]
    target: Mapped[str | None]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    """None while it runs, and for ever when the runner was killed."""
    interrupted: Mapped[bool] = mapped_column(server_default=text("false"))
    counts: Mapped[dict[str, object]] = mapped_column(JSONB())
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    """``stopped``: a gate did; ``paused``: somebody did."""
    reason: Mapped[str | None]
    """Why it is paused, stopped or aborted."""
    created_by: Mapped[str | None]
    plan: Mapped[dict[str, object]] = mapped_column(JSONB(), server_default=text("'{}'::jsonb"))
    """How it is carried out: bounds, gates, what was selected (``migrations/run.py``)."""
    folder_digest: Mapped[str | None] = mapped_column(ForeignKey("migration_folder.digest"))
    """None for formats whose files alone do not say what is done."""
    fingerprint: Mapped[str | None]
    """Chains everything in the folder through ``target``; also what a tenant has that is current."""


class MigrationWave(Base):
    """A group of a run's tenants, done before the next one is begun."""

    __tablename__ = "migration_wave"
    __table_args__ = (CheckConstraint("state IN ('waiting', 'running', 'judging', 'passed', 'failed')", name="state"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("migration_run.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    state: Mapped[str] = mapped_column(server_default=text("'waiting'"))
    worker: Mapped[str | None]
    """Who judges it."""
    claimed_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    verdict: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    """What its gates said."""


class MigrationTenant(Base):
    """One tenant of a run: its wave, who works on it, and what became of it. Waiting while it has no outcome."""

    __tablename__ = "migration_tenant"
    __table_args__ = (
        CheckConstraint("outcome IN ('applied', 'current', 'failed', 'gone')", name="outcome"),
        Index("migration_tenant_waiting_idx", "run_id", "wave", "slug", postgresql_where=text("outcome IS NULL")),
        Index("migration_tenant_failed_idx", "run_id", "wave", postgresql_where=text("outcome = 'failed'")),
        Index("migration_tenant_claimed_idx", "run_id", "worker", postgresql_where=text("worker IS NOT NULL")),
        Index("migration_tenant_project_id_idx", "project_id", text("finished_at DESC")),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("migration_run.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"), primary_key=True)
    slug: Mapped[str]
    """As the tenant was called when it was planned."""
    provider_id: Mapped[uuid.UUID]
    """As of the plan, for how many are done at a time at one provider."""
    wave: Mapped[int]
    from_version: Mapped[str | None]
    pending: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    outcome: Mapped[str | None]
    applied: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    to_version: Mapped[str | None]
    failure: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    notes: Mapped[list[str] | None] = mapped_column(ARRAY(Text()))
    restore_point: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    seconds: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    fence: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Grows with each claim; a result that carries an older one is refused."""
    worker: Mapped[str | None]
    """Who works on it now."""
    claimed_at: Mapped[datetime | None]
    opens_at: Mapped[datetime | None]
    """Its maintenance window: not before, and not from ``closes_at`` on; None: any time."""
    closes_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class MigrationFailure(Base):
    """A tenant that a run could not bring up to date, and why."""

    __tablename__ = "migration_failure"
    __table_args__ = (Index("migration_failure_project_id_idx", "project_id"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("migration_run.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"), primary_key=True)
    slug: Mapped[str]
    """As the tenant was called in that run."""
    sqlstate: Mapped[str | None]
    result: Mapped[dict[str, object]] = mapped_column(JSONB())
    failed_at: Mapped[datetime] = mapped_column(server_default=NOW)


class MigrationRehearsal(Base):
    """Migrations that were tried on branches of real tenants; written before the first branch is made."""

    __tablename__ = "migration_rehearsal"
    __table_args__ = (
        Index("migration_rehearsal_started_at_idx", text("started_at DESC")),
        Index("migration_rehearsal_uncleared_idx", "started_at", postgresql_where=text("cleared_at IS NULL")),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """Its branches have this name, in every project."""
    format: Mapped[str]
    directory: Mapped[str]
    checksum: Mapped[str]
    """Of the format, the versions and their checksums."""
    migrations: Mapped[dict[str, str]] = mapped_column(JSONB())
    tenants: Mapped[list[uuid.UUID]] = mapped_column(ARRAY(UUID()))
    """In whose projects branches are made."""
    report: Mapped[object | None] = mapped_column(JSONB(none_as_null=True))
    passed: Mapped[bool | None]
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    started_by: Mapped[str]
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
    """When whoever rehearses was last heard of."""
    finished_at: Mapped[datetime | None]
    cleared_at: Mapped[datetime | None]
    """Since when none of its branches is there, or only until it expires."""


class MigrationUndo(Base):
    """A tenant that was brought back to what it was before a run changed it; written before that begins."""

    __tablename__ = "migration_undo"
    __table_args__ = (
        CheckConstraint("how IN ('restore', 'down')", name="how"),
        CheckConstraint("how <> 'restore' OR preserved_as IS NOT NULL", name="preserved_as"),
        Index("migration_undo_project_id_idx", "project_id"),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("migration_run.id", ondelete="CASCADE"), primary_key=True)
    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"), primary_key=True)
    how: Mapped[str]
    preserved_as: Mapped[str | None]
    """The branch that keeps what the tenant was until then. Where it is there, the tenant is back."""
    begun_at: Mapped[datetime] = mapped_column(server_default=NOW)
    begun_by: Mapped[str]
    finished_at: Mapped[datetime | None]
    version: Mapped[str | None]
    """What the tenant's ledger said afterwards."""


class SchemaReference(Base):
    """What a version's schema is, as it was made once: the folder applied to an empty database. A cache."""

    __tablename__ = "schema_reference"

    provider_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("provider.id"), primary_key=True)
    format: Mapped[str] = mapped_column(primary_key=True)
    chain: Mapped[str] = mapped_column(primary_key=True)
    """The fingerprint of the version with everything before it (``project.schema_fingerprint``)."""
    pg_version: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    algorithm: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    """Of fingerprints; rows of another one are not read."""
    version: Mapped[str | None]
    fingerprint: Mapped[str]
    objects: Mapped[list[object]] = mapped_column(JSONB())
    """Kind, name and definition of each object."""
    made_at: Mapped[datetime] = mapped_column(server_default=NOW)


class SchemaSeen(Base):
    """What somebody last saw of a tenant's schema. A cache."""

    __tablename__ = "schema_seen"
    __table_args__ = (
        CheckConstraint("standing IN ('same', 'drifted', 'unknown')", name="standing"),
        Index("schema_seen_drifted_idx", "seen_at", postgresql_where=text("standing = 'drifted'")),
    )

    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id", ondelete="CASCADE"), primary_key=True)
    fingerprint: Mapped[str]
    algorithm: Mapped[int] = mapped_column(SmallInteger)
    version: Mapped[str | None]
    standing: Mapped[str]
    """``drifted``: it is not what its version should be. ``unknown``: nobody could say what that is."""
    expected: Mapped[str | None]
    """The fingerprint that it should have."""
    differences: Mapped[int]
    seen_at: Mapped[datetime] = mapped_column(server_default=NOW)
