"""List a tenant's snapshots. Wakes nobody."""

from __future__ import annotations

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.snapshots import Snapshot, read_snapshots
from tenantry.neon.client import NeonClient


def list_snapshots(catalog: Catalog, client: NeonClient, tenant: str) -> list[Snapshot]:
    """Oldest first. Raises NotFound and Conflict."""
    _, project_id, _ = find_ready(catalog, tenant)
    return read_snapshots(client, project_id)
