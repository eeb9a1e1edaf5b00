"""A leaving tenant's clients are turned away, and let in again when it stays. Safe to repeat at any time."""

from __future__ import annotations

from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.runtime.failpoints import failpoint


def move_door(catalog: Catalog, provider_of: ProviderOf, known: Tenant) -> bool:
    """Makes the provider do what the catalog says; False where it does already. Raises what the provider raises.

    What was turned away before, endpoint by endpoint, is let in with the rest.
    """
    provider = provider_of(known)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, known.id)
        refused = tenant.state == "leaving"
        if tenant.state not in ("ready", "leaving") or refused == (tenant.shut_at is not None):
            return False
        assert tenant.project_id is not None, "the catalog's own checks hold this"
        provider.refuse_connections(tenant.project_id, refused)
        failpoint("door.moved")
        queries.mark_door(connection, tenant.id, shut=refused)
    failpoint("door.recorded")
    return True
