"""Show one tenant: what the catalog knows, and what its provider says of it now. Wakes nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderEndpoint, ProviderOf
from tenantry.fleet.tenants.find import find_tenant


@dataclass(frozen=True, slots=True)
class Shown:
    tenant: Tenant
    provider: str
    """Who has its project."""
    endpoints: Sequence[ProviderEndpoint]


def show_tenant(catalog: Catalog, provider_of: ProviderOf, name: str) -> Shown:
    """Raises NotFound."""
    tenant = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        provider = providers.provider_by_id(connection, tenant.provider_id)
    assert provider is not None, "rows of providers are never removed"
    if tenant.state != "ready" or tenant.project_id is None:
        return Shown(tenant, provider.name, ())
    return Shown(tenant, provider.name, provider_of(tenant).endpoints(tenant.project_id))
