"""Delete a snapshot, having shown which: the state it held goes, unless the history still reaches back to it."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.errors import NotFound
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.snapshots import Snapshot, read_snapshots, the_snapshot
from tenantry.neon.ids import ProjectId


@dataclass(frozen=True, slots=True)
class SnapshotDeletion:
    tenant: Tenant
    project_id: ProjectId
    snapshot: Snapshot


def plan_snapshot_deletion(catalog: Catalog, provider_of: ProviderOf, tenant: str, name: str) -> SnapshotDeletion:
    """Changes nothing. Raises NotFound and Conflict."""
    found, project_id, _ = find_ready(catalog, tenant)
    client = provider_of(found).api("snapshots")
    return SnapshotDeletion(found, project_id, the_snapshot(read_snapshots(client, project_id), name, found))


def delete_snapshot(catalog: Catalog, provider_of: ProviderOf, deletion: SnapshotDeletion) -> bool:
    """False when it was gone already."""
    client = provider_of(deletion.tenant).api("snapshots")
    try:
        deleted = client.delete_snapshot(deletion.project_id, deletion.snapshot.id)
    except NotFound:
        return False
    client.wait_for_operations(deletion.project_id, deleted.operations)
    with catalog.transaction() as connection:
        events.record(connection, "delete snapshot", deletion.tenant, snapshot=deletion.snapshot.name)
    return True
