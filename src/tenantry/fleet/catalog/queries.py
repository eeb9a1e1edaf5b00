"""Tenants: every question about them and every change to them, by name. Each runs in the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Final, cast

from sqlalchemy import Connection, Executable, RowMapping, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import (
    CustomerId,
    DeletionRecord,
    KnownSchema,
    ProviderId,
    Tenant,
    TenantId,
    TenantState,
)
from tenantry.neon.ids import ProjectId

_TENANT: Final = select(
    models.Project.id,
    models.Customer.id.label("customer_id"),
    models.Customer.slug,
    models.Customer.name,
    models.Customer.email,
    models.Customer.plan_slug,
    models.Customer.residency_slug,
    models.Customer.maintenance_window,
    models.Project.state,
    models.Project.provider_id,
    models.Project.region,
    models.Project.pg_version,
    models.Project.provider_project_id,
    models.Project.database_name,
    models.Project.role_name,
    models.Project.schema_version,
    models.Project.schema_format,
    models.Project.schema_fingerprint,
    models.Project.schema_seen_at,
    models.Project.created_at,
    models.Project.ready_at,
    models.Project.leaving_at,
    models.Project.purge_at,
    models.Project.leaving_by,
    models.Project.shut_at,
    models.Project.deleting_at,
    models.Project.deleted_at,
).join(models.Customer, models.Customer.id == models.Project.customer_id)

_HOME: Final = ProviderId(models.HOME_PROVIDER)
_LIVE: Final = models.Project.state != "deleted"


def _tenant(fields: RowMapping) -> Tenant:
    return Tenant(
        id=TenantId(fields["id"]),
        customer_id=CustomerId(fields["customer_id"]),
        slug=fields["slug"],
        name=fields["name"],
        email=fields["email"],
        plan=fields["plan_slug"],
        residency=fields["residency_slug"],
        maintenance_window=fields["maintenance_window"],
        state=cast(TenantState, fields["state"]),
        provider_id=ProviderId(fields["provider_id"]),
        region=fields["region"],
        pg_version=fields["pg_version"],
        project_id=None if fields["provider_project_id"] is None else ProjectId(fields["provider_project_id"]),
        database_name=fields["database_name"],
        role_name=fields["role_name"],
        schema_version=fields["schema_version"],
        schema_format=fields["schema_format"],
        schema_fingerprint=fields["schema_fingerprint"],
        schema_seen_at=fields["schema_seen_at"],
        created_at=fields["created_at"],
        ready_at=fields["ready_at"],
        leaving_at=fields["leaving_at"],
        purge_at=fields["purge_at"],
        leaving_by=fields["leaving_by"],
        shut_at=fields["shut_at"],
        deleting_at=fields["deleting_at"],
        deleted_at=fields["deleted_at"],
    )


def intend_tenant(
    connection: Connection,
    *,
    slug: str,
    name: str,
    email: str | None,
    plan: str,
    region: str | None,
    pg_version: int | None,
    provider_id: ProviderId = _HOME,
    residency: str | None = None,
    claimed: TenantId | None = None,
) -> tuple[Tenant, bool]:
    """Writes down that this tenant shall exist, unless the slug is taken; returns the slug's tenant either way.

    The second value says whether it was written now. Two processes that call this at once with one slug get the
    same tenant, and one of them True. ``claimed`` is the id of a project that waited for it.
    """
    customer = insert(models.Customer).values(
        slug=slug, name=name, email=email, plan_slug=plan, residency_slug=residency
    )
    connection.execute(
        customer.on_conflict_do_nothing(index_elements=["slug"], index_where=models.Customer.deleted_at.is_(None))
    )
    customer_id = (
        select(models.Customer.id)
        .where(models.Customer.slug == slug, models.Customer.deleted_at.is_(None))
        .scalar_subquery()
    )
    project = insert(models.Project).values(
        customer_id=customer_id, provider_id=provider_id, region=region, pg_version=pg_version
    )
    if claimed is not None:
        project = project.values(id=claimed)
    # Asked for its id: the count of rows is not told where the statement returns some, as SQLAlchemy lets it.
    written = connection.execute(
        project.on_conflict_do_nothing(
            index_elements=["customer_id"], index_where=text("state <> 'deleted'")
        ).returning(models.Project.id)
    ).first()
    tenant = tenant_by_slug(connection, slug)
    assert tenant is not None, "the tenant just written is there"
    return tenant, written is not None


def tenant_by_slug(connection: Connection, slug: str) -> Tenant | None:
    """The living tenant of this slug."""
    query = _TENANT.where(models.Customer.slug == slug, models.Customer.deleted_at.is_(None), _LIVE)
    return _one(connection, query)


def tenants_called(connection: Connection, slugs: Sequence[str]) -> list[Tenant]:
    """The ready ones of these slugs, in the order of their slugs."""
    query = _TENANT.where(
        models.Customer.slug.in_(slugs), models.Customer.deleted_at.is_(None), models.Project.state == "ready"
    )
    return _all(connection, query.order_by(models.Customer.slug))


def hold_tenant(connection: Connection, tenant: TenantId) -> Tenant:
    """The tenant as it is now, held against every other verb until the transaction ends."""
    held = _one(connection, _TENANT.where(models.Project.id == tenant).with_for_update(of=models.Project))
    assert held is not None, "rows of projects are never removed"
    return held


def tenants_page(
    connection: Connection,
    *,
    after: str = "",
    limit: int,
    states: Sequence[TenantState] = (),
    plan: str | None = None,
    region: str | None = None,
) -> list[Tenant]:
    """Living tenants in the order of their slugs, those behind ``after``; only of a state, plan and region if given."""
    query = _TENANT.where(models.Customer.deleted_at.is_(None), _LIVE, models.Customer.slug > after)
    if states:
        query = query.where(models.Project.state.in_(states))
    if plan is not None:
        query = query.where(models.Customer.plan_slug == plan)
    if region is not None:
        query = query.where(models.Project.region == region)
    return _all(connection, query.order_by(models.Customer.slug).limit(limit))


def tenants_of_projects(connection: Connection, provider_id: ProviderId, projects: Sequence[ProjectId]) -> list[Tenant]:
    """Who is ready or leaving in these projects of the provider."""
    table = models.Project
    query = _TENANT.where(
        table.provider_id == provider_id,
        table.provider_project_id.in_(projects),
        table.state.in_(["ready", "leaving"]),
    )
    return _all(connection, query.order_by(models.Customer.slug))


def unfinished_tenants(connection: Connection, *, limit: int) -> list[Tenant]:
    """Those whose creation or deletion began and has not ended, oldest first."""
    # The literal list is the one that the partial index was made with.
    query = _TENANT.where(text("project.state IN ('creating', 'deleting')")).order_by(models.Project.created_at)
    return _all(connection, query.limit(limit))


def note_attempt(connection: Connection, tenant: TenantId) -> None:
    """Says of a tenant that is being created that somebody else than who wrote it down has a hand in it."""
    table = models.Project
    connection.execute(
        update(table).where(table.id == tenant, table.state == "creating").values(updated_at=func.clock_timestamp())
    )


def nobody_has_tried(connection: Connection, tenant: TenantId) -> bool:
    """Whether the row, which the caller holds, is as it was written: no ``note_attempt`` since."""
    table = models.Project
    return connection.execute(select(table.updated_at == table.created_at).where(table.id == tenant)).scalar_one()


def mark_ready(
    connection: Connection,
    tenant: TenantId,
    *,
    project_id: ProjectId,
    region: str,
    pg_version: int,
    database_name: str,
    role_name: str,
) -> Tenant:
    """Records what the provider made; only a tenant that is being created becomes ready."""
    table = models.Project
    changed = connection.execute(
        update(table)
        .where(table.id == tenant, table.state == "creating")
        .values(
            provider_project_id=project_id,
            region=region,
            pg_version=pg_version,
            database_name=database_name,
            role_name=role_name,
            state="ready",
            ready_at=func.now(),
            updated_at=func.now(),
        )
    )
    assert changed.rowcount == 1, "the caller holds a tenant that is being created"
    return hold_tenant(connection, tenant)


def make_ready_again(connection: Connection, tenant: TenantId) -> Tenant:
    """What was claimed for the tenant is gone from its provider: it is to be made as if nothing had been claimed."""
    table = models.Project
    connection.execute(
        update(table)
        .where(table.id == tenant, table.state == "ready")
        .values(
            state="creating",
            provider_project_id=None,
            database_name=None,
            role_name=None,
            ready_at=None,
            updated_at=func.now(),
        )
    )
    return hold_tenant(connection, tenant)


def rename_customer(connection: Connection, tenant: TenantId, *, name: str, slug: str) -> Tenant:
    """The customer is called so from now on. The caller has seen that nobody else has the slug."""
    customer, project = models.Customer, models.Project
    connection.execute(
        update(customer)
        .where(customer.id == select(project.customer_id).where(project.id == tenant).scalar_subquery())
        .values(name=name, slug=slug, updated_at=func.now())
    )
    return hold_tenant(connection, tenant)


def set_window(connection: Connection, tenant: TenantId, window: str | None) -> Tenant:
    """When its database may be changed from now on; None: at any time."""
    customer, project = models.Customer, models.Project
    who = select(project.customer_id).where(project.id == tenant).scalar_subquery()
    connection.execute(
        update(customer).where(customer.id == who).values(maintenance_window=window, updated_at=func.now())
    )
    return hold_tenant(connection, tenant)


# -- the end of a tenant -------------------------------------------------------------------------------------


def mark_leaving(connection: Connection, tenant: TenantId, *, grace_seconds: float, by: str) -> Tenant:
    """From now on it can be called back until its grace ends; asked for again, the grace begins anew."""
    table = models.Project
    changed = connection.execute(
        update(table)
        .where(table.id == tenant, table.state.in_(["ready", "leaving"]))
        .values(
            state="leaving",
            leaving_at=func.now(),
            purge_at=func.now() + timedelta(seconds=grace_seconds),
            leaving_by=by,
            updated_at=func.now(),
        )
    )
    assert changed.rowcount == 1, "the caller holds a tenant that is ready, or leaving already"
    return hold_tenant(connection, tenant)


def mark_staying(connection: Connection, tenant: TenantId) -> Tenant:
    """Its deletion is called off."""
    table = models.Project
    changed = connection.execute(
        update(table)
        .where(table.id == tenant, table.state == "leaving")
        .values(state="ready", leaving_at=None, purge_at=None, leaving_by=None, updated_at=func.now())
    )
    assert changed.rowcount == 1, "the caller holds a tenant that is leaving"
    return hold_tenant(connection, tenant)


def mark_door(connection: Connection, tenant: TenantId, *, shut: bool) -> None:
    """That its provider turns its clients away, or lets them in again."""
    table = models.Project
    moment = func.coalesce(table.shut_at, func.now()) if shut else None
    connection.execute(update(table).where(table.id == tenant).values(shut_at=moment, updated_at=func.now()))


def doors_to_move(connection: Connection, *, limit: int) -> list[Tenant]:
    """Tenants whose provider turns clients away, or lets them in, and should not; the longest first."""
    # The literal condition is the one that the partial index was made with.
    differs = "(project.state = 'leaving' AND project.shut_at IS NULL)"
    differs += " OR (project.state = 'ready' AND project.shut_at IS NOT NULL)"
    return _all(connection, _TENANT.where(text(differs)).order_by(models.Project.updated_at).limit(limit))


def overdue_tenants(connection: Connection, *, limit: int) -> list[Tenant]:
    """Leaving tenants whose grace has ended, the longest first."""
    query = _TENANT.where(text("project.state = 'leaving'"), models.Project.purge_at <= func.now())
    return _all(connection, query.order_by(models.Project.purge_at).limit(limit))


def is_overdue(connection: Connection, tenant: Tenant) -> bool:
    """By the catalog's clock, which all of its programs share."""
    moment: datetime = connection.execute(select(func.now())).scalar_one()
    return tenant.purge_at is not None and tenant.purge_at <= moment


