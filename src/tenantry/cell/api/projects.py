"""``/projects``: create, list, get, change, delete, recover, and the way to connect."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, Field
from starlette.responses import Response

from tenantry.cell import allowlist, model
from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import (
    Annotations,
    Body,
    Name,
    PostgresName,
    check_compute_range,
    fits_postgres,
    json_body,
    readable,
    settings,
)
from tenantry.cell.api.desk import API_PREFIX, AtDesk, Desk, ProjectIdInPath, answer
from tenantry.errors import InvalidInput, NotSupported
from tenantry.neon import shapes
from tenantry.neon.ids import BranchId, EndpointId, ProjectId, RegionId

PROJECTS_PER_PAGE: Final = 10
PROJECTS_PER_PAGE_MAX: Final = 400
RETENTION_SECONDS_MAX: Final = 30 * 86_400

router = APIRouter(prefix=API_PREFIX)

_Id = Query(pattern=r"^[a-z0-9-]{1,60}$")
_Limit = Annotated[int, Query(ge=1, le=PROJECTS_PER_PAGE_MAX)]
_Search = Annotated[str | None, Query(max_length=256)]
_NameInQuery = Annotated[
    str, Query(min_length=1, max_length=63), AfterValidator(readable), AfterValidator(fits_postgres)
]
_Retention = Annotated[int, Field(ge=0, le=RETENTION_SECONDS_MAX)]


_TIME_OF_DAY: Final = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_UNSERVED: Final[tuple[tuple[str, Callable[[shapes.ProjectSettings], object]], ...]] = (
    ("block_vpc_connections", lambda said: said.block_vpc_connections),
    ("enable_logical_replication", lambda said: said.enable_logical_replication),
    ("hipaa", lambda said: said.hipaa),
    ("audit_log_level", lambda said: said.audit_log_level not in (None, "base")),
    ("preload_libraries", lambda said: said.preload_libraries and said.preload_libraries.enabled_libraries),
)
"""Settings that promise something a cell does not do; accepting them would say that it is done."""


def check_settings(said: shapes.ProjectSettings | None) -> None:
    """Raises NotSupported naming each setting that nothing here would carry out, InvalidInput for a wrong one."""
    if said is None:
        return
    if said.allowed_ips is not None:
        allowlist.check(said.allowed_ips.ips or [])
    if said.maintenance_window is not None:
        _check_window(said.maintenance_window)
    unserved = [name for name, promises in _UNSERVED if promises(said)]
    if unserved:
        raise NotSupported(
            f"project.settings.{', '.join(unserved)}: this installation does not do that",
            next_step="leave it out",
            settings=unserved,
        )


def _check_window(said: shapes.MaintenanceWindow) -> None:
    if not said.weekdays or len(said.weekdays) > 7 or not all(1 <= day <= 7 for day in said.weekdays):
        raise InvalidInput(
            "settings.maintenance_window.weekdays: name days by 1 (Monday) to 7 (Sunday)",
            field="settings.maintenance_window.weekdays",
        )
    for name, time in (("start_time", said.start_time), ("end_time", said.end_time)):
        if not _TIME_OF_DAY.fullmatch(time):
            raise InvalidInput(
                f"settings.maintenance_window.{name}: write a time of day in UTC as HH:MM",
                field=f"settings.maintenance_window.{name}",
            )


class _FirstBranch(Body):
    name: Name | None = None
    role_name: PostgresName | None = None
    database_name: PostgresName | None = None
    annotations: Annotations | None = None


class _NewProject(Body):
    name: Name | None = None
    region_id: Annotated[RegionId, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    pg_version: Annotated[int, Field(ge=14, le=18)] | None = None
    branch: _FirstBranch | None = None
    store_passwords: bool | None = None
    history_retention_seconds: _Retention | None = None
    settings: shapes.ProjectSettings | None = None
    default_endpoint_settings: shapes.DefaultEndpointSettings | None = None
    # Deprecated by the contract, and older clients still send them.
    autoscaling_limit_min_cu: shapes.ComputeUnits | None = None
    autoscaling_limit_max_cu: shapes.ComputeUnits | None = None


class ProjectCreateBody(Body):
    project: _NewProject

    def request(self) -> model.ProjectCreate:
        said, branch = self.project, self.project.branch or _FirstBranch()
        defaults = said.default_endpoint_settings or shapes.DefaultEndpointSettings()
        min_cu = _first(defaults.autoscaling_limit_min_cu, said.autoscaling_limit_min_cu)
        max_cu = _first(defaults.autoscaling_limit_max_cu, said.autoscaling_limit_max_cu)
        check_compute_range(min_cu, max_cu)
        check_settings(said.settings)
        return model.ProjectCreate(
            name=said.name,
            region_id=said.region_id,
            pg_major=said.pg_version,
            branch_name=branch.name,
            role_name=branch.role_name,
            database_name=branch.database_name,
            annotations=branch.annotations or {},
            min_cu=min_cu,
            max_cu=max_cu,
            suspend_timeout_seconds=defaults.suspend_timeout_seconds,
            store_passwords=said.store_passwords is not False,
            history_retention_seconds=said.history_retention_seconds,
            settings=settings(said.settings) or {},
            default_endpoint_settings=settings(said.default_endpoint_settings) or {},
        )


class _ChangedProject(Body):
    name: Name | None = None
    history_retention_seconds: _Retention | None = None
    settings: shapes.ProjectSettings | None = None
    default_endpoint_settings: shapes.DefaultEndpointSettings | None = None


class ProjectUpdateBody(Body):
    project: _ChangedProject

    def request(self) -> model.ProjectChange:
        said = self.project
        check_settings(said.settings)
        return model.ProjectChange(
            name=said.name,
            history_retention_seconds=said.history_retention_seconds,
            settings=settings(said.settings),
            default_endpoint_settings=settings(said.default_endpoint_settings),
        )


@router.post("/projects")
async def create_project(
    desk: AtDesk, body: Annotated[ProjectCreateBody, Depends(json_body(ProjectCreateBody))]
) -> Response:
    made = await desk.cell.create_project(body.request())
    site = desk.site
    return answer(
        shapes.ProjectCreated(
            project=presenters.project(site, made.project, presenters.NO_USAGE, desk.cell.now()),
            branch=presenters.branch(made.branch),
            endpoints=presenters.endpoints(site, [made.endpoint], made.project.region_id),
            roles=presenters.roles_with_passwords(made.roles),
            databases=presenters.databases(made.databases),
            operations=presenters.operations(made.operations),
            connection_uris=presenters.connection_uris(site, [made.endpoint], made.databases, made.roles),
        ),
        201,
    )


@router.get("/projects")
async def list_projects(
    desk: AtDesk,
    cursor: Annotated[ProjectId | None, _Id] = None,
    limit: _Limit = PROJECTS_PER_PAGE,
    search: _Search = None,
    recoverable: bool = False,
) -> Response:
    records = await desk.cell.list_projects(after=cursor, limit=limit, search=search or None, deleted=recoverable)
    usage = await desk.cell.project_usage([record.id for record in records])
    full = len(records) == limit
    return answer(
        shapes.ProjectsResponse(
            projects=presenters.projects(desk.site, records, usage, desk.cell.now()),
            pagination=shapes.Pagination(cursor=records[-1].id) if full else None,
        )
    )


@router.get("/projects/shared")
async def list_shared_projects(limit: _Limit = PROJECTS_PER_PAGE) -> Response:
    """A cell has one account: nobody shares anything with it."""
    return answer(shapes.ProjectsResponse(projects=[]))


@router.get("/projects/{project_id}")
async def get_project(desk: AtDesk, project_id: ProjectIdInPath) -> Response:
    record = await desk.cell.get_project(project_id)
    return answer(shapes.ProjectResponse(project=await _project(desk, record)))


@router.patch("/projects/{project_id}")
async def update_project(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    body: Annotated[ProjectUpdateBody, Depends(json_body(ProjectUpdateBody))],
) -> Response:
    changed = await desk.cell.update_project(project_id, body.request())
    return answer(
        shapes.ProjectOperations(
            project=await _project(desk, changed.project), operations=presenters.operations(changed.operations)
        )
    )


@router.delete("/projects/{project_id}")
async def delete_project(desk: AtDesk, project_id: ProjectIdInPath, hard_delete: bool = False) -> Response:
    # ``hard_delete`` is the contract's for branches; whoever must erase a customer needs it for projects too.
    record = await desk.cell.delete_project(project_id, hard=hard_delete)
    return answer(shapes.ProjectResponse(project=await _project(desk, record)))


@router.post("/projects/{project_id}/recover")
async def recover_project(desk: AtDesk, project_id: ProjectIdInPath) -> Response:
    recovered = await desk.cell.recover_project(project_id)
    usage = await desk.cell.branch_usage([branch.id for branch in recovered.branches])
    return answer(
        shapes.ProjectRecovered(
            project=await _project(desk, recovered.project),
            branches=presenters.branches(recovered.branches, usage),
        )
    )


@router.get("/projects/{project_id}/connection_uri")
async def connection_uri(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    database_name: _NameInQuery,
    role_name: _NameInQuery,
    branch_id: Annotated[BranchId | None, _Id] = None,
    endpoint_id: Annotated[EndpointId | None, _Id] = None,
    pooled: bool = False,
) -> Response:
    found = await desk.cell.connection(
        project_id,
        model.ConnectionRequest(
            database_name=database_name, role_name=role_name, branch_id=branch_id, endpoint_id=endpoint_id
        ),
    )
    dsn = desk.site.door.dsn(
        found.endpoint.id,
        database=found.database_name,
        role=found.role_name,
        password=found.password,
        pooled=pooled,
    )
    return answer(shapes.ConnectionUriResponse(uri=dsn.uri()))


@router.get("/projects/{project_id}/available_preload_libraries")
async def available_preload_libraries(desk: AtDesk, project_id: ProjectIdInPath) -> Response:
    """None that settings could enable: ``check_settings`` refuses them."""
    await desk.cell.get_project(project_id)
    return answer(shapes.AvailablePreloadLibraries(libraries=[]))


@router.get("/projects/{project_id}/permissions")
async def list_permissions(desk: AtDesk, project_id: ProjectIdInPath) -> Response:
    """A cell has one account, so nobody else holds a permission."""
    await desk.cell.get_project(project_id)
    return answer(shapes.ProjectPermissions())


async def _project(desk: Desk, record: model.Project) -> shapes.Project:
    usage = await desk.cell.project_usage([record.id], byte_hours=True)
    return presenters.project(desk.site, record, usage.get(record.id, presenters.NO_USAGE), desk.cell.now())


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
