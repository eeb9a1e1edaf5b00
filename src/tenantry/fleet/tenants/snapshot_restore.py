"""Bring a tenant back to a snapshot in place, its present kept; or put the snapshot's state into a branch beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.restore import (
    RESTORE_SECONDS_MAX,
    Restored,
    dated_name,
    default_branch,
    forget_schema,
    roles_of_the_past,
)
from tenantry.fleet.tenants.snapshots import Snapshot, read_snapshots, the_snapshot
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from tenantry.neon import shapes
    from tenantry.neon.client import NeonClient


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRestoring:
    """What restoring a snapshot in place would do, for the operator to look at first."""

    tenant: Tenant
    project_id: ProjectId
    branch_id: BranchId
    branch: str
    snapshot: Snapshot


def plan_snapshot_restore(catalog: Catalog, provider_of: ProviderOf, tenant: str, name: str) -> SnapshotRestoring:
    """Changes nothing. Raises NotFound and Conflict."""
    found, project_id, _ = find_ready(catalog, tenant)
    client = provider_of(found).api("snapshots")
    branch = default_branch(list(client.branches(project_id)), project_id)
    snapshot = the_snapshot(read_snapshots(client, project_id), name, found)
    return SnapshotRestoring(
        tenant=found, project_id=project_id, branch_id=BranchId(branch.id), branch=branch.name, snapshot=snapshot
    )


def restore_snapshot(catalog: Catalog, provider_of: ProviderOf, plan: SnapshotRestoring) -> Restored:
    """Returns when the tenant is in the snapshot's state. Its sessions are cut, its connection string stays."""
    client = provider_of(plan.tenant).api("snapshots")
    before = {branch.name for branch in client.branches(plan.project_id)}
    forget_schema(catalog, plan.tenant)
    changed = client.restore_snapshot(plan.project_id, plan.snapshot.id, target_branch_id=plan.branch_id, finalize=True)
    client.wait_for_operations(plan.project_id, changed.operations, deadline_seconds=RESTORE_SECONDS_MAX)
    failpoint("restore_snapshot.restored")
    forget_schema(catalog, plan.tenant, verb="restore snapshot", snapshot=plan.snapshot.name)
    after = list(client.branches(plan.project_id))
    branch = default_branch(after, plan.project_id)
    return Restored(
        tenant=plan.tenant,
        branch=branch.name,
        preserved_as=_name_as_kept(client, plan, [each for each in after if each.name not in before], after),
        roles_of_the_past=roles_of_the_past(client, plan.project_id, BranchId(branch.id), changed.roles_of_the_past),
    )


def _name_as_kept(
    client: NeonClient, plan: SnapshotRestoring, fresh: Sequence[shapes.Branch], after: Sequence[shapes.Branch]
) -> str | None:
    """The name of the former state: the provider's choice, so it gets the one that says until when it was seen."""
    kept = min(fresh, key=lambda each: each.name, default=None)
    if kept is None:
        return None
    name = dated_name(plan.branch, datetime.now(UTC), {each.name for each in after})
    client.update_branch(plan.project_id, BranchId(kept.id), name=name)
    return name


def branch_of_snapshot(provider_of: ProviderOf, plan: SnapshotRestoring, branch: str) -> None:
    """Makes a new branch of this name in the snapshot's state, with an endpoint. Raises Conflict when it is taken."""
    client = provider_of(plan.tenant).api("snapshots")
    made = client.restore_snapshot(plan.project_id, plan.snapshot.id, name=branch)
    client.wait_for_operations(plan.project_id, made.operations, deadline_seconds=RESTORE_SECONDS_MAX)