def mark_deleting(connection: Connection, tenant: TenantId, *, by: str | None = None) -> Tenant:
    """From now on the tenant is only ever deleted; safe twice. ``by`` counts where nobody has asked before."""
    table = models.Project
    connection.execute(
        update(table)
        .where(table.id == tenant, table.state.in_(["creating", "ready", "leaving"]))
        .values(
            state="deleting",
            deleting_at=func.now(),
            leaving_at=func.coalesce(table.leaving_at, func.now()),
            leaving_by=func.coalesce(table.leaving_by, by),
            updated_at=func.now(),
        )
    )
    return hold_tenant(connection, tenant)


def mark_deleted(connection: Connection, tenant: TenantId) -> None:
    """The provider has no project of this tenant any more: the row stays as the record, the slug is free."""
    table = models.Project
    changed = connection.execute(
        update(table)
        .where(table.id == tenant, table.state == "deleting")
        .values(state="deleted", deleted_at=func.now(), updated_at=func.now())
    )
    assert changed.rowcount == 1, "the caller holds a tenant that is being deleted"
    customer, contact = models.Customer, models.Contact
    who = select(table.customer_id).where(table.id == tenant).scalar_subquery()
    # Whom to write to is nobody's business any more.
    connection.execute(delete(contact).where(contact.customer_id == who))
    connection.execute(
        update(customer).where(customer.id == who).values(email=None, deleted_at=func.now(), updated_at=func.now())
    )


