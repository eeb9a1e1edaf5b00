"""What a Neon API tells when it is asked how it is, and what was used day by day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from typing import Final

from tenantry.fleet.providers.ports import Health, UsedOnDay
from tenantry.neon import consumption, shapes
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId, RegionId

PAGE: Final = 100
_SENT: Final = ("public_network_transfer_bytes", "private_network_transfer_bytes")


def look_at(client: NeonClient) -> Health:
    """Asks for the account, which needs the key, and for the regions."""
    seen = client.look("/auth")
    regions = [RegionId(region.region_id) for region in client.list_regions()]
    return Health(version=seen.server or "Neon API v2", regions=regions, clock_seconds=seen.clock_seconds)


@dataclass(slots=True)
class _Day:
    active_seconds: int = 0
    compute_seconds: int = 0
    written_bytes: int = 0
    storage_bytes: int = 0
    sent_bytes: int = 0


def used_on_days(client: NeonClient, since: date, until: date) -> Iterator[UsedOnDay]:
    """Both editions of the contract's history are read: what was sent stands in the newer one alone."""
    period = {"from": _midnight(since), "to": _midnight(until + timedelta(days=1)), "granularity": "daily"}
    days: defaultdict[tuple[ProjectId, date], _Day] = defaultdict(_Day)
    for project in _legacy(client, period):
        for frame in (frame for period in project.periods for frame in period.consumption):
            day = days[ProjectId(project.project_id), frame.timeframe_start.astimezone(UTC).date()]
            day.active_seconds += frame.active_time_seconds
            day.compute_seconds += frame.compute_time_seconds
            day.written_bytes += frame.written_data_bytes
            day.storage_bytes = max(day.storage_bytes, frame.synthetic_storage_size_bytes)
    for project in _sent(client, period):
        for frame in (frame for period in project.periods for frame in period.consumption):
            day = days[ProjectId(project.project_id), frame.timeframe_start.astimezone(UTC).date()]
            day.sent_bytes += sum(metric.value for metric in frame.metrics if metric.metric_name in _SENT)
    for (project_id, when), day in sorted(days.items()):
        if since <= when <= until:
            yield UsedOnDay(
                project_id=project_id,
                day=when,
                active_seconds=day.active_seconds,
                compute_seconds=day.compute_seconds,
                written_bytes=day.written_bytes,
                sent_bytes=day.sent_bytes,
                storage_bytes=day.storage_bytes,
            )


def _midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"


def _legacy(client: NeonClient, period: Mapping[str, str]) -> Iterator[consumption.LegacyOfProject]:
    cursor: str | None = None
    while True:
        query = {**period, "limit": PAGE, "cursor": cursor}
        page = client.ask(consumption.LegacyHistory, "GET", "/consumption_history/projects", query=query)
        yield from page.projects
        if not page.projects or (cursor := _following(page.pagination, cursor)) is None:
            return


def _sent(client: NeonClient, period: Mapping[str, str]) -> Iterator[consumption.UsageOfProject]:
    mine = client.ask(shapes.OrganizationsResponse, "GET", "/users/me/organizations").organizations
    for organization in mine:
        cursor: str | None = None
        while True:
            query = {
                **period, "limit": PAGE, "cursor": cursor, "metrics": ",".join(_SENT), "org_id": organization.id,
            }  # fmt: skip
            page = client.ask(consumption.UsageHistory, "GET", "/consumption_history/v2/projects", query=query)
            yield from page.projects
            if not page.projects or (cursor := _following(page.pagination, cursor)) is None:
                break


def _following(pagination: shapes.Pagination | None, current: str | None) -> str | None:
    following = None if pagination is None else pagination.cursor
    return None if following == current else following
