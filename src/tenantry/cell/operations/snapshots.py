"""Snapshots: a name for one state of a branch's history, which is then kept as long as the snapshot is.

Taking one copies nothing: it notes a position. Restoring one makes a head from there, as for any other point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Final

from tenantry.cell.model import (
    BackupSlot,
    Branch,
    BranchCreate,
    BranchEndpointCreate,
    BranchRestore,
    Head,
    Project,
    RestoredSnapshot,
    Snapshot,
    SnapshotChanged,
    SnapshotCreate,
    SnapshotRestore,
)
from tenantry.cell.operations.branches import Place, check_head, create_branch, resolve
from tenantry.cell.operations.context import Context, branch_of, idle_project, living_project
from tenantry.cell.operations.history import head_of, heads_by_id
from tenantry.cell.operations.restore_branch import restore_branch
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, InvalidInput, LimitReached, NotFound
from tenantry.neon.ids import BranchId, HeadId, ProjectId, SnapshotId, new_snapshot_id
from tenantry.postgres.lsn import format_lsn
from tenantry.runtime.failpoints import failpoint

SNAPSHOTS_PER_PROJECT_MAX: Final = 100
SLOTS_MAX: Final = 16


async def create_snapshot(
    context: Context, project_id: ProjectId, branch_id: BranchId, request: SnapshotCreate, *, manual: bool = True
) -> SnapshotChanged:
    """Answers when the state is held. Raises InvalidInput (a point outside of the history), Conflict, LimitReached."""
    branch = await context.state.read(lambda tables: branch_of(tables, project_id, branch_id))
    place = await resolve(context, branch, lsn=request.lsn, moment=request.timestamp) or await _now(context, branch)
    failpoint("snapshot.placed")

    def insert(tables: Tables) -> Snapshot:
        idle_project(tables, project_id)
        check_head(branch_of(tables, project_id, branch_id), place)
        known = tables.snapshots(project_id)
        if len(known) >= SNAPSHOTS_PER_PROJECT_MAX:
            raise LimitReached(
                f"project {project_id} has {len(known)} snapshots, which is the most that one can have",
                next_step="delete some of them",
            )
        now = context.clock.now()
        name = request.name or f"{branch.name} {now:%Y-%m-%d %H:%M:%S}"
        if any(snapshot.name == name for snapshot in known):
            raise Conflict(f"a snapshot named {name!r} already exists", field="name")
        snapshot = Snapshot(
            id=new_snapshot_id(),
            project_id=project_id,
            source_branch_id=branch_id,
            head_id=place.head_id,
            name=name,
            lsn=place.lsn,
            timestamp=request.timestamp or now,
            manual=manual,
            full_size=branch.logical_size,
            created_at=now,
            expires_at=request.expires_at,
        )
        tables.insert(snapshot)
        return snapshot

    snapshot = await context.state.write(insert)
    failpoint("snapshot.written")
    return SnapshotChanged(snapshot=snapshot)


async def _now(context: Context, branch: Branch) -> Place:
    """The end of the branch's log: everything acknowledged before the call lies before it."""

    def look(tables: Tables) -> tuple[Project, Head, dict[HeadId, Head]]:
        project = living_project(tables, branch.project_id)
        return project, head_of(tables, branch), heads_by_id(tables, project)

    project, head, heads = await context.state.read(look)

    def end() -> Place:
        context.keeper.link(project, head)
        return Place(head.id, format_lsn(context.keeper.history(project, head.id, heads).end()))

    return await asyncio.to_thread(end)


def _known(tables: Tables, project_id: ProjectId, snapshot_id: SnapshotId) -> Snapshot:
    living_project(tables, project_id)
    snapshot = tables.snapshot(snapshot_id)
    if snapshot is None or snapshot.project_id != project_id:
        raise NotFound(f"snapshot {snapshot_id} does not exist")
    return snapshot


async def list_snapshots(context: Context, project_id: ProjectId) -> Sequence[Snapshot]:
    def look(tables: Tables) -> Sequence[Snapshot]:
        living_project(tables, project_id)
        return tables.snapshots(project_id)

    return await context.state.read(look)


async def rename_snapshot(
    context: Context, project_id: ProjectId, snapshot_id: SnapshotId, name: str | None
) -> Snapshot:
    def apply(tables: Tables) -> Snapshot:
        snapshot = _known(tables, project_id, snapshot_id)
        after = snapshot if name is None else replace(snapshot, name=name)
        tables.update(after)
        return after

    return await context.state.write(apply)


async def delete_snapshot(context: Context, project_id: ProjectId, snapshot_id: SnapshotId) -> None:
    """What it held goes with the next look at the project's history. Raises NotFound."""

    def delete(tables: Tables) -> None:
        _known(tables, project_id, snapshot_id)
        tables.delete_snapshot(snapshot_id)

    await context.state.write(delete)
    failpoint("snapshot.deleted")


