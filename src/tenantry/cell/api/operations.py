"""``/projects/{id}/operations``: list and get."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from tenantry.cell.api import presenters
from tenantry.cell.api.desk import API_PREFIX, AtDesk, OperationIdInPath, ProjectIdInPath, answer
from tenantry.neon import shapes
from tenantry.neon.ids import OperationId

OPERATIONS_PER_PAGE: Final = 100
OPERATIONS_PER_PAGE_MAX: Final = 1_000

router = APIRouter(prefix=API_PREFIX + "/projects/{project_id}/operations")


@router.get("")
async def list_operations(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    cursor: Annotated[OperationId | None, Query(pattern=r"^[a-z0-9-]{1,60}$")] = None,
    limit: Annotated[int, Query(ge=1, le=OPERATIONS_PER_PAGE_MAX)] = OPERATIONS_PER_PAGE,
) -> Response:
    records = await desk.cell.list_operations(project_id, after=cursor, limit=limit)
    full = len(records) == limit
    return answer(
        shapes.OperationsResponse(
            operations=presenters.operations(records),
            pagination=shapes.Pagination(cursor=records[-1].id) if full else None,
        )
    )


@router.get("/{operation_id}")
async def get_operation(desk: AtDesk, project_id: ProjectIdInPath, operation_id: OperationIdInPath) -> Response:
    record = await desk.cell.get_operation(project_id, operation_id)
    return answer(shapes.OperationResponse(operation=presenters.operation(record)))
