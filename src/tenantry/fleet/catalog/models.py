"""The catalog's tables. What a row means stands here; how it changes stands in ``queries.py``.

A project row goes ``creating -> ready -> deleting -> deleted`` (or ``creating -> deleting``), never back; only a
grace period (``ready -> leaving -> ready``) can be undone. Its uuid is known before the provider is asked for
anything and is part of the provider's project name, so that a project whose row was never finished is found again
(docs/decisions/0002).
"""

from __future__ import annotations

import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import (
    CHAR,
    DDL,
    BigInteger,
    CheckConstraint,
    Date,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    MetaData,
    Numeric,
    SmallInteger,
    Text,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING: Final = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}

HOME_PROVIDER: Final = uuid.UUID("00000000-0000-4000-8000-000000000001")
"""The provider that the fleet was opened with: a row of every catalog, so that older releases' rows point to it."""

_ID: Final = text("gen_random_uuid()")
_NOW: Final = text("now()")


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way of declaring it
        datetime: TIMESTAMP(timezone=True),
        uuid.UUID: UUID(),
        str: Text(),
    }


class Plan(Base):
    """What a customer may use, as data."""

    __tablename__ = "plan"
    __table_args__ = (
        CheckConstraint("projects_max > 0", name="projects_max"),
        CheckConstraint("price_usd_monthly >= 0", name="price"),
        CheckConstraint("branches_max > 0", name="branches_max"),
        CheckConstraint("cu_min > 0 AND cu_max >= cu_min", name="cu"),
        CheckConstraint("suspend_seconds >= -1", name="suspend_seconds"),
        CheckConstraint("history_seconds >= 0", name="history_seconds"),
        CheckConstraint(
            "least(quota_active_seconds, quota_compute_seconds, quota_written_bytes, quota_sent_bytes,"
            " quota_logical_bytes) > 0",
            name="quota",
        ),
    )

    slug: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    projects_max: Mapped[int]
    """Projects included in the plan's price."""
    price_usd_monthly: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    branches_max: Mapped[int | None]
    """Branches of one tenant, its default one included; None: no limit of ours."""
    cu_min: Mapped[Decimal | None] = mapped_column(Numeric(6, 2))
    """Compute units; None here and below leaves the provider's default."""
    cu_max: Mapped[Decimal | None] = mapped_column(Numeric(6, 2))
    suspend_seconds: Mapped[int | None]
    """0: the provider's default; -1: never sleeps."""
    history_seconds: Mapped[int | None]
    quota_active_seconds: Mapped[int | None] = mapped_column(BigInteger)
    """What one tenant may use in a month, this and the four below."""
    quota_compute_seconds: Mapped[int | None] = mapped_column(BigInteger)
    quota_written_bytes: Mapped[int | None] = mapped_column(BigInteger)
    quota_sent_bytes: Mapped[int | None] = mapped_column(BigInteger)
    quota_logical_bytes: Mapped[int | None] = mapped_column(BigInteger)
    backup_cron: Mapped[str | None]
    """When a tenant of this plan is to be backed up; None: never by itself."""
    backup_keep_days: Mapped[int | None]
    backup_keep: Mapped[str | None]
    """Which backups stay, such as ``daily=7 weekly=4``; before ``backup_keep_days``."""


