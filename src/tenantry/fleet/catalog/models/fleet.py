"""Who there is: plans, providers, customers and their projects, what they used, and the jobs over them."""

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
    Numeric,
    SmallInteger,
    Text,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CITEXT, JSONB

from tenantry.fleet.catalog.models.base import ID, NOW, Base, Mapped, mapped_column

HOME_PROVIDER: Final = uuid.UUID("00000000-0000-4000-8000-000000000001")
"""The provider that the fleet was opened with: a row of every catalog, so that older releases' rows point to it."""


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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
    name: Mapped[str]
    kind: Mapped[str]
    api_url: Mapped[str | None]
    """None for the provider that the fleet is opened with, and for plain Postgres, whose DSN is its secret."""
    api_ca: Mapped[str | None]
    """Path of a certificate to trust beside the system's."""
    secret_from: Mapped[str]
    """Where its API key or DSN is read: ``env:NAME``, ``file:/PATH``, or ``home``. The secret is never here."""
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    removed_at: Mapped[datetime | None]
    usage_collected_at: Mapped[datetime | None]
    """When it was last asked that told all that its tenants had used by then."""


class Region(Base):
    """What the fleet calls a place; one or more providers serve it."""

    __tablename__ = "region"
    __table_args__ = (CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 48", name="slug"),)

    slug: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Residency(Base):
    """Where the data of some customers must stay: patterns of regions, such as ``eu-*``."""

    __tablename__ = "residency"
    __table_args__ = (
        CheckConstraint("slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'", name="slug"),
        CheckConstraint("cardinality(region_patterns) > 0", name="region_patterns"),
    )

    slug: Mapped[str] = mapped_column(primary_key=True)
    region_patterns: Mapped[list[str]] = mapped_column(ARRAY(Text()))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
    slug: Mapped[str]
    name: Mapped[str]
    email: Mapped[str | None] = mapped_column(CITEXT())
    plan_slug: Mapped[str] = mapped_column(ForeignKey("plan.slug", onupdate="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
    customer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("customer.id"))
    kind: Mapped[str]
    email: Mapped[str] = mapped_column(CITEXT())
    name: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
    customer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("customer.id"))
    plan_slug: Mapped[str] = mapped_column(ForeignKey("plan.slug", onupdate="CASCADE"))
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
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
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


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
    purged_at: Mapped[datetime] = mapped_column(server_default=NOW)


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
    collected_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Event(Base):
    """Who did what to whom. Written in the transaction of what was done."""

    __tablename__ = "event"
    __table_args__ = (
        Index("event_customer_id_id_idx", "customer_id", text("id DESC")),
        Index("event_verb_id_idx", "verb", text("id DESC")),
        Index("event_at_idx", "at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=NOW)
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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
    kind: Mapped[str]
    arguments: Mapped[dict[str, object]] = mapped_column(JSONB())
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
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

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=ID)
    customer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("customer.id"))
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    currency: Mapped[str] = mapped_column(CHAR(3))
    reference: Mapped[str | None]
    """The payment service's own id, so that one payment is recorded once."""
    paid_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


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
