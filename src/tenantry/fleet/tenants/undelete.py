"""Bring a tenant back that was deleted and is not purged yet: with its data, its passwords and its name."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.errors import Conflict
from tenantry.fleet.catalog import events, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.door import move_door
from tenantry.fleet.tenants.find import find_tenant
from tenantry.runtime.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class Undeleted:
    tenant: Tenant
    new: bool
    """False when it was not deleted (any more)."""


def undelete_tenant(catalog: Catalog, provider_of: ProviderOf, name: str) -> Undeleted:
    """Returns when its clients are let in. Raises NotFound, and Conflict when there is nothing to bring back."""
    found = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, found.id)
        called_off = tenant.state == "leaving"
        if called_off:
            tenant = queries.mark_staying(connection, tenant.id)
            events.record(connection, "undelete", tenant)
        elif tenant.state != "ready":
            raise Conflict(
                f"{tenant.slug} is {tenant.state}: there is nothing to bring back",
                next_step="see `tenantry list --deleted`, and the backups",
            )
    failpoint("undelete_tenant.marked")
    moved = move_door(catalog, provider_of, tenant)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, tenant.id)
    return Undeleted(tenant, new=called_off or moved)
