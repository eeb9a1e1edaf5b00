"""Wake a tenant before anybody connects."""

from __future__ import annotations

from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready


def resume_tenant(catalog: Catalog, provider_of: ProviderOf, name: str) -> Tenant:
    """Returns when all endpoints of the tenant are awake; safe for one that is. Raises NotFound and Conflict."""
    tenant, project_id, _ = find_ready(catalog, name)
    provider = provider_of(tenant)
    changing = [endpoint.id for endpoint in provider.endpoints(project_id) if endpoint.state != "active"]
    for endpoint_id in changing:
        provider.start_endpoint(project_id, endpoint_id)
    if changing:
        with catalog.transaction() as connection:
            events.record(connection, "resume", tenant)
    return tenant
