"""What a Neon API says was used day by day, from the lists of its consumption history: some requests for 100 projects.

The contract has two editions of that history. The older one knows time awake and bytes written, the newer one what was
sent; an account's plan decides which of them it may ask. What the edition that is left does not know is zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tenantry.errors import Forbidden
from tenantry.fleet.providers.ports import UsedOnDay
from tenantry.neon import consumption, shapes
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

PAGE: Final = 100
"""Projects of one request, the most that the contract allows."""
_SENT: Final = ("public_network_transfer_bytes", "private_network_transfer_bytes")
_COMPUTE: Final = "compute_unit_seconds"
_STORED: Final = ("root_branch_bytes_month", "child_branch_bytes_month", "instant_restore_bytes_month")
"""Byte hours, whatever their name."""
_HOURS: Final = 24


@dataclass(slots=True)
class _Day:
    active_seconds: int = 0
    compute_seconds: int = 0
    written_bytes: int = 0
    sent_bytes: int = 0
    storage_bytes: int = 0
    byte_hours: int = 0


_Days = defaultdict[tuple[str, date], _Day]


def used_on_days(
    client: NeonClient, since: date, until: date, projects: Sequence[ProjectId] | None = None
) -> Iterator[UsedOnDay]:
    """Of these projects or of all, a page of projects at a time: no more than that is ever held."""
    period = {"from": _midnight(since), "to": _midnight(until + timedelta(days=1)), "granularity": "daily"}
    organizations = client.ask(shapes.OrganizationsResponse, "GET", "/users/me/organizations").organizations
    for organization in organizations:
        for chosen in _portions(projects):
            asked = {**period, "org_id": organization.id}
            for days in _pages(client, asked, chosen):
                yield from _in_order(days, since, until)


def _portions(projects: Sequence[ProjectId] | None) -> Iterator[Sequence[str] | None]:
    if projects is None:
        yield None
        return
    for start in range(0, len(projects), PAGE):
        yield projects[start : start + PAGE]


def _pages(client: NeonClient, asked: Mapping[str, str], projects: Sequence[str] | None) -> Iterator[_Days]:
    try:
        yield from _both_editions(client, asked, projects)
    except _NoOlderEdition:
        for page in _newer(client, asked, projects, (_COMPUTE, *_STORED, *_SENT)):
            days = _Days(_Day)
            _add_newer(days, page)
            yield days


class _NoOlderEdition(Exception):
    """This account's plan has the newer edition only."""


def _both_editions(client: NeonClient, asked: Mapping[str, str], projects: Sequence[str] | None) -> Iterator[_Days]:
    newer_too = True
    older = _older(client, asked, projects)
    first = True
    while True:
        try:
            page = next(older, None)
        except Forbidden as error:
            if first:
                raise _NoOlderEdition from error
            raise
        if page is None:
            return
        first = False
        days = _Days(_Day)
        _add_older(days, page)
        ids = [project.project_id for project in page]
        if newer_too and ids:
            try:
                for part in _newer(client, asked, ids, _SENT):
                    _add_newer(days, part)
            except Forbidden:
                newer_too = False
        yield days


def _older(
    client: NeonClient, asked: Mapping[str, str], projects: Sequence[str] | None
) -> Iterator[list[consumption.LegacyOfProject]]:
    cursor: str | None = None
    while True:
        query = {**asked, "limit": PAGE, "cursor": cursor, "project_ids": _ids(projects)}
        page = client.ask(consumption.LegacyHistory, "GET", "/consumption_history/projects", query=query)
        yield page.projects
        if not page.projects or (cursor := _following(page.pagination, cursor)) is None:
            return


def _newer(
    client: NeonClient, asked: Mapping[str, str], projects: Sequence[str] | None, metrics: Sequence[str]
) -> Iterator[list[consumption.UsageOfProject]]:
    cursor: str | None = None
    while True:
        query = {
            **asked, "limit": PAGE, "cursor": cursor, "project_ids": _ids(projects), "metrics": ",".join(metrics),
        }  # fmt: skip
        page = client.ask(consumption.UsageHistory, "GET", "/consumption_history/v2/projects", query=query)
        yield page.projects
        if not page.projects or (cursor := _following(page.pagination, cursor)) is None:
            return


def _add_older(days: _Days, page: Sequence[consumption.LegacyOfProject]) -> None:
    for project in page:
        for frame in (frame for period in project.periods for frame in period.consumption):
            day = days[project.project_id, _day_of(frame.timeframe_start)]
            day.active_seconds += frame.active_time_seconds
            day.compute_seconds += frame.compute_time_seconds
            day.written_bytes += frame.written_data_bytes
            day.storage_bytes = max(day.storage_bytes, frame.synthetic_storage_size_bytes)


def _add_newer(days: _Days, page: Sequence[consumption.UsageOfProject]) -> None:
    for project in page:
        for frame in (frame for period in project.periods for frame in period.consumption):
            day = days[project.project_id, _day_of(frame.timeframe_start)]
            for metric in frame.metrics:
                if metric.metric_name in _SENT:
                    day.sent_bytes += metric.value
                elif metric.metric_name == _COMPUTE:
                    day.compute_seconds += metric.value
                elif metric.metric_name in _STORED:
                    day.byte_hours += metric.value


def _in_order(days: _Days, since: date, until: date) -> Iterator[UsedOnDay]:
    for (project_id, when), day in sorted(days.items(), key=lambda item: item[0]):
        if since <= when <= until:
            yield UsedOnDay(
                project_id=ProjectId(project_id),
                day=when,
                active_seconds=day.active_seconds,
                compute_seconds=day.compute_seconds,
                written_bytes=day.written_bytes,
                sent_bytes=day.sent_bytes,
                storage_bytes=day.storage_bytes or day.byte_hours // _HOURS,
            )


def _ids(projects: Sequence[str] | None) -> str | None:
    return None if projects is None else ",".join(projects)


def _day_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def _midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _following(pagination: shapes.Pagination | None, current: str | None) -> str | None:
    following = None if pagination is None else pagination.cursor
    return None if following == current else following
