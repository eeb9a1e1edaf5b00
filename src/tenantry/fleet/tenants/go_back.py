"""Bring a tenant back to the state before a migration, once: the name under which its present is kept is chosen before,
and a branch of that name says that it was done.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from tenantry.errors import Conflict
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.restore import (
    RESTORE_SECONDS_MAX,
    dated_name,
    default_branch,
    forget_schema,
    is_dated,
    plan_restore,
    restore_tenant,
)
from tenantry.neon.ids import BranchId, ProjectId, SnapshotId
from tenantry.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from tenantry.neon import shapes
    from tenantry.neon.client import NeonClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a tenant can be brought back to, and what was done with its past already."""

    tenant: Tenant
    history_from: datetime
    """About where the history begins that is kept."""
    branches: frozenset[str]
    """The names of its branches."""
    snapshots: frozenset[str]
    """The ids of its snapshots."""
    restores: tuple[tuple[datetime, str], ...]
    """When its default branch took another state, and the branch that keeps what was there until then."""
    preserved_as: str
    """A name for its present, which nobody else takes."""


def look_back(catalog: Catalog, provider_of: ProviderOf, name: str, *, now: datetime | None = None) -> Past:
    """Changes nothing and wakes nobody. Raises NotFound, Conflict, and NotSupported where there is no way back."""
    tenant, project_id, _ = find_ready(catalog, name)
    client = provider_of(tenant).api("restore")
    branches = list(client.branches(project_id))
    branch = default_branch(branches, project_id)
    project = client.get_project(project_id)
    now = now or datetime.now(UTC)
    dated = dated_name(branch.name, now, {each.name for each in branches})
    return Past(
        tenant=tenant,
        history_from=max(project.created_at, now - timedelta(seconds=project.history_retention_seconds)),
        branches=frozenset(each.name for each in branches),
        snapshots=frozenset(each.id for each in client.list_snapshots(project_id)),
        restores=tuple(sorted((each.created_at, each.name) for each in _former(branch, branches))),
        # Of two that undo in one second each knows its own.
        preserved_as=f"{dated}-undo-{secrets.token_hex(4)}",
    )


def _former(branch: shapes.Branch, branches: Sequence[shapes.Branch]) -> list[shapes.Branch]:
    """What keeps former states of the branch: by their names, and, whoever named them, as its ancestors. Pure."""
    by_id = {each.id: each for each in branches}
    found = {each.id: each for each in branches if is_dated(each.name, branch.name)}
    ancestor = by_id.get(branch.parent_id or "")
    while ancestor is not None and ancestor.id not in found:
        found[ancestor.id] = ancestor
        ancestor = by_id.get(ancestor.parent_id or "")
    return list(found.values())


def go_back(
    catalog: Catalog,
    provider_of: ProviderOf,
    name: str,
    *,
    kind: Literal["lsn", "snapshot"],
    value: str,
    preserved_as: str,
) -> bool:
    """Returns when the tenant is in that state and what it was is the branch ``preserved_as``; False: it was already.

    Safe to call again after whatever happened to an earlier call. Raises InvalidInput for a point outside of the
    history, NotFound for a snapshot that is gone; the tenant is as it was then.
    """
    tenant, project_id, _ = find_ready(catalog, name)
    client = provider_of(tenant).api("restore")
    if _kept(client, project_id, preserved_as):
        return False
    try:
        if kind == "lsn":
            plan = plan_restore(catalog, provider_of, tenant.slug, lsn=value)
            restore_tenant(catalog, provider_of, replace(plan, preserved_as=preserved_as))
        else:
            _to_snapshot(catalog, client, tenant, project_id, SnapshotId(value), preserved_as)
    except Conflict:
        # A request of a killed predecessor may have arrived between our look and our own request.
        if not _kept(client, project_id, preserved_as):
            raise
        return False
    return True


def _kept(client: NeonClient, project_id: ProjectId, name: str) -> bool:
    return any(branch.name == name and not branch.default for branch in client.branches(project_id))


def _to_snapshot(
    catalog: Catalog,
    client: NeonClient,
    tenant: Tenant,
    project_id: ProjectId,
    snapshot_id: SnapshotId,
    preserved_as: str,
) -> None:
    before = list(client.branches(project_id))
    branch = default_branch(before, project_id)
    forget_schema(catalog, tenant)
    changed = client.restore_snapshot(
        project_id, snapshot_id, name=preserved_as, target_branch_id=BranchId(branch.id), finalize=True
    )
    client.wait_for_operations(project_id, changed.operations, deadline_seconds=RESTORE_SECONDS_MAX)
    failpoint("go_back.restored")
    after = list(client.branches(project_id))
    if (named := _unnamed(before, after, preserved_as)) is not None:
        client.update_branch(project_id, BranchId(named.id), name=preserved_as)
    forget_schema(catalog, tenant, verb="restore snapshot", snapshot=snapshot_id, preserved_as=preserved_as)


def _unnamed(before: list[shapes.Branch], after: list[shapes.Branch], preserved_as: str) -> shapes.Branch | None:
    """What keeps the former state, where the provider has chosen its name."""
    if any(branch.name == preserved_as and not branch.default for branch in after):
        return None
    known = {branch.name for branch in before}
    fresh = [branch for branch in after if branch.name not in known and not branch.default]
    return min(fresh, key=lambda branch: branch.name, default=None)