def record_deletion(connection: Connection, tenant: Tenant, projects: Sequence[str]) -> None:
    """What remains of a tenant. The caller has deleted the projects, and marks the tenant in the same transaction."""
    assert tenant.state == "deleting"
    connection.execute(
        insert(models.Deletion).values(
            project_id=tenant.id,
            slug=tenant.slug,
            name=tenant.name,
            provider_project_ids=list(projects),
            requested_by=tenant.leaving_by or "unknown",
            requested_at=tenant.leaving_at or tenant.deleting_at,
        )
    )


def deletions_page(connection: Connection, *, limit: int) -> list[DeletionRecord]:
    """The newest first."""
    table = models.Deletion
    query = select(
        table.project_id.label("tenant_id"),
        table.slug,
        table.name,
        table.provider_project_ids.label("projects"),
        table.requested_by,
        table.requested_at,
        table.purged_at,
    )
    rows = connection.execute(query.order_by(table.purged_at.desc(), table.project_id).limit(limit)).mappings()
    return [DeletionRecord(**row) for row in rows]


# -- what is known of schemas --------------------------------------------------------------------------------


def record_schema(connection: Connection, slug: str, *, version: str | None, format: str, fingerprint: str) -> bool:
    """Caches what the ledger of the slug's tenant says; False when there is no such tenant (any more)."""
    table = models.Project
    customer_id = (
        select(models.Customer.id)
        .where(models.Customer.slug == slug, models.Customer.deleted_at.is_(None))
        .scalar_subquery()
    )
    changed = connection.execute(
        update(table)
        .where(table.customer_id == customer_id, _LIVE)
        .values(
            schema_version=version,
            schema_format=format,
            schema_fingerprint=fingerprint,
            schema_seen_at=func.now(),
            updated_at=func.now(),
        )
    )
    return changed.rowcount == 1


