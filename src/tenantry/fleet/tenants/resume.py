"""Wake a tenant before anybody connects."""

from __future__ import annotations

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.ports import Provider


def resume_tenant(catalog: Catalog, provider: Provider, name: str) -> Tenant:
    """Returns when all endpoints of the tenant are awake; safe for one that is. Raises NotFound and Conflict."""
    tenant, project_id, _ = find_ready(catalog, name)
    for endpoint in provider.endpoints(project_id):
        if endpoint.state != "active":
            provider.start_endpoint(project_id, endpoint.id)
    return tenant
