"""``/consumption_history``: what projects and branches have consumed, by hour, day or month; nobody is woken."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from tenantry.cell.api.bodies import Moment
from tenantry.cell.api.desk import API_PREFIX, AtDesk, answer
from tenantry.cell.api.presenters import PLAN
from tenantry.cell.consumption import ConsumedBranch, ConsumedProject, Frame, Grain, period_of, together
from tenantry.errors import InvalidInput
from tenantry.neon import consumption as shapes
from tenantry.neon.ids import ID_PATTERN, ProjectId
from tenantry.neon.shapes import Pagination

IDS_MAX: Final = 100
PROJECTS_PER_PAGE: Final = 10
PROJECTS_PER_PAGE_MAX: Final = 100
BRANCHES_PER_PAGE: Final = 100
BRANCHES_PER_PAGE_MAX: Final = 1_000
_PERIODS: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://tenantry.invalid/periods")

Value = Callable[[Frame, bool], float]
"""Of a frame, and whether it is a root branch's (one without a parent)."""

_LEGACY: Final[Mapping[str, Value]] = {
    "active_time_seconds": lambda frame, _: frame.amounts.active_seconds,
    "compute_time_seconds": lambda frame, _: frame.amounts.compute_seconds,
    "written_data_bytes": lambda frame, _: frame.amounts.written_bytes,
    "synthetic_storage_size_bytes": lambda frame, _: frame.logical_bytes + frame.history_bytes,
    "data_storage_bytes_hour": lambda frame, _: frame.logical_byte_hours + frame.history_byte_hours,
    "logical_size_bytes": lambda frame, _: frame.logical_bytes,
    "logical_size_bytes_hour": lambda frame, _: frame.logical_byte_hours,
}
_LEGACY_ALWAYS: Final = tuple(_LEGACY)[:4]
"""The contract requires these in every answer."""


def _nothing(_frame: Frame, _root: bool) -> float:
    return 0


_OF_BRANCHES: Final[Mapping[str, Value]] = {
    "compute_unit_seconds": lambda frame, _: frame.amounts.compute_seconds,
    "root_branch_bytes_month": lambda frame, root: frame.logical_byte_hours if root else 0,
    "child_branch_bytes_month": lambda frame, root: 0 if root else frame.logical_byte_hours,
    "instant_restore_bytes_month": lambda frame, _: frame.history_byte_hours,
    "public_network_transfer_bytes": lambda frame, _: frame.amounts.sent_bytes,
    "private_network_transfer_bytes": _nothing,
}
"""Storage over time is in byte hours, as Neon's is whatever its name; a cell's one way out counts as public."""
_OF_PROJECTS: Final[Mapping[str, Value]] = {
    **_OF_BRANCHES,
    # No plan includes so many branches and no more; and a snapshot is a place in a history that is kept anyway.
    "extra_branches_month": _nothing,
    "snapshot_storage_bytes_month": _nothing,
}

router = APIRouter(prefix=API_PREFIX + "/consumption_history")

_From = Annotated[Moment, Query(alias="from")]
_To = Annotated[Moment, Query(alias="to")]
_Some = Annotated[list[str] | None, Query()]
_Metrics = Annotated[list[str], Query()]
_Cursor = Annotated[str | None, Query(max_length=200)]
_Limit = Annotated[int, Query(ge=1, le=PROJECTS_PER_PAGE_MAX)]
_Organization = Annotated[str, Query(pattern=r"^[a-z0-9-]{1,60}$")]
"""A cell has one account, whatever organization a script names."""


