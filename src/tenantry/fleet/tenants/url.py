"""Say how to connect to a tenant. The URI comes from the provider each time: the catalog holds no passwords."""

from __future__ import annotations

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.ports import Provider


def tenant_url(catalog: Catalog, provider: Provider, name: str, *, pooled: bool = False) -> str:
    """A libpq URI with its password, as the database's owner. Wakes nobody. Raises NotFound and Conflict."""
    _, project_id, home = find_ready(catalog, name)
    return provider.connection_uri(project_id, home, pooled=pooled)


def operator_url(catalog: Catalog, provider: Provider, name: str) -> str:
    """The same for our own work on the tenant, which its quotas do not stop; to be used at once."""
    _, project_id, home = find_ready(catalog, name)
    return provider.operator_uri(project_id, home)
