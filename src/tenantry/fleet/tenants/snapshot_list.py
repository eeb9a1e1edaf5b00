"""List a tenant's snapshots. Wakes nobody."""

from __future__ import annotations

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.snapshots import Snapshot, read_snapshots


def list_snapshots(catalog: Catalog, provider_of: ProviderOf, tenant: str) -> list[Snapshot]:
    """Oldest first. Raises NotFound and Conflict."""
    found, project_id, _ = find_ready(catalog, tenant)
    return read_snapshots(provider_of(found).api("snapshots"), project_id)