@router.get("/projects")
async def history_of_projects(
    desk: AtDesk,
    begin: _From,
    end: _To,
    granularity: Grain,
    project_ids: _Some = None,
    metrics: _Some = None,
    limit: _Limit = PROJECTS_PER_PAGE,
    cursor: _Cursor = None,
    org_id: _Organization | None = None,
    include_v1_metrics: bool = False,
) -> Response:
    older = ("data_storage_bytes_hour",) if include_v1_metrics else ()
    chosen = _metrics(metrics or (), _LEGACY) or older
    found = await desk.cell.consumption(
        _project_ids(project_ids), before=_before(cursor), limit=limit, grain=granularity, begin=begin, end=end
    )
    now = desk.cell.now()
    return answer(
        shapes.LegacyHistory(
            projects=[
                shapes.LegacyOfProject(
                    project_id=project.project_id,
                    periods=_legacy(
                        project.project_id, together([branch.frames for branch in project.branches]), chosen, now
                    ),
                )
                for project in found
            ],
            pagination=_following(found, limit),
        )
    )


@router.get("/account")
async def history_of_the_account(
    desk: AtDesk, begin: _From, end: _To, granularity: Grain, org_id: _Organization | None = None
) -> Response:
    """Of an older edition of the contract: the sum of all projects."""
    sums: dict[datetime, Frame] = {}
    before: tuple[datetime, ProjectId] | None = None
    while True:
        found = await desk.cell.consumption(
            None, before=before, limit=PROJECTS_PER_PAGE_MAX, grain=granularity, begin=begin, end=end
        )
        for project in found:
            for frame in together([branch.frames for branch in project.branches]):
                known = sums.get(frame.start)
                sums[frame.start] = frame if known is None else next(together([[known], [frame]]))
        if len(found) < PROJECTS_PER_PAGE_MAX:
            break
        before = (found[-1].created_at, found[-1].project_id)
    frames = (sums[start] for start in sorted(sums))
    return answer(shapes.AccountHistory(periods=_legacy("account", frames, (), desk.cell.now())))


@router.get("/v2/projects")
async def usage_of_projects(
    desk: AtDesk,
    begin: _From,
    end: _To,
    granularity: Grain,
    metrics: _Metrics,
    org_id: _Organization,
    project_ids: _Some = None,
    limit: _Limit = PROJECTS_PER_PAGE,
    cursor: _Cursor = None,
) -> Response:
    chosen = _metrics(metrics, _OF_PROJECTS)
    found = await desk.cell.consumption(
        _project_ids(project_ids), before=_before(cursor), limit=limit, grain=granularity, begin=begin, end=end
    )
    now = desk.cell.now()
    return answer(
        shapes.UsageHistory(
            projects=[
                shapes.UsageOfProject(
                    project_id=project.project_id,
                    periods=_usage(project.project_id, project.branches, chosen, _OF_PROJECTS, now),
                )
                for project in found
            ],
            pagination=_following(found, limit),
        )
    )


@router.get("/v2/branches")
async def usage_of_branches(
    desk: AtDesk,
    begin: _From,
    end: _To,
    granularity: Grain,
    metrics: _Metrics,
    org_id: _Organization,
    project_ids: Annotated[list[str], Query()],
    branch_ids: _Some = None,
    limit: Annotated[int, Query(ge=1, le=BRANCHES_PER_PAGE_MAX)] = BRANCHES_PER_PAGE,
    cursor: _Cursor = None,
) -> Response:
    chosen = _metrics(metrics, _OF_BRANCHES)
    wanted = _project_ids(project_ids)
    if wanted is None:
        raise InvalidInput("project_ids: name at least one project", field="project_ids")
    only = set(_ids("branch_ids", branch_ids or ()))
    found = await desk.cell.consumption(wanted, before=None, limit=IDS_MAX, grain=granularity, begin=begin, end=end)
    lines = {
        f"{project.project_id}/{branch.branch_id}": (project, branch)
        for project in found
        for branch in project.branches
        if not only or branch.branch_id in only
    }
    behind = sorted(name for name in lines if cursor is None or name > cursor)
    page = behind[:limit]
    now = desk.cell.now()
    return answer(
        shapes.BranchUsageHistory(
            branches=[
                shapes.UsageOfBranch(
                    project_id=project.project_id,
                    branch_id=branch.branch_id,
                    periods=_usage(branch.branch_id, [branch], chosen, _OF_BRANCHES, now),
                )
                for project, branch in (lines[name] for name in page)
            ],
            pagination=Pagination(cursor=page[-1]) if len(behind) > limit else None,
        )
    )


