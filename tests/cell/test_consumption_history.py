"""Consumption over time through the API of a real cell: what the contract's readers read, and what they are refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tenantry.cell.api.addresses import FrontDoor
from tenantry.cell.api.app import build_app
from tenantry.cell.api.site import Site
from tenantry.cell.consumption import Amounts, Step
from tenantry.cell.model import BranchCreate, ProjectCreate
from tenantry.neon import consumption as shapes
from tenantry.neon.ids import RegionId

PATH = "/consumption_history"
USAGE = "compute_unit_seconds,root_branch_bytes_month,child_branch_bytes_month,public_network_transfer_bytes"
Get = Callable[..., Awaitable[httpx.Response]]


@asynccontextmanager
async def client(bare: Any) -> AsyncGenerator[Get]:
    """Asks the API over this cell, below /api/v2."""
    key = await bare.cell.create_key("test", owner="account")
    app = build_app(bare.cell, Site(door=FrontDoor(host="127.0.0.1", port=1), region_id=RegionId("local")))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://cell",
        headers={"authorization": f"Bearer {key.clear}"},
    ) as http:

        async def get(path: str, **query: Any) -> httpx.Response:
            return await http.get("/api/v2" + path, params={name.rstrip("_"): value for name, value in query.items()})

        yield get


def text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


async def test_the_history_of_projects_and_branches(workdir: Path, open_cell: Any, now: datetime) -> None:
    async with open_cell(workdir) as bare, client(bare) as get:
        made = [await bare.cell.create_project(ProjectCreate(name=name)) for name in ("one", "two", "three")]
        one = made[0]
        child = await bare.cell.create_branch(one.project.id, BranchCreate(name="child"))
        hour = now.replace(minute=0, second=0, microsecond=0)
        day = hour.replace(hour=0)

        def use(tables: Any) -> None:
            made_at = (now - timedelta(days=40)).isoformat(timespec="microseconds")
            tables._connection.execute("update project set created_at = ?", (made_at,))
            for back, branch in ((1, one.branch.id), (1, child.branch.id), (30, one.branch.id)):
                amounts = Amounts(active_seconds=10.6, compute_seconds=2.65, written_bytes=1000, sent_bytes=7)
                tables.meters.add(one.project.id, branch, hour - timedelta(hours=back), amounts)
            tables.meters.note_sizes(one.project.id, one.branch.id, Step(hour - timedelta(hours=10), 500, 50))
            tables.meters.note_sizes(one.project.id, child.branch.id, Step(hour - timedelta(hours=2), 100, 0))

        await bare.context.state.write(use)

        found = await get(
            f"{PATH}/projects", from_=text(hour - timedelta(hours=3)), to=text(hour), granularity="hourly"
        )
        history = shapes.LegacyHistory.model_validate_json(found.content)
        assert [project.project_id for project in history.projects] == sorted(
            (p.project.id for p in made), reverse=True
        )
        assert history.pagination is None
        mine = next(project for project in history.projects if project.project_id == one.project.id)
        frames = [frame for period in mine.periods for frame in period.consumption]
        assert [frame.timeframe_start for frame in frames] == [hour - timedelta(hours=back) for back in (3, 2, 1)]
        assert [frame.active_time_seconds for frame in frames] == [0, 0, 21]
        assert [frame.compute_time_seconds for frame in frames] == [0, 0, 5]
        assert [frame.written_data_bytes for frame in frames] == [0, 0, 2000]
        assert [frame.synthetic_storage_size_bytes for frame in frames] == [550, 650, 650]
        assert all(frame.data_storage_bytes_hour is None for frame in frames)

        # Pages do not overlap, whatever is asked of them, and end.
        pages: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            answer = await get(
                f"{PATH}/projects",
                from_=text(day),
                to=text(now),
                granularity="daily",
                limit=2,
                metrics="logical_size_bytes_hour,data_storage_bytes_hour",
                **cursor,
            )
            page = shapes.LegacyHistory.model_validate_json(answer.content)
            pages += [project.project_id for project in page.projects]
            for project in page.projects:
                assert all(f.data_storage_bytes_hour is not None for p in project.periods for f in p.consumption)
            if page.pagination is None:
                break
            cursor = {"cursor": page.pagination.cursor}
        assert sorted(pages) == sorted(p.project.id for p in made)

        query = {
            "from_": text(hour - timedelta(hours=2)),
            "to": text(hour),
            "granularity": "hourly",
            "org_id": "org-any",
        }
        found = await get(f"{PATH}/v2/projects", metrics=USAGE, project_ids=one.project.id, **query)
        (project,) = shapes.UsageHistory.model_validate_json(found.content).projects
        values = [
            {metric.metric_name: metric.value for metric in frame.metrics}
            for period in project.periods
            for frame in period.consumption
        ]
        assert values == [
            dict(zip(USAGE.split(","), expected, strict=True)) for expected in ([0, 500, 100, 0], [5, 500, 100, 14])
        ]

        found = await get(f"{PATH}/v2/branches", metrics=USAGE, project_ids=one.project.id, limit=1, **query)
        usage = shapes.BranchUsageHistory.model_validate_json(found.content)
        assert usage.pagination is not None
        found = await get(
            f"{PATH}/v2/branches", metrics=USAGE, project_ids=one.project.id, cursor=usage.pagination.cursor, **query
        )
        rest = shapes.BranchUsageHistory.model_validate_json(found.content)
        assert rest.pagination is None
        both = [*usage.branches, *rest.branches]
        assert [branch.branch_id for branch in both] == sorted([one.branch.id, child.branch.id])
        of_child = next(branch for branch in both if branch.branch_id == child.branch.id)
        assert [metric.value for metric in of_child.periods[-1].consumption[-1].metrics] == [2, 0, 100, 7]
        found = await get(
            f"{PATH}/v2/branches", metrics=USAGE, project_ids=one.project.id, branch_ids=child.branch.id, **query
        )
        assert shapes.BranchUsageHistory.model_validate_json(found.content).branches == [of_child]

        found = await get(f"{PATH}/account", from_=text(now - timedelta(days=40)), to=text(now), granularity="monthly")
        account = shapes.AccountHistory.model_validate_json(found.content)
        assert sum(f.written_data_bytes for p in account.periods for f in p.consumption) == 3000
        assert account.periods[-1].period_end is None
        assert account.periods[0].period_end is not None


@pytest.mark.usefixtures("well_into_the_month")
async def test_what_runs_is_in_the_hour_that_runs(tenant: Any) -> None:
    async with tenant() as one, client(one.bare) as get:
        instance = one.bare.context.instances.awake()[0]
        instance.ready_at -= 30
        now = one.bare.context.clock.now()
        found = await get(f"{PATH}/projects", from_=text(now), to=text(now + timedelta(hours=1)), granularity="hourly")
        (project,) = found.json()["projects"]
        assert project["periods"][-1]["consumption"][-1]["active_time_seconds"] >= 30
        (project,) = (await get("/projects")).json()["projects"]
        assert project["active_time"] >= 30
        whole = (await get(f"/projects/{project['id']}")).json()["project"]
        assert whole["active_time_seconds"] >= 30
        assert whole["compute_time_seconds"] >= 7
        assert whole["cpu_used_sec"] == whole["compute_time_seconds"]
        assert whole["quota_reset_at"] == whole["consumption_period_end"] > text(now)


BAD: Final[list[tuple[str, dict[str, Any], int, str]]] = [
    ("projects", {"granularity": "weekly"}, 400, "granularity"),
    ("projects", {"granularity": None}, 400, "granularity"),
    ("projects", {"from": "yesterday"}, 400, "from"),
    ("projects", {"from": "2026-11-24T10:00:00"}, 400, "time zone"),
    ("projects", {"limit": 101}, 400, "limit"),
    ("projects", {"cursor": "nonsense"}, 400, "cursor"),
    ("projects", {"metrics": "cpu_seconds"}, 400, "active_time_seconds"),
    ("projects", {"project_ids": "UPPER"}, 400, "project_ids"),
    ("projects", {"project_ids": ",".join(["p-1"] * 101)}, 400, "project_ids"),
    ("projects", {"from": -170 * 3600}, 406, "from"),
    ("projects", {"from": 3600, "to": 0}, 406, "before"),
    ("projects", {"granularity": "daily", "from": -62 * 86400}, 406, "coarser"),
    ("v2/projects", {"metrics": None}, 400, "metrics"),
    ("v2/projects", {"metrics": "active_time_seconds"}, 400, "compute_unit_seconds"),
    ("v2/projects", {"org_id": None}, 400, "org_id"),
    ("v2/branches", {"project_ids": None}, 400, "project_ids"),
    ("v2/branches", {"project_ids": ","}, 400, "project_ids"),
    ("v2/branches", {"metrics": "extra_branches_month"}, 400, "metrics"),
]


async def test_bad_questions_are_told_what_is_wrong(workdir: Path, open_cell: Any, now: datetime) -> None:
    async with open_cell(workdir) as bare, client(bare) as get:
        for path, query, status, word in BAD:
            usual: dict[str, Any] = {
                "from": -3600, "to": 0, "granularity": "hourly", "org_id": "org-a", "project_ids": "p-1",
                "metrics": "compute_unit_seconds" if path.startswith("v2") else "active_time_seconds",
            }  # fmt: skip
            given = {name: value for name, value in {**usual, **query}.items() if value is not None}
            for name in ("from", "to"):
                if isinstance(given[name], int):
                    given[name] = text(now + timedelta(seconds=given[name]))
            answer = await get(f"{PATH}/{path}", **given)
            assert answer.status_code == status, (query, answer.text)
            assert word in answer.json()["message"]
