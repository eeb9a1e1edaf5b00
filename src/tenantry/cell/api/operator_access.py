"""``operator_access``, off the contract: connection strings that quotas do not stop, to one project or to many."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import Response

from tenantry.cell import model, operator_access
from tenantry.cell.api.bodies import Body, BranchIdField, PostgresName, json_body
from tenantry.cell.api.desk import API_PREFIX, AtDesk, Desk, ProjectIdInPath, answer
from tenantry.errors import NotFound
from tenantry.neon import shapes
from tenantry.neon.ids import EndpointId, ProjectId

router = APIRouter(prefix=API_PREFIX)


class _OperatorAccess(Body):
    """What to connect to, and for how long new connections shall be let in."""

    database_name: PostgresName
    role_name: PostgresName
    branch_id: BranchIdField | None = None
    endpoint_id: Annotated[EndpointId, Field(pattern=r"^[a-z0-9-]{1,60}$")] | None = None
    expires_in_seconds: Annotated[int, Field(ge=1, le=operator_access.SECONDS_MAX)] | None = None


class OperatorAccessBody(Body):
    operator_access: _OperatorAccess


class _ToProject(_OperatorAccess):
    project_id: Annotated[ProjectId, Field(pattern=r"^[a-z0-9-]{1,60}$")]


class OperatorAccessesBody(Body):
    operator_access: Annotated[list[_ToProject], Field(max_length=shapes.OPERATOR_ACCESSES_MAX)]


@router.post("/projects/{project_id}/operator_access")
async def operator_access_for(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    body: Annotated[OperatorAccessBody, Depends(json_body(OperatorAccessBody))],
) -> Response:
    """For backups and migrations."""
    said = body.operator_access
    found = await desk.cell.connection(project_id, _request(said))
    return answer(await _access(desk, project_id, said, found), 201)


@router.post("/operator_access")
async def operator_access_for_many(
    desk: AtDesk, body: Annotated[OperatorAccessesBody, Depends(json_body(OperatorAccessesBody))]
) -> Response:
    """For the next of a fleet's tenants, as far as is known without asking one; left out is whoever has no way."""
    wanted = body.operator_access
    known = await desk.cell.known_connections([(said.project_id, _request(said)) for said in wanted])
    given: list[shapes.OperatorAccess] = []
    for said, found in zip(wanted, known, strict=True):
        if found is None:
            continue
        try:
            access = await _access(desk, said.project_id, said, found)
        except NotFound:
            continue  # deleted this moment
        given.append(access.model_copy(update={"project_id": said.project_id}))
    return answer(shapes.OperatorAccesses(operator_access=given), 201)


def _request(said: _OperatorAccess) -> model.ConnectionRequest:
    return model.ConnectionRequest(
        database_name=said.database_name,
        role_name=said.role_name,
        branch_id=said.branch_id,
        endpoint_id=said.endpoint_id,
    )


async def _access(
    desk: Desk, project_id: ProjectId, said: _OperatorAccess, found: model.Connection
) -> shapes.OperatorAccess:
    access = await desk.cell.operator_access(project_id, said.expires_in_seconds)
    dsn = desk.site.door.dsn(
        found.endpoint.id, database=found.database_name, role=found.role_name, password=found.password, pooled=False
    )
    client_key, server_key = found.keys or (None, None)
    return shapes.OperatorAccess(
        uri=dsn.with_option(f"operator={access.token}").uri(),
        token=access.token,
        expires_at=access.expires_at,
        scram_client_key=client_key,
        scram_server_key=server_key,
    )
