"""Give a tenant another password: its connection string is a new one, and the old one opens nothing more."""

from __future__ import annotations

from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready


def new_password(catalog: Catalog, provider_of: ProviderOf, name: str) -> Tenant:
    """Open connections stay. Raises NotFound and Conflict."""
    tenant, project_id, home = find_ready(catalog, name)
    provider_of(tenant).new_password(project_id, home)
    with catalog.transaction() as connection:
        events.record(connection, "new password", tenant)
    return tenant