class Provider(Base):
    """Who owns projects: a cell, an account at Neon, or a plain Postgres server. Removed ones stay, as what was."""

    __tablename__ = "provider"
    __table_args__ = (
        CheckConstraint("name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(name) <= 48", name="name"),
        CheckConstraint("kind IN ('cell', 'neon', 'postgres')", name="kind"),
        CheckConstraint("secret_from ~ '^(home|env:.+|file:/.+)$'", name="secret_from"),
        Index("provider_name_key", "name", unique=True, postgresql_where=text("removed_at IS NULL")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    name: Mapped[str]
    kind: Mapped[str]
    api_url: Mapped[str | None]
    """None for the provider that the fleet is opened with, and for plain Postgres, whose DSN is its secret."""
    api_ca: Mapped[str | None]
    """Path of a certificate to trust beside the system's."""
    secret_from: Mapped[str]
    """Where its API key or DSN is read: ``env:NAME``, ``file:/PATH``, or ``home``. The secret is never here."""
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    removed_at: Mapped[datetime | None]
    usage_collected_at: Mapped[datetime | None]
    """When it was last asked that told all that its tenants had used by then."""


class Region(Base):
    """What the fleet calls a place; one or more providers serve it."""

    __tablename__ = "region"
    __table_args__ = (CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 48", name="slug"),)

    slug: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class ProviderRegion(Base):
    """That a provider serves a region, what it calls it itself, and how much it may hold there."""

    __tablename__ = "provider_region"
    __table_args__ = (
        CheckConstraint("projects_max > 0", name="projects_max"),
        Index("provider_region_region_slug_idx", "region_slug"),
    )

    provider_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("provider.id"), primary_key=True)
    region_slug: Mapped[str] = mapped_column(ForeignKey("region.slug"), primary_key=True)
    provider_region: Mapped[str]
    projects_max: Mapped[int | None]
    """None: no limit of ours."""
    accepts_new: Mapped[bool] = mapped_column(server_default=text("true"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Residency(Base):
    """Where the data of some customers must stay: patterns of regions, such as ``eu-*``."""

    __tablename__ = "residency"
    __table_args__ = (
        CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'", name="slug"),
        CheckConstraint("cardinality(region_patterns) > 0", name="region_patterns"),
    )

    slug: Mapped[str] = mapped_column(primary_key=True)
    region_patterns: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Customer(Base):
    """Who pays. The slug names the customer everywhere; it is free again once the customer is deleted."""

    __tablename__ = "customer"
    __table_args__ = (
        CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 48", name="slug"),
        CheckConstraint("length(btrim(name)) BETWEEN 1 AND 200", name="name"),
        CheckConstraint("email ~ '^[^@[:space:]]+@[^@[:space:]]+$'", name="email"),
        Index("customer_slug_key", "slug", unique=True, postgresql_where=text("deleted_at IS NULL")),
        Index("customer_plan_slug_idx", "plan_slug"),
        Index("customer_email_idx", "email"),
        Index("customer_residency_slug_idx", "residency_slug"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    slug: Mapped[str]
    name: Mapped[str]
    email: Mapped[str | None] = mapped_column(CITEXT())
    plan_slug: Mapped[str] = mapped_column(ForeignKey("plan.slug", onupdate="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    deleted_at: Mapped[datetime | None]
    residency_slug: Mapped[str | None] = mapped_column(ForeignKey("residency.slug"))
    """None: the customer's data may be anywhere."""
    maintenance_window: Mapped[str | None]
    """When its database may be changed, such as ``sat,sun 02:00-05:00 Europe/Berlin``; None: at any time."""


class Contact(Base):
    """A person of a customer, beside the one address that the customer's row has."""

    __tablename__ = "contact"
    __table_args__ = (
        CheckConstraint("email ~ '^[^@[:space:]]+@[^@[:space:]]+$'", name="email"),
        CheckConstraint("kind IN ('owner', 'billing', 'technical', 'security')", name="kind"),
        Index("contact_customer_id_kind_email_key", "customer_id", "kind", "email", unique=True),
        Index("contact_email_idx", "email"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    customer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("customer.id"))
    kind: Mapped[str]
    email: Mapped[str] = mapped_column(CITEXT())
    name: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Subscription(Base):
    """Since when a customer has had which plan. Written by a trigger on ``customer``, so that it is never wrong."""

    __tablename__ = "subscription"
    __table_args__ = (
        CheckConstraint("ended_at >= started_at", name="ended_at"),
        Index(
            "subscription_current_customer_id_key",
            "customer_id",
            unique=True,
            postgresql_where=text("ended_at IS NULL"),
        ),
        Index("subscription_customer_id_started_at_idx", "customer_id", text("started_at DESC")),
        Index("subscription_plan_slug_idx", "plan_slug"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    customer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("customer.id"))
    plan_slug: Mapped[str] = mapped_column(ForeignKey("plan.slug", onupdate="CASCADE"))
    started_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    ended_at: Mapped[datetime | None]


class Project(Base):
    """A customer's project at the provider. Rows of deleted projects stay, as the record of the deletion."""

    __tablename__ = "project"
    __table_args__ = (
        CheckConstraint("state IN ('creating', 'ready', 'leaving', 'deleting', 'deleted')", name="state"),
        CheckConstraint("state NOT IN ('ready', 'leaving') OR ready_at IS NOT NULL", name="ready_at"),
        CheckConstraint("(state = 'leaving') <= (num_nulls(leaving_at, purge_at) = 0)", name="leaving_at"),
        CheckConstraint(
            "state NOT IN ('ready', 'leaving')"
            " OR num_nulls(provider_project_id, region, pg_version, database_name, role_name) = 0",
            name="ready_is_reachable",
        ),
        CheckConstraint("(state IN ('deleting', 'deleted')) = (deleting_at IS NOT NULL)", name="deleting_at"),
        CheckConstraint("(state = 'deleted') = (deleted_at IS NOT NULL)", name="deleted_at"),
        CheckConstraint(
            "num_nulls(schema_format, schema_fingerprint, schema_seen_at) IN (0, 3)"
            " AND (schema_version IS NULL OR schema_format IS NOT NULL)",
            name="schema_seen",
        ),
        # One living project for each customer; also the index of the foreign key for the living.
        Index("project_live_customer_id_key", "customer_id", unique=True, postgresql_where=text("state <> 'deleted'")),
        Index("project_customer_id_idx", "customer_id"),
        Index("project_provider_id_provider_project_id_key", "provider_id", "provider_project_id", unique=True),
        # What is to be finished is few among very many.
        Index("project_unfinished_idx", "created_at", postgresql_where=text("state IN ('creating', 'deleting')")),
        # How full a provider is in a region.
        Index("project_place_idx", "provider_id", "region", postgresql_where=text("state <> 'deleted'")),
        Index("project_purge_at_idx", "purge_at", postgresql_where=text("state = 'leaving'")),
        # Where the catalog and the provider's door may disagree.
        Index(
            "project_shut_at_idx",
            "updated_at",
            postgresql_where=text(
                "(state = 'leaving' AND shut_at IS NULL) OR (state = 'ready' AND shut_at IS NOT NULL)"
            ),
        ),
        Index("project_schema_version_idx", "schema_version", postgresql_where=text("state = 'ready'")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    customer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("customer.id"))
    provider_project_id: Mapped[str | None]
    region: Mapped[str | None]
    """What was asked for; the provider's own default is filled in when the project is ready."""
    pg_version: Mapped[int | None] = mapped_column(SmallInteger)
    database_name: Mapped[str | None]
    role_name: Mapped[str | None]
    state: Mapped[str] = mapped_column(server_default=text("'creating'"))
    schema_version: Mapped[str | None]
    """The newest migration known to be applied. The ledger in the tenant is the truth, this its cache."""
    schema_format: Mapped[str | None]
    """The format of migrations whose ledger was read: drizzle or sql."""
    schema_fingerprint: Mapped[str | None]
    """Chains everything applied, so that an edited migration is seen without waking the tenant."""
    schema_seen_at: Mapped[datetime | None]
    """When somebody last looked into the ledger; None where nobody has."""
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    ready_at: Mapped[datetime | None]
    deleting_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    provider_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("provider.id"), server_default=text(f"'{HOME_PROVIDER}'::uuid")
    )
    leaving_at: Mapped[datetime | None]
    """When its deletion was asked for; None again once it was called off."""
    purge_at: Mapped[datetime | None]
    """The end of its grace: from then on it is purged."""
    leaving_by: Mapped[str | None]
    """Who asked for its deletion."""
    shut_at: Mapped[datetime | None]
    """Since when its provider turns its clients away; None where it lets them in."""


class ReadyProject(Base):
    """A project that waits for a tenant: made beforehand, so that a sign-up has its database at once."""

    __tablename__ = "ready_project"
    __table_args__ = (
        CheckConstraint(
            "(state = 'making') OR (state = 'ready' AND num_nulls(provider_project_id, region, pg_version,"
            " database_name, role_name) = 0)",
            name="state",
        ),
        Index("ready_project_provider_id_state_idx", "provider_id", "state", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    """Becomes the id of the tenant's project row: it is part of the name at the provider already."""
    provider_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("provider.id"))
    state: Mapped[str] = mapped_column(server_default=text("'making'"))
    wanted_region: Mapped[str | None]
    """The fleet's region, None: the provider's own default."""
    wanted_pg_version: Mapped[int | None] = mapped_column(SmallInteger)
    provider_project_id: Mapped[str | None]
    region: Mapped[str | None]
    pg_version: Mapped[int | None] = mapped_column(SmallInteger)
    database_name: Mapped[str | None]
    role_name: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Deletion(Base):
    """That a tenant's data was deleted, when and for whom: kept when everything else of it is gone."""

    __tablename__ = "deletion"
    __table_args__ = (
        Index("deletion_slug_idx", "slug"),
        Index("deletion_purged_at_idx", text("purged_at DESC")),
    )

    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"), primary_key=True)
    slug: Mapped[str]
    name: Mapped[str]
    provider_project_ids: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    requested_by: Mapped[str]
    requested_at: Mapped[datetime]
    purged_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class UsageDay(Base):
    """What a tenant used on one day (UTC), as the provider's meters say. Days that are not over are written again."""

    __tablename__ = "usage_day"
    __table_args__ = (
        CheckConstraint(
            "least(active_seconds, compute_seconds, written_bytes, sent_bytes, storage_bytes) >= 0", name="positive"
        ),
        Index("usage_day_day_idx", "day"),
    )

    project_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("project.id"), primary_key=True)
    day: Mapped[date] = mapped_column(Date(), primary_key=True)
    active_seconds: Mapped[int] = mapped_column(BigInteger)
    compute_seconds: Mapped[int] = mapped_column(BigInteger)
    written_bytes: Mapped[int] = mapped_column(BigInteger)
    sent_bytes: Mapped[int] = mapped_column(BigInteger)
    storage_bytes: Mapped[int] = mapped_column(BigInteger)
    """The most that it held on that day."""
    collected_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class Event(Base):
    """Who did what to whom. Written in the transaction of what was done."""

    __tablename__ = "event"
    __table_args__ = (
        Index("event_customer_id_id_idx", "customer_id", text("id DESC")),
        Index("event_verb_id_idx", "verb", text("id DESC")),
        Index("event_at_idx", "at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    actor: Mapped[str]
    """An operating system's user and machine, a worker, or what TENANTRY_ACTOR says."""
    verb: Mapped[str]
    customer_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("customer.id"))
    slug: Mapped[str | None]
    """As the customer was called then."""
    detail: Mapped[dict[str, object]] = mapped_column(JSONB(), server_default=text("'{}'::jsonb"))


class Job(Base):
    """Work over many tenants, in batches that workers claim. What became of each tenant stands in ``job_item``."""

    __tablename__ = "job"
    __table_args__ = (Index("job_created_at_idx", text("created_at DESC")),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    kind: Mapped[str]
    arguments: Mapped[dict[str, object]] = mapped_column(JSONB())
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    cancelled_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobBatch(Base):
    """Some items of a job, worked on by one worker at a time. Whoever claims it raises the fence."""

    __tablename__ = "job_batch"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'running', 'done', 'cancelled')", name="state"),
        Index("job_batch_unfinished_idx", "job_id", postgresql_where=text("state IN ('waiting', 'running')")),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("job.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(server_default=text("'waiting'"))
    fence: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """Grows with each claim; a write that carries an older one is refused."""
    worker: Mapped[str | None]
    claimed_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobItem(Base):
    """One subject of a job (a tenant's slug, a row of a file) and what became of it."""

    __tablename__ = "job_item"
    __table_args__ = (
        CheckConstraint("state IN ('waiting', 'done', 'failed')", name="state"),
        ForeignKeyConstraint(
            ["job_id", "batch_number"],
            ["job_batch.job_id", "job_batch.number"],
            ondelete="CASCADE",
            name="job_item_job_id_batch_number_fkey",
        ),
        Index("job_item_job_id_batch_number_idx", "job_id", "batch_number"),
    )

    job_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    batch_number: Mapped[int]
    state: Mapped[str] = mapped_column(server_default=text("'waiting'"))
    input: Mapped[dict[str, object]] = mapped_column(JSONB(), server_default=text("'{}'::jsonb"))
    result: Mapped[dict[str, object] | None] = mapped_column(JSONB(none_as_null=True))
    error: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    finished_at: Mapped[datetime | None]


class Payment(Base):
    """Money received from a customer."""

    __tablename__ = "payment"
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        Index("payment_customer_id_paid_at_idx", "customer_id", text("paid_at DESC")),
        Index("payment_reference_key", "reference", unique=True),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    customer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("customer.id"))
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    currency: Mapped[str] = mapped_column(CHAR(3))
    reference: Mapped[str | None]
    """The payment service's own id, so that one payment is recorded once."""
    paid_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


class MigrationFolder(Base):
    """A folder of migrations as it was when a run was planned, so that it is executed exactly so, on any machine."""

    __tablename__ = "migration_folder"
    __table_args__ = (CheckConstraint("octet_length(content) <= 33554432", name="content"),)

    digest: Mapped[str] = mapped_column(primary_key=True)
    """SHA-256 of the files' names and texts, in hexadecimal."""
    content: Mapped[bytes]
    """The files, packed (``migrations/bundle.py``)."""
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)


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
    failed_at: Mapped[datetime] = mapped_column(server_default=_NOW)


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
    started_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    started_by: Mapped[str]
    seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)
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
    begun_at: Mapped[datetime] = mapped_column(server_default=_NOW)
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
    made_at: Mapped[datetime] = mapped_column(server_default=_NOW)


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
    seen_at: Mapped[datetime] = mapped_column(server_default=_NOW)


for statement in (
    """
    CREATE FUNCTION customer_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE subscription SET ended_at = greatest(now(), started_at)
            WHERE customer_id = NEW.id AND ended_at IS NULL;
        IF NEW.deleted_at IS NULL THEN
            INSERT INTO subscription (customer_id, plan_slug) VALUES (NEW.id, NEW.plan_slug);
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER customer_subscribes AFTER INSERT ON customer
        FOR EACH ROW EXECUTE FUNCTION customer_subscription()
    """,
    """
    CREATE TRIGGER customer_changes_plan AFTER UPDATE OF plan_slug, deleted_at ON customer
        FOR EACH ROW WHEN ((OLD.plan_slug, OLD.deleted_at) IS DISTINCT FROM (NEW.plan_slug, NEW.deleted_at))
        EXECUTE FUNCTION customer_subscription()
    """,
):
    event.listen(Base.metadata, "after_create", DDL(statement))