async def restore_snapshot(
    context: Context, runner: Runner, project_id: ProjectId, snapshot_id: SnapshotId, request: SnapshotRestore
) -> RestoredSnapshot:
    """Into a new branch with an endpoint, which may take the target's place later; with ``finalize_restore`` at once.

    The target is the snapshot's own branch where none is named. Its present state stays as a branch. Raises NotFound,
    Conflict, InvalidInput.
    """
    snapshot = await context.state.read(lambda tables: _known(tables, project_id, snapshot_id))
    # Its head may be no branch's any more, and positions mean nothing in another head's history.
    source = snapshot.source_branch_id
    if source is None or snapshot.lsn is None:
        raise Conflict(f"the branch that snapshot {snapshot.name!r} was taken of is gone")
    state = Place(snapshot.head_id, snapshot.lsn)
    if request.finalize_restore:
        target = request.target_branch_id or source
        name = request.name or f"{snapshot.name} replaced {context.clock.now():%Y-%m-%d %H:%M:%S}"
        changed = await restore_branch(
            context,
            runner,
            project_id,
            target,
            BranchRestore(source_branch_id=source, source_lsn=snapshot.lsn, preserve_under_name=name),
            state=state,
        )
        endpoints = await context.state.read(lambda tables: tables.endpoints_of_branch(target))
        return RestoredSnapshot(
            branch=changed.branch,
            endpoints=tuple(endpoints),
            operations=changed.operations,
            roles_of_the_past=changed.roles_of_the_past,
        )
    target = request.target_branch_id or source
    await context.state.read(lambda tables: branch_of(tables, project_id, target))
    created = await create_branch(
        context,
        runner,
        project_id,
        BranchCreate(
            name=request.name,
            parent_id=source,
            parent_lsn=snapshot.lsn,
            endpoints=(BranchEndpointCreate(),),
            restored_from=snapshot.id,
            restored_as=target,
        ),
        state=state,
    )
    return RestoredSnapshot(branch=created.branch, endpoints=created.endpoints, operations=created.operations)


# ------------------------------------------------------------------------------------------------- schedules


async def set_schedule(
    context: Context, project_id: ProjectId, branch_id: BranchId, slots: Sequence[BackupSlot]
) -> None:
    if len(slots) > SLOTS_MAX:
        raise InvalidInput(f"a schedule has at most {SLOTS_MAX} lines", field="schedule")

    def store(tables: Tables) -> None:
        branch_of(tables, project_id, branch_id)
        tables.set_schedule(branch_id, [asdict(slot) for slot in slots], context.clock.now())

    await context.state.write(store)


async def schedule(context: Context, project_id: ProjectId, branch_id: BranchId) -> Sequence[BackupSlot]:
    def look(tables: Tables) -> Sequence[BackupSlot]:
        branch_of(tables, project_id, branch_id)
        return [BackupSlot(**slot) for slot in tables.schedule(branch_id)]  # pyright: ignore[reportArgumentType] - written from the same record

    return await context.state.read(look)


def latest(slot: BackupSlot, now: datetime) -> datetime:
    """When the slot was last due, at or before ``now``. Pure; a day that a month lacks is its last."""
    hour = slot.hour or 0
    if slot.frequency == "hourly":
        return now.replace(minute=0, second=0, microsecond=0)
    moment = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    for _ in range(367):
        if moment <= now and _falls_on(slot, moment):
            return moment
        moment -= timedelta(days=1)
    return moment


def _falls_on(slot: BackupSlot, day: datetime) -> bool:
    last = (day.replace(day=28) + timedelta(days=4)).replace(day=1) - timedelta(days=1)
    of_month = min(slot.day or 1, last.day)
    match slot.frequency:
        case "weekly":
            return day.isoweekday() == (slot.day or 1)
        case "monthly":
            return day.day == of_month
        case "yearly":
            return day.month == (slot.month or 1) and day.day == of_month
        case _:
            return True


def due(slot: BackupSlot, branch: Branch, known: Sequence[Snapshot], now: datetime) -> bool:
    """Whether the slot's last time has come and no scheduled snapshot of the branch is as new. Pure."""
    moment = latest(slot, now)
    if branch.created_at > moment:
        return False
    return not any(
        snapshot.source_branch_id == branch.id and not snapshot.manual and snapshot.created_at >= moment
        for snapshot in known
    )


async def take_scheduled(context: Context, branch: Branch, slot: BackupSlot) -> None:
    now = context.clock.now()
    keep = None if slot.retention_seconds is None else now + timedelta(seconds=slot.retention_seconds)
    await create_snapshot(
        context,
        branch.project_id,
        branch.id,
        SnapshotCreate(name=f"{branch.name} {slot.frequency} {now:%Y-%m-%d %H:%M}", expires_at=keep),
        manual=False,
    )
