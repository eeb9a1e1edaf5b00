"""Plans: what a tenant of each may use, as data. Each function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import Plan, TenantId

_PLAN: Final = select(
    models.Plan.slug,
    models.Plan.name,
    models.Plan.projects_max,
    models.Plan.price_usd_monthly,
    models.Plan.branches_max,
    models.Plan.cu_min,
    models.Plan.cu_max,
    models.Plan.suspend_seconds,
    models.Plan.history_seconds,
    models.Plan.quota_active_seconds,
    models.Plan.quota_compute_seconds,
    models.Plan.quota_written_bytes,
    models.Plan.quota_sent_bytes,
    models.Plan.quota_logical_bytes,
    models.Plan.backup_cron,
    models.Plan.backup_keep_days,
    models.Plan.backup_keep,
)


def plans(connection: Connection) -> list[Plan]:
    """All plans, smallest first."""
    rows = connection.execute(_PLAN.order_by(models.Plan.projects_max, models.Plan.slug)).mappings()
    return [Plan(**row) for row in rows]


def plan_by_slug(connection: Connection, slug: str, *, held: bool = False) -> Plan | None:
    """``held``: nobody else changes it until the transaction ends."""
    query = _PLAN.where(models.Plan.slug == slug)
    row = connection.execute(query.with_for_update() if held else query).mappings().one_or_none()
    return None if row is None else Plan(**row)


def add_plan(connection: Connection, slug: str, fields: Mapping[str, object]) -> bool:
    """False: there was one of this slug, and it is as it was."""
    added = insert(models.Plan).values(slug=slug, **fields).on_conflict_do_nothing(index_elements=["slug"])
    return connection.execute(added.returning(models.Plan.slug)).first() is not None


def change_plan(connection: Connection, slug: str, fields: Mapping[str, object]) -> None:
    connection.execute(update(models.Plan).where(models.Plan.slug == slug).values(**fields))


def was_used(connection: Connection, slug: str) -> bool:
    """Whether a customer, also a former one, has or had it."""
    return connection.execute(
        select(select(models.Subscription.id).where(models.Subscription.plan_slug == slug).exists())
    ).scalar_one()


def drop_plan(connection: Connection, slug: str) -> None:
    """The catalog's own key refuses it for one that was used."""
    connection.execute(delete(models.Plan).where(models.Plan.slug == slug))


def tenants_of_plans(connection: Connection) -> dict[str, int]:
    """How many tenants each plan has that are not deleted; plans without any are left out."""
    query = (
        select(models.Customer.plan_slug, func.count())
        .where(models.Customer.deleted_at.is_(None))
        .group_by(models.Customer.plan_slug)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def put_on_plan(connection: Connection, tenant: TenantId, plan: str) -> None:
    """The tenant's customer has this plan from now on."""
    customer, project = models.Customer, models.Project
    connection.execute(
        update(customer)
        .where(customer.id == select(project.customer_id).where(project.id == tenant).scalar_subquery())
        .values(plan_slug=plan, updated_at=func.now())
    )
