"""The catalog's tables. What a row means stands here; how it changes stands in ``queries.py``.

A project row goes ``creating -> ready -> deleting -> deleted`` (or ``creating -> deleting``), never back. Its uuid
is known before the provider is asked for anything and is part of the provider's project name, so that a project
whose row was never finished is found again (docs/decisions/0002).
"""

from __future__ import annotations

import uuid
from datetime import datetime
from decimal import Decimal
from typing import Final

from sqlalchemy import CHAR, CheckConstraint, ForeignKey, Index, MetaData, Numeric, SmallInteger, Text, text
from sqlalchemy.dialects.postgresql import CITEXT, JSONB, TIMESTAMP, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING: Final = {
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ck": "%(table_name)s_%(constraint_name)s_check",
    "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
    "pk": "%(table_name)s_pkey",
}

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
    )

    slug: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    projects_max: Mapped[int]
    """Projects included in the plan's price."""
    price_usd_monthly: Mapped[Decimal] = mapped_column(Numeric(10, 2))
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
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, server_default=_ID)
    slug: Mapped[str]
    name: Mapped[str]
    email: Mapped[str | None] = mapped_column(CITEXT())
    plan_slug: Mapped[str] = mapped_column(ForeignKey("plan.slug", onupdate="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    deleted_at: Mapped[datetime | None]


class Project(Base):
    """A customer's project at the provider. Rows of deleted projects stay, as the record of the deletion."""

    __tablename__ = "project"
    __table_args__ = (
        CheckConstraint("state IN ('creating', 'ready', 'deleting', 'deleted')", name="state"),
        CheckConstraint("state <> 'ready' OR ready_at IS NOT NULL", name="ready_at"),
        CheckConstraint(
            "state <> 'ready' OR num_nulls(provider_project_id, region, pg_version, database_name, role_name) = 0",
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
        Index("project_provider_project_id_key", "provider_project_id", unique=True),
        # What is to be finished is few among very many.
        Index("project_unfinished_idx", "created_at", postgresql_where=text("state IN ('creating', 'deleting')")),
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


class MigrationRun(Base):
    """One run of migrations over the fleet, so that what failed last time is known, also after a kill -9."""

    __tablename__ = "migration_run"
    __table_args__ = (
        CheckConstraint("finished_at >= started_at", name="finished_at"),
        Index("migration_run_started_at_idx", text("started_at DESC")),
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
