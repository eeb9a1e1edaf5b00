"""``/projects/{id}/endpoints``: list, get, create, change, delete, start, suspend, restart."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, Field
from starlette.responses import Response

from tenantry.cell import model
from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import (
    Body,
    BranchIdField,
    check_compute_range,
    check_endpoint_settings,
    json_body,
    readable,
    settings,
)
from tenantry.cell.api.desk import (
    API_PREFIX,
    AtDesk,
    BranchIdInPath,
    Desk,
    EndpointIdInPath,
    ProjectIdInPath,
    answer,
    nothing,
)
from tenantry.errors import NotSupported
from tenantry.neon import shapes
from tenantry.neon.ids import ProjectId

router = APIRouter(prefix=API_PREFIX + "/projects/{project_id}")

_EndpointName = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(readable)]


class _SaidOfEndpoint(Body):
    name: _EndpointName | None = None
    autoscaling_limit_min_cu: shapes.ComputeUnits | None = None
    autoscaling_limit_max_cu: shapes.ComputeUnits | None = None
    settings: shapes.EndpointSettings | None = None
    pooler_enabled: bool | None = None
    pooler_mode: Literal["transaction"] | None = None
    disabled: bool | None = None
    passwordless_access: bool | None = None
    suspend_timeout_seconds: shapes.SuspendSeconds | None = None

    def check(self) -> None:
        """Raises InvalidInput or NotSupported for what cannot be."""
        check_compute_range(self.autoscaling_limit_min_cu, self.autoscaling_limit_max_cu)
        if self.passwordless_access:
            raise NotSupported("endpoint.passwordless_access: every login of a cell needs a password")
        check_endpoint_settings(self.settings)


class _NewEndpoint(_SaidOfEndpoint):
    branch_id: BranchIdField
    type: model.EndpointType


class EndpointCreateBody(Body):
    endpoint: _NewEndpoint

    def request(self) -> model.EndpointCreate:
        said = self.endpoint
        said.check()
        return model.EndpointCreate(
            branch_id=said.branch_id,
            type=said.type,
            name=said.name,
            min_cu=said.autoscaling_limit_min_cu,
            max_cu=said.autoscaling_limit_max_cu,
            suspend_timeout_seconds=said.suspend_timeout_seconds,
            disabled=bool(said.disabled),
            pooler_enabled=bool(said.pooler_enabled),
            settings=settings(said.settings) or {},
        )


class _ChangedEndpoint(_SaidOfEndpoint):
    branch_id: BranchIdField | None = None


class EndpointUpdateBody(Body):
    endpoint: _ChangedEndpoint

    def request(self) -> model.EndpointChange:
        said = self.endpoint
        said.check()
        return model.EndpointChange(
            name=said.name,
            branch_id=said.branch_id,
            min_cu=said.autoscaling_limit_min_cu,
            max_cu=said.autoscaling_limit_max_cu,
            suspend_timeout_seconds=said.suspend_timeout_seconds,
            disabled=said.disabled,
            pooler_enabled=said.pooler_enabled,
            settings=settings(said.settings),
        )


@router.get("/branches/{branch_id}/endpoints")
async def list_branch_endpoints(desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath) -> Response:
    region = (await desk.cell.get_project(project_id)).region_id
    records = await desk.cell.list_endpoints(project_id, branch_id)
    return answer(shapes.EndpointsResponse(endpoints=presenters.endpoints(desk.site, records, region)))


@router.get("/endpoints")
async def list_endpoints(desk: AtDesk, project_id: ProjectIdInPath) -> Response:
    region = (await desk.cell.get_project(project_id)).region_id
    records = await desk.cell.list_endpoints(project_id, None)
    return answer(shapes.EndpointsResponse(endpoints=presenters.endpoints(desk.site, records, region)))


@router.post("/endpoints")
async def create_endpoint(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    body: Annotated[EndpointCreateBody, Depends(json_body(EndpointCreateBody))],
) -> Response:
    return await _changed(desk, project_id, await desk.cell.create_endpoint(project_id, body.request()), 201)


@router.get("/endpoints/{endpoint_id}")
async def get_endpoint(desk: AtDesk, project_id: ProjectIdInPath, endpoint_id: EndpointIdInPath) -> Response:
    record = await desk.cell.get_endpoint(project_id, endpoint_id)
    region = (await desk.cell.get_project(project_id)).region_id
    return answer(shapes.EndpointResponse(endpoint=presenters.endpoint(desk.site, record, region)))


@router.patch("/endpoints/{endpoint_id}")
async def update_endpoint(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    endpoint_id: EndpointIdInPath,
    body: Annotated[EndpointUpdateBody, Depends(json_body(EndpointUpdateBody))],
) -> Response:
    changed = await desk.cell.update_endpoint(project_id, endpoint_id, body.request())
    return await _changed(desk, project_id, changed)


@router.delete("/endpoints/{endpoint_id}")
async def delete_endpoint(desk: AtDesk, project_id: ProjectIdInPath, endpoint_id: EndpointIdInPath) -> Response:
    changed = await desk.cell.delete_endpoint(project_id, endpoint_id)
    return nothing() if changed is None else await _changed(desk, project_id, changed)


@router.post("/endpoints/{endpoint_id}/start")
async def start_endpoint(desk: AtDesk, project_id: ProjectIdInPath, endpoint_id: EndpointIdInPath) -> Response:
    return await _changed(desk, project_id, await desk.cell.start_endpoint(project_id, endpoint_id))


@router.post("/endpoints/{endpoint_id}/suspend")
async def suspend_endpoint(desk: AtDesk, project_id: ProjectIdInPath, endpoint_id: EndpointIdInPath) -> Response:
    return await _changed(desk, project_id, await desk.cell.suspend_endpoint(project_id, endpoint_id))


@router.post("/endpoints/{endpoint_id}/restart")
async def restart_endpoint(desk: AtDesk, project_id: ProjectIdInPath, endpoint_id: EndpointIdInPath) -> Response:
    return await _changed(desk, project_id, await desk.cell.restart_endpoint(project_id, endpoint_id))


async def _changed(desk: Desk, project_id: ProjectId, changed: model.EndpointChanged, status: int = 200) -> Response:
    region = (await desk.cell.get_project(project_id)).region_id
    return answer(
        shapes.EndpointOperations(
            endpoint=presenters.endpoint(desk.site, changed.endpoint, region),
            operations=presenters.operations(changed.operations),
        ),
        status,
    )
