"""``/projects/{id}/branches``: list, count, get, create, change, delete, restore, recover, schema."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final, Literal, cast

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, Field
from starlette.responses import Response

from tenantry.cell import model
from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import (
    Annotations,
    Body,
    BranchIdField,
    Lsn,
    Moment,
    Name,
    check_compute_range,
    check_endpoint_settings,
    fits_postgres,
    json_body,
    readable,
    settings,
)
from tenantry.cell.api.desk import API_PREFIX, AtDesk, BranchIdInPath, Desk, ProjectIdInPath, answer, nothing
from tenantry.errors import InvalidInput, NotSupported
from tenantry.neon import shapes
from tenantry.neon.ids import BranchId

BRANCHES_PER_PAGE_MAX: Final = 10_000
ENDPOINTS_PER_BRANCH_MAX: Final = 16
CURSOR_CHARS_MAX: Final = 1_024

SortBy = Literal["name", "created_at", "updated_at"]
SortOrder = Literal["asc", "desc"]

router = APIRouter(prefix=API_PREFIX + "/projects/{project_id}/branches")

_Search = Annotated[str | None, Query(max_length=256)]
_DatabaseName = Annotated[
    str, Query(min_length=1, max_length=63), AfterValidator(readable), AfterValidator(fits_postgres)
]
_LsnInQuery = Annotated[Lsn | None, Query()]
_MomentInQuery = Annotated[Moment | None, Query()]


class _NewEndpoint(Body):
    type: model.EndpointType
    settings: shapes.EndpointSettings | None = None
    autoscaling_limit_min_cu: shapes.ComputeUnits | None = None
    autoscaling_limit_max_cu: shapes.ComputeUnits | None = None
    suspend_timeout_seconds: shapes.SuspendSeconds | None = None

    def request(self) -> model.BranchEndpointCreate:
        check_compute_range(self.autoscaling_limit_min_cu, self.autoscaling_limit_max_cu)
        check_endpoint_settings(self.settings)
        return model.BranchEndpointCreate(
            type=self.type,
            min_cu=self.autoscaling_limit_min_cu,
            max_cu=self.autoscaling_limit_max_cu,
            suspend_timeout_seconds=self.suspend_timeout_seconds,
            settings=settings(self.settings) or {},
        )


class _NewBranch(Body):
    parent_id: BranchIdField | None = None
    name: Name | None = None
    parent_lsn: Lsn | None = None
    parent_timestamp: Moment | None = None
    protected: bool | None = None
    archived: bool | None = None
    init_source: Literal["parent-data", "schema-only"] | None = None
    expires_at: Moment | None = None


class BranchCreateBody(Body):
    endpoints: Annotated[list[_NewEndpoint], Field(max_length=ENDPOINTS_PER_BRANCH_MAX)] | None = None
    branch: _NewBranch | None = None
    annotation_value: Annotations | None = None

    def request(self) -> model.BranchCreate:
        said = self.branch or _NewBranch()
        if said.archived:
            raise NotSupported("branch.archived: a cell has no archive", next_step="create the branch without it")
        if said.parent_lsn is not None and said.parent_timestamp is not None:
            raise InvalidInput("branch.parent_lsn: not together with parent_timestamp")
        return model.BranchCreate(
            name=said.name,
            parent_id=said.parent_id,
            parent_lsn=said.parent_lsn,
            parent_timestamp=said.parent_timestamp,
            init_source=said.init_source or "parent-data",
            protected=bool(said.protected),
            expires_at=said.expires_at,
            endpoints=tuple(endpoint.request() for endpoint in self.endpoints or []),
            annotations=self.annotation_value or {},
        )


class _ChangedBranch(Body):
    name: Name | None = None
    protected: bool | None = None
    expires_at: Moment | None = None


class BranchUpdateBody(Body):
    branch: _ChangedBranch

    def request(self) -> model.BranchChange:
        said = self.branch
        return model.BranchChange(
            name=said.name,
            protected=said.protected,
            expires_at=said.expires_at,
            never_expires="expires_at" in said.model_fields_set and said.expires_at is None,
        )


class BranchRestoreBody(Body):
    source_branch_id: BranchIdField
    source_lsn: Lsn | None = None
    source_timestamp: Moment | None = None
    preserve_under_name: Annotated[str, Field(max_length=256), AfterValidator(readable)] | None = None

    def request(self) -> model.BranchRestore:
        if self.source_lsn is not None and self.source_timestamp is not None:
            raise InvalidInput("source_lsn: not together with source_timestamp")
        return model.BranchRestore(
            source_branch_id=self.source_branch_id,
            source_lsn=self.source_lsn,
            source_timestamp=self.source_timestamp,
            preserve_under_name=self.preserve_under_name or None,
        )


class FinalizeRestoreBody(Body):
    name: Name | None = None


@router.get("")
async def list_branches(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    search: _Search = None,
    sort_by: SortBy = "updated_at",
    sort_order: SortOrder = "desc",
    cursor: Annotated[str | None, Query(max_length=CURSOR_CHARS_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=BRANCHES_PER_PAGE_MAX)] = BRANCHES_PER_PAGE_MAX,
    include_deleted: bool = False,
) -> Response:
    records = found(await desk.cell.list_branches(project_id, deleted=include_deleted), search)
    page, following = paged(records, sort_by=sort_by, sort_order=sort_order, cursor=cursor or None, limit=limit)
    ids = [record.id for record in page]
    usage, annotations = await desk.cell.branch_usage(ids), await desk.cell.annotations(ids)
    return answer(
        shapes.BranchesResponse(
            branches=presenters.branches(page, usage, desk.site.recovery_seconds),
            annotations={id_: presenters.annotation(id_, annotations[id_]) for id_ in ids if id_ in annotations},
            pagination=shapes.CursorPagination(next=following, sort_by=sort_by, sort_order=sort_order),
        )
    )


@router.post("")
async def create_branch(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    body: Annotated[BranchCreateBody, Depends(json_body(BranchCreateBody, required=False))],
) -> Response:
    made = await desk.cell.create_branch(project_id, body.request())
    region = (await desk.cell.get_project(project_id)).region_id if made.endpoints else ""
    return answer(
        shapes.BranchCreated(
            branch=presenters.branch(made.branch),
            endpoints=presenters.endpoints(desk.site, made.endpoints, region),
            operations=presenters.operations(made.operations),
            roles=[presenters.role(pair.role) for pair in made.roles],
            databases=presenters.databases(made.databases),
            connection_uris=presenters.connection_uris(desk.site, made.endpoints, made.databases, made.roles) or None,
        ),
        201,
    )


@router.get("/count")
async def count_branches(desk: AtDesk, project_id: ProjectIdInPath, search: _Search = None) -> Response:
    records = found(await desk.cell.list_branches(project_id, deleted=False), search)
    return answer(shapes.BranchesCount(count=len(records)))


@router.get("/{branch_id}")
async def get_branch(desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath) -> Response:
    record = await desk.cell.get_branch(project_id, branch_id)
    annotations = await desk.cell.annotations([branch_id])
    return answer(
        shapes.BranchResponse(
            branch=await _branch(desk, record), annotation=presenters.annotation(branch_id, annotations.get(branch_id))
        )
    )


@router.patch("/{branch_id}")
async def update_branch(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    body: Annotated[BranchUpdateBody, Depends(json_body(BranchUpdateBody))],
) -> Response:
    return await _changed(desk, await desk.cell.update_branch(project_id, branch_id, body.request()))


@router.delete("/{branch_id}")
async def delete_branch(
    desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath, hard_delete: bool = False
) -> Response:
    changed = await desk.cell.delete_branch(project_id, branch_id, hard=hard_delete)
    return nothing() if changed is None else await _changed(desk, changed)


@router.post("/{branch_id}/restore")
async def restore_branch(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    body: Annotated[BranchRestoreBody, Depends(json_body(BranchRestoreBody))],
) -> Response:
    return await _changed(desk, await desk.cell.restore_branch(project_id, branch_id, body.request()))


@router.post("/{branch_id}/set_as_default")
@router.post("/{branch_id}/set_as_primary")  # what the contract called it until 2024; neon-api still does
async def set_default_branch(desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath) -> Response:
    return await _changed(desk, await desk.cell.set_default_branch(project_id, branch_id))


@router.post("/{branch_id}/recover")
async def recover_branch(desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath) -> Response:
    recovered = await desk.cell.recover_branch(project_id, branch_id)
    region = (await desk.cell.get_project(project_id)).region_id
    return answer(
        shapes.BranchRecovered(
            branch=await _branch(desk, recovered.branch),
            endpoints=presenters.endpoints(desk.site, recovered.endpoints, region),
        )
    )


@router.post("/{branch_id}/finalize_restore")
async def finalize_restore(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    body: Annotated[FinalizeRestoreBody, Depends(json_body(FinalizeRestoreBody, required=False))],
) -> Response:
    operations = await desk.cell.finalize_restore(project_id, branch_id, name=body.name)
    return answer(shapes.OperationsResponse(operations=presenters.operations(operations)))


@router.get("/{branch_id}/schema")
async def get_schema(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    db_name: _DatabaseName,
    lsn: _LsnInQuery = None,
    timestamp: _MomentInQuery = None,
    format: Annotated[Literal["sql", "json"], Query()] = "sql",
) -> Response:
    if format == "json":
        raise NotSupported("format: this cell gives schemas as SQL only", next_step="ask for format=sql")
    sql = await desk.cell.branch_schema(project_id, _point("", branch_id, db_name, lsn, timestamp))
    return answer(shapes.BranchSchema(sql=sql))


@router.get("/{branch_id}/compare_schema")
async def compare_schema(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    db_name: _DatabaseName,
    base_branch_id: Annotated[BranchId | None, Query(pattern=r"^[a-z0-9-]{1,60}$")] = None,
    lsn: _LsnInQuery = None,
    timestamp: _MomentInQuery = None,
    base_lsn: _LsnInQuery = None,
    base_timestamp: _MomentInQuery = None,
) -> Response:
    point = _point("", branch_id, db_name, lsn, timestamp)
    base = _point("base_", base_branch_id, db_name, base_lsn, base_timestamp) if base_branch_id else None
    if base is None and (base_lsn or base_timestamp):
        raise InvalidInput("base_branch_id: say which branch base_lsn or base_timestamp belongs to")
    return answer(shapes.BranchSchemaDiff(diff=await desk.cell.compare_schema(project_id, point, base)))


def _point(
    prefix: str, branch_id: BranchId, database_name: str, lsn: str | None, timestamp: datetime | None
) -> model.SchemaPoint:
    if lsn is not None and timestamp is not None:
        raise InvalidInput(f"{prefix}lsn: not together with {prefix}timestamp")
    return model.SchemaPoint(branch_id=branch_id, database_name=database_name, lsn=lsn, timestamp=timestamp)


async def _branch(desk: Desk, record: model.Branch) -> shapes.Branch:
    usage = await desk.cell.branch_usage([record.id])
    return presenters.branch(record, usage.get(record.id, presenters.NO_USAGE))


async def _changed(desk: Desk, changed: model.BranchChanged) -> Response:
    return answer(
        shapes.BranchOperations(
            branch=await _branch(desk, changed.branch),
            operations=presenters.operations(changed.operations),
            roles_of_the_past=None if changed.roles_of_the_past is None else list(changed.roles_of_the_past),
        )
    )


# -- lists ---------------------------------------------------------------------------------------------------


def found(records: Sequence[model.Branch], search: str | None) -> list[model.Branch]:
    """Those whose name or id contains ``search``, whatever its case."""
    wanted = (search or "").casefold()
    return [record for record in records if wanted in record.name.casefold() or wanted in record.id]


def paged(
    records: Sequence[model.Branch], *, sort_by: SortBy, sort_order: SortOrder, cursor: str | None, limit: int
) -> tuple[list[model.Branch], str | None]:
    """One page and the cursor of the next, if there is one.

    A cursor holds the sort key of the last branch of its page, so that branches which come and go meanwhile neither
    repeat nor hide others. Raises InvalidInput for a cursor that no page gave.
    """
    backwards = sort_order == "desc"
    ordered = sorted(records, key=lambda record: _key(record, sort_by), reverse=backwards)
    if cursor is not None:
        after = _read_cursor(cursor)
        keys = ((record, _key(record, sort_by)) for record in ordered)
        ordered = [record for record, key in keys if key != after and (key < after) == backwards]
    page = ordered[:limit]
    return page, _write_cursor(_key(page[-1], sort_by)) if len(ordered) > limit else None


def _key(record: model.Branch, sort_by: SortBy) -> tuple[str, str]:
    value = cast(str | datetime, getattr(record, sort_by))
    return (value if isinstance(value, str) else value.isoformat(timespec="microseconds"), record.id)


def _write_cursor(key: tuple[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _read_cursor(cursor: str) -> tuple[str, str]:
    try:
        match json.loads(base64.urlsafe_b64decode(cursor)):
            case [str() as value, str() as branch_id]:
                return value, branch_id
            case _:
                pass
    except (binascii.Error, ValueError):
        pass
    raise InvalidInput("cursor: is not one that a page of branches has given", next_step="start again without it")