# -- what was asked ------------------------------------------------------------------------------------------


def _ids(field: str, said: Iterable[str]) -> list[str]:
    """Repeated, or separated by commas. Raises InvalidInput."""
    found = [part for text in said for part in text.split(",") if part]
    if len(found) > IDS_MAX or not all(ID_PATTERN.match(part) for part in found):
        raise InvalidInput(f"{field}: at most {IDS_MAX} ids, separated by commas", field=field)
    return found


def _project_ids(said: Iterable[str] | None) -> list[ProjectId] | None:
    """None is all, and so is an empty list."""
    return [ProjectId(part) for part in _ids("project_ids", said or ())] or None


def _metrics(said: Iterable[str], known: Mapping[str, Value]) -> tuple[str, ...]:
    """Repeated, or separated by commas; each once. Raises InvalidInput for others than the known."""
    found = tuple(dict.fromkeys(part.strip() for text in said for part in text.split(",") if part.strip()))
    if not set(found) <= known.keys():
        raise InvalidInput("metrics: " + ", ".join(known) + " are what there is", field="metrics")
    return found


def _before(cursor: str | None) -> tuple[datetime, ProjectId] | None:
    """Raises InvalidInput for a cursor that no answer gave."""
    if cursor is None:
        return None
    made, _, project_id = cursor.partition("/")
    try:
        moment = datetime.fromisoformat(made)
    except ValueError as error:
        raise InvalidInput("cursor: not one of ours", field="cursor") from error
    if moment.tzinfo is None or not ID_PATTERN.match(project_id):
        raise InvalidInput("cursor: not one of ours", field="cursor")
    return moment, ProjectId(project_id)


# -- what is answered ----------------------------------------------------------------------------------------


def _following(page: Sequence[ConsumedProject], limit: int) -> Pagination | None:
    if len(page) < limit:
        return None
    return Pagination(cursor=f"{page[-1].created_at.isoformat()}/{page[-1].project_id}")


def _period_id(name: str, start: datetime) -> str:
    return str(uuid.uuid5(_PERIODS, f"{name} {start.isoformat()}"))


def _past(end: datetime, now: datetime) -> datetime | None:
    return end if end <= now else None


def _legacy(name: str, frames: Iterable[Frame], chosen: Iterable[str], now: datetime) -> list[shapes.LegacyPeriod]:
    wanted = (*_LEGACY_ALWAYS, *chosen)
    return [
        shapes.LegacyPeriod(
            period_id=_period_id(name, start),
            period_plan=PLAN,
            period_start=start,
            period_end=_past(period_of(start)[1], now),
            consumption=[
                shapes.LegacyFrame.model_validate(
                    {
                        "timeframe_start": frame.start,
                        "timeframe_end": frame.end,
                        **{metric: int(_LEGACY[metric](frame, False)) for metric in wanted},
                    }
                )
                for frame in group
            ],
        )
        for start, group in groupby(frames, key=lambda frame: period_of(frame.start)[0])
    ]


def _usage(
    name: str, branches: Sequence[ConsumedBranch], chosen: Sequence[str], known: Mapping[str, Value], now: datetime
) -> list[shapes.UsagePeriod]:
    """The sums of these branches, each value in whole units."""
    roots = [branch.root for branch in branches]
    lines = [
        shapes.UsageFrame(
            timeframe_start=line[0].start,
            timeframe_end=line[0].end,
            metrics=[
                shapes.Metric(
                    metric_name=metric,
                    value=int(sum(known[metric](frame, root) for frame, root in zip(line, roots, strict=True))),
                )
                for metric in chosen
            ],
        )
        for line in zip(*(branch.frames for branch in branches), strict=True)
    ]
    return [
        shapes.UsagePeriod(
            period_id=_period_id(name, start),
            period_plan=PLAN,
            period_start=start,
            period_end=_past(period_of(start)[1], now),
            consumption=list(group),
        )
        for start, group in groupby(lines, key=lambda line: period_of(line.timeframe_start)[0])
    ]
