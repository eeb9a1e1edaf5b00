"""Snapshots of branches, and the schedules that take them."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, Field
from starlette.responses import Response

from tenantry.cell import model
from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import Body, BranchIdField, Lsn, Moment, Name, json_body, readable
from tenantry.cell.api.desk import API_PREFIX, AtDesk, BranchIdInPath, ProjectIdInPath, SnapshotIdInPath, answer
from tenantry.errors import InvalidInput
from tenantry.neon import shapes

SCHEDULE_LINES_MAX: Final = 32
RETENTION_SECONDS_MAX: Final = 100 * 365 * 86_400

router = APIRouter(prefix=API_PREFIX + "/projects/{project_id}")

_NameInQuery = Annotated[
    str | None, Query(min_length=1, max_length=256), AfterValidator(lambda name: name and readable(name))
]


class _ChangedSnapshot(Body):
    name: Name | None = None


class SnapshotUpdateBody(Body):
    snapshot: _ChangedSnapshot


class SnapshotRestoreBody(Body):
    name: Name | None = None
    target_branch_id: BranchIdField | None = None
    finalize_restore: bool | None = None


class _ScheduleLine(Body):
    frequency: Literal["hourly", "daily", "weekly", "monthly", "yearly"]
    hour: Annotated[int, Field(ge=0, le=23)] | None = None
    day: Annotated[int, Field(ge=1, le=31)] | None = None
    month: Annotated[int, Field(ge=1, le=12)] | None = None
    retention_seconds: Annotated[int, Field(ge=3600, le=RETENTION_SECONDS_MAX)] | None = None


class BackupScheduleBody(Body):
    schedule: Annotated[list[_ScheduleLine], Field(max_length=SCHEDULE_LINES_MAX)]

    def request(self) -> list[model.BackupSlot]:
        return [
            model.BackupSlot(
                frequency=line.frequency,
                hour=line.hour,
                day=line.day,
                month=line.month,
                retention_seconds=line.retention_seconds,
            )
            for line in self.schedule
        ]


@router.post("/branches/{branch_id}/snapshot")
async def create_snapshot(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    lsn: Annotated[Lsn | None, Query()] = None,
    timestamp: Annotated[Moment | None, Query()] = None,
    name: _NameInQuery = None,
    expires_at: Annotated[Moment | None, Query()] = None,
) -> Response:
    if lsn is not None and timestamp is not None:
        raise InvalidInput("lsn: not together with timestamp")
    request = model.SnapshotCreate(name=name, lsn=lsn, timestamp=timestamp, expires_at=expires_at)
    made = await desk.cell.create_snapshot(project_id, branch_id, request)
    return answer(
        shapes.SnapshotOperations(
            snapshot=presenters.snapshot(made.snapshot), operations=presenters.operations(made.operations)
        )
    )


@router.get("/snapshots")
async def list_snapshots(desk: AtDesk, project_id: ProjectIdInPath) -> Response:
    records = await desk.cell.list_snapshots(project_id)
    return answer(shapes.SnapshotsResponse(snapshots=[presenters.snapshot(record) for record in records]))


@router.patch("/snapshots/{snapshot_id}")
async def update_snapshot(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    snapshot_id: SnapshotIdInPath,
    body: Annotated[SnapshotUpdateBody, Depends(json_body(SnapshotUpdateBody))],
) -> Response:
    record = await desk.cell.rename_snapshot(project_id, snapshot_id, body.snapshot.name)
    return answer(shapes.SnapshotResponse(snapshot=presenters.snapshot(record)))


@router.delete("/snapshots/{snapshot_id}")
async def delete_snapshot(desk: AtDesk, project_id: ProjectIdInPath, snapshot_id: SnapshotIdInPath) -> Response:
    operations = await desk.cell.delete_snapshot(project_id, snapshot_id)
    return answer(shapes.OperationsResponse(operations=presenters.operations(operations)), 202)


@router.post("/snapshots/{snapshot_id}/restore")
async def restore_snapshot(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    snapshot_id: SnapshotIdInPath,
    body: Annotated[SnapshotRestoreBody, Depends(json_body(SnapshotRestoreBody, required=False))],
    name: _NameInQuery = None,
) -> Response:
    request = model.SnapshotRestore(
        name=body.name or name,
        target_branch_id=body.target_branch_id,
        finalize_restore=bool(body.finalize_restore),
    )
    restored = await desk.cell.restore_snapshot(project_id, snapshot_id, request)
    region = (await desk.cell.get_project(project_id)).region_id
    return answer(
        shapes.SnapshotRestored(
            branch=presenters.branch(restored.branch),
            endpoints=presenters.endpoints(desk.site, restored.endpoints, region),
            operations=presenters.operations(restored.operations),
            roles_of_the_past=None if restored.roles_of_the_past is None else list(restored.roles_of_the_past),
        )
    )


@router.get("/branches/{branch_id}/backup_schedule")
async def get_schedule(desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath) -> Response:
    slots = await desk.cell.backup_schedule(project_id, branch_id)
    return answer(shapes.BackupSchedule(schedule=[presenters.backup_slot(slot) for slot in slots]))


@router.put("/branches/{branch_id}/backup_schedule")
async def set_schedule(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    body: Annotated[BackupScheduleBody, Depends(json_body(BackupScheduleBody))],
) -> Response:
    await desk.cell.set_backup_schedule(project_id, branch_id, body.request())
    return answer(shapes.Empty())
