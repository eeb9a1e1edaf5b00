"""Put a tenant to sleep now. It wakes when somebody connects."""

from __future__ import annotations

from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready


def suspend_tenant(catalog: Catalog, provider_of: ProviderOf, name: str) -> Tenant:
    """Returns when all endpoints of the tenant sleep; safe for one that does. Raises NotFound and Conflict."""
    tenant, project_id, _ = find_ready(catalog, name)
    provider = provider_of(tenant)
    changing = [endpoint.id for endpoint in provider.endpoints(project_id) if endpoint.state != "idle"]
    for endpoint_id in changing:
        provider.suspend_endpoint(project_id, endpoint_id)
    if changing:
        with catalog.transaction() as connection:
            events.record(connection, "suspend", tenant)
    return tenant
