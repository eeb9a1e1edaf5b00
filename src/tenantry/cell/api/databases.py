"""``/projects/{id}/branches/{id}/databases``: list, get, create, change, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from tenantry.cell import model
from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import Body, PostgresName, json_body
from tenantry.cell.api.desk import API_PREFIX, AtDesk, BranchIdInPath, NameInPath, ProjectIdInPath, answer, nothing
from tenantry.neon import shapes

router = APIRouter(prefix=API_PREFIX + "/projects/{project_id}/branches/{branch_id}/databases")


class _NewDatabase(Body):
    name: PostgresName
    owner_name: PostgresName


class DatabaseCreateBody(Body):
    database: _NewDatabase


class _ChangedDatabase(Body):
    name: PostgresName | None = None
    owner_name: PostgresName | None = None


class DatabaseUpdateBody(Body):
    database: _ChangedDatabase


@router.get("")
async def list_databases(desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath) -> Response:
    records = await desk.cell.list_databases(project_id, branch_id)
    return answer(shapes.DatabasesResponse(databases=presenters.databases(records)))


@router.post("")
async def create_database(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    body: Annotated[DatabaseCreateBody, Depends(json_body(DatabaseCreateBody))],
) -> Response:
    request = model.DatabaseCreate(name=body.database.name, owner_name=body.database.owner_name)
    return _changed(await desk.cell.create_database(project_id, branch_id, request), 201)


# A name may hold a slash, which the path has decoded by now.


@router.get("/{database_name:path}")
async def get_database(
    desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath, database_name: NameInPath
) -> Response:
    record = await desk.cell.get_database(project_id, branch_id, database_name)
    return answer(shapes.DatabaseResponse(database=presenters.database(record)))


@router.patch("/{database_name:path}")
async def update_database(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    database_name: NameInPath,
    body: Annotated[DatabaseUpdateBody, Depends(json_body(DatabaseUpdateBody))],
) -> Response:
    change = model.DatabaseChange(name=body.database.name, owner_name=body.database.owner_name)
    return _changed(await desk.cell.update_database(project_id, branch_id, database_name, change))


@router.delete("/{database_name:path}")
async def delete_database(
    desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath, database_name: NameInPath
) -> Response:
    changed = await desk.cell.delete_database(project_id, branch_id, database_name)
    return nothing() if changed is None else _changed(changed)


def _changed(changed: model.DatabaseChanged, status: int = 200) -> Response:
    return answer(
        shapes.DatabaseOperations(
            database=presenters.database(changed.database), operations=presenters.operations(changed.operations)
        ),
        status,
    )
