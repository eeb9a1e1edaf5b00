"""Say how to connect to a tenant. The URI comes from the provider each time: the catalog holds no passwords."""

from __future__ import annotations

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready


def tenant_url(catalog: Catalog, provider_of: ProviderOf, name: str, *, pooled: bool = False) -> str:
    """A libpq URI with its password, as the database's owner. Wakes nobody. Raises NotFound and Conflict."""
    tenant, project_id, home = find_ready(catalog, name)
    return provider_of(tenant).connection_uri(project_id, home, pooled=pooled)
