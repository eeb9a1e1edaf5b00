"""Take a snapshot: a name for one state of a tenant, held until the snapshot is deleted or expires."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.restore import default_branch
from tenantry.fleet.tenants.snapshots import Snapshot, snapshot_of
from tenantry.neon.ids import BranchId


@dataclass(frozen=True, slots=True)
class TakenSnapshot:
    tenant: Tenant
    snapshot: Snapshot


def create_snapshot(
    catalog: Catalog,
    provider_of: ProviderOf,
    tenant: str,
    *,
    name: str | None = None,
    at: datetime | None = None,
    lsn: str | None = None,
    expires_at: datetime | None = None,
) -> TakenSnapshot:
    """Of the present, or of a time or position in the history. Raises NotFound, Conflict for a name that is taken."""
    if at is not None and lsn is not None:
        raise InvalidInput("a time and a position were given", next_step="give one of them")
    found, project_id, _ = find_ready(catalog, tenant)
    client = provider_of(found).api("snapshots")
    branch = default_branch(list(client.branches(project_id)), project_id)
    made = client.create_snapshot(
        project_id, BranchId(branch.id), name=name, timestamp=at, lsn=lsn, expires_at=expires_at
    )
    client.wait_for_operations(project_id, made.operations)
    with catalog.transaction() as connection:
        events.record(connection, "take snapshot", found, snapshot=made.snapshot.name)
    return TakenSnapshot(found, snapshot_of(made.snapshot, branch.name))
