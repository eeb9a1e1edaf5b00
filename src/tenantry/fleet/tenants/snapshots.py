"""Snapshots of a tenant's default branch: what they are, and how one is found by its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tenantry.errors import NotFound
from tenantry.fleet.catalog.records import Tenant
from tenantry.neon.ids import ProjectId, SnapshotId

if TYPE_CHECKING:
    from tenantry.neon import shapes
    from tenantry.neon.client import NeonClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    id: SnapshotId
    name: str
    branch: str | None
    """The name of the branch it was taken of; None when that is gone."""
    timestamp: datetime | None
    """The moment whose state it holds."""
    lsn: str | None
    size_bytes: int | None
    manual: bool
    """False when a schedule took it."""
    created_at: datetime
    expires_at: datetime | None


def read_snapshots(client: NeonClient, project_id: ProjectId) -> list[Snapshot]:
    """All snapshots of a project, oldest first."""
    names = {branch.id: branch.name for branch in client.branches(project_id)}
    found = [snapshot_of(shape, names.get(shape.source_branch_id or "")) for shape in client.list_snapshots(project_id)]
    return sorted(found, key=lambda snapshot: (snapshot.created_at, snapshot.id))


def snapshot_of(shape: shapes.Snapshot, branch: str | None) -> Snapshot:
    return Snapshot(
        id=SnapshotId(shape.id),
        name=shape.name,
        branch=branch,
        timestamp=_moment(shape.timestamp),
        lsn=shape.lsn,
        size_bytes=shape.full_size,
        manual=shape.manual is not False,
        created_at=datetime.fromisoformat(shape.created_at),
        expires_at=_moment(shape.expires_at),
    )


def the_snapshot(snapshots: Sequence[Snapshot], name: str, tenant: Tenant) -> Snapshot:
    """By name, or else by id. Raises NotFound."""
    for candidate in snapshots:
        if candidate.name == name:
            return candidate
    for candidate in snapshots:
        if candidate.id == name:
            return candidate
    raise NotFound(
        f"tenant {tenant.slug} has no snapshot {name!r}",
        next_step=f"see `tenantry snapshot list {tenant.slug}`",
        snapshot=name,
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
