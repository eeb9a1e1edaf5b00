"""Delete a tenant. First it only leaves: its clients are turned away, its name is kept, and `undelete` brings it back.

When its grace ends, or at once where none is wanted, it is marked, then its projects go at the provider, then the
record of it is written (docs/decisions/0002). What was marked is only ever deleted; after a crash at any point the
next call completes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import backups, events, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import Provider, ProviderOf
from tenantry.fleet.tenants.door import move_door
from tenantry.fleet.tenants.find import find_tenant
from tenantry.neon.ids import ProjectId
from tenantry.runtime.failpoints import failpoint

GRACE: Final = timedelta(days=7)
AT_ONCE: Final = timedelta()


@dataclass(frozen=True, slots=True, kw_only=True)
class Deletion:
    """What deleting a tenant would remove and when, for the operator to look at first."""

    tenant: Tenant
    projects: Sequence[ProjectId]
    purge_at: datetime | None
    """None: at once, and for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    tenant: Tenant
    """As it is while it leaves; as it was where it is gone."""
    gone: bool
    note: str | None = None
    """What is still to be done, by a pass."""


def plan_deletion(
    catalog: Catalog,
    provider_of: ProviderOf,
    name: str,
    *,
    grace: timedelta | None = None,
    usual: timedelta = GRACE,
    now: datetime | None = None,
) -> Deletion:
    """Changes nothing. Raises NotFound."""
    tenant = find_tenant(catalog, name)
    wanted = _grace(tenant, grace, usual)
    if wanted is None:
        purge_at = tenant.purge_at
    else:
        purge_at = None if wanted == AT_ONCE else (now or datetime.now(UTC)) + wanted
    return Deletion(tenant=tenant, projects=_projects(provider_of(tenant), tenant), purge_at=purge_at)


def delete_tenant(
    catalog: Catalog,
    provider_of: ProviderOf,
    name: str,
    *,
    grace: timedelta | None = None,
    usual: timedelta = GRACE,
) -> Deleted:
    """``grace`` None is the usual one, and for a tenant that leaves already what is left of its own. Raises NotFound.

    A tenant that never became ready goes at once: there is nothing to bring back.
    """
    found = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, found.id)
        wanted = _grace(tenant, grace, usual)
        if tenant.state == "deleted":
            return Deleted(tenant=tenant, gone=True)  # somebody else was quicker
        if wanted == AT_ONCE:
            if tenant.state != "deleting":
                events.record(connection, "delete", tenant, at_once=True)
            tenant = queries.mark_deleting(connection, tenant.id, by=events.actor())
        elif wanted is not None:
            tenant = queries.mark_leaving(
                connection, tenant.id, grace_seconds=wanted.total_seconds(), by=events.actor()
            )
            assert tenant.purge_at is not None, "the catalog's own checks hold this"
            events.record(connection, "delete", tenant, purge_at=tenant.purge_at.astimezone(UTC).isoformat())
    failpoint("delete_tenant.marked")
    if tenant.state == "deleting":
        finish_deletion(catalog, provider_of, tenant)
        return Deleted(tenant=found, gone=True)
    try:
        move_door(catalog, provider_of, tenant)
    except TenantryError as error:
        return Deleted(tenant=tenant, gone=False, note=f"its clients are not turned away yet: {error.message}")
    return Deleted(tenant=tenant, gone=False)


def finish_deletion(catalog: Catalog, provider_of: ProviderOf, marked: Tenant) -> None:
    """Takes a marked tenant to its end, from wherever it stands. Does nothing for one that is not marked."""
    provider = provider_of(marked)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, marked.id)
        if tenant.state != "deleting":
            return
        projects = _projects(provider, tenant)
        for project_id in projects:
            provider.delete_project(project_id, for_good=True)
        failpoint("delete_tenant.called")
        queries.record_deletion(connection, tenant, projects)
        backups.shred_keys(connection, tenant.id)  # nobody reads its backups any more, wherever copies of them are
        events.record(connection, "purge", tenant, projects=projects)
        queries.mark_deleted(connection, tenant.id)
    failpoint("delete_tenant.committed")


def _grace(tenant: Tenant, asked: timedelta | None, usual: timedelta) -> timedelta | None:
    """How long the tenant stays from now; None: as long as it was given before. Pure."""
    if tenant.state in ("creating", "deleting") or asked == AT_ONCE:
        return AT_ONCE
    if asked is None:
        return None if tenant.state == "leaving" else usual
    return asked


def _projects(provider: Provider, tenant: Tenant) -> list[ProjectId]:
    """The recorded project, and any other that carries the tenant's uuid."""
    recorded = [] if tenant.project_id is None else [tenant.project_id]
    found = [project.id for project in provider.find_projects(str(tenant.id))]
    return [*recorded, *sorted(set(found) - set(recorded))]