def record_schemas(connection: Connection, known: Sequence[KnownSchema]) -> None:
    """The same for many tenants, in one statement.

    Those are passed over that are not there any more, and those of which something was written since they were claimed:
    a restore, an undo or a later run may have been there, and what they wrote counts. A tenant that is passed over for
    less than that is asked once more by the next run.
    """
    if not known:
        return
    connection.execute(
        text(
            """
            UPDATE project SET
                schema_version = told.version, schema_format = told.format, schema_fingerprint = told.fingerprint,
                schema_seen_at = now(), updated_at = now()
            FROM jsonb_to_recordset(CAST(:known AS jsonb)) AS told (
                tenant_id uuid, as_of timestamptz, version text, format text, fingerprint text
            )
            WHERE project.id = told.tenant_id AND project.updated_at = told.as_of AND project.state <> 'deleted'
            """
        ),
        {"known": json.dumps([asdict(each) for each in known], default=str)},
    )


def forget_schema(connection: Connection, tenant: TenantId) -> None:
    """Nothing is known of the tenant's ledger any more: the next migration asks it. Safe twice."""
    table = models.Project
    connection.execute(
        update(table)
        .where(table.id == tenant)
        .values(
            schema_version=None, schema_format=None, schema_fingerprint=None, schema_seen_at=None, updated_at=func.now()
        )
    )


def hold_name(connection: Connection, name: str) -> None:
    """Waits until nobody else holds this name, and holds it until the transaction ends. A name is not a row."""
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, 0))))


def _one(connection: Connection, query: Executable) -> Tenant | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _tenant(row)


def _all(connection: Connection, query: Executable) -> list[Tenant]:
    return [_tenant(row) for row in connection.execute(query).mappings()]
