"""Usage day by day from lists of consumption history: pages, both editions, and plans that have only one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tenantry.errors import Forbidden
from tenantry.fleet.providers.neon_usage import PAGE, used_on_days
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId

FIRST = date(2026, 11, 23)
LAST = date(2026, 11, 24)


class Account(NeonClient):
    """Projects p0000 and so on, each used by its number; counts what it is asked."""

    def __init__(self, projects: int) -> None:
        self.ids = [f"p{number:04}" for number in range(projects)]
        self.plan = {"older", "newer"}
        self.asked: Counter[str] = Counter()

    def ask(
        self,
        shape: Any,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        deadline_seconds: float | None = None,
    ) -> Any:
        self.asked[path] += 1
        assert method == "GET"
        if path == "/users/me/organizations":
            return shape.model_construct(organizations=[_Organization("org-a"), _Organization("org-b")])
        assert query is not None
        edition = "newer" if "v2" in path else "older"
        if edition not in self.plan:
            raise Forbidden("not with this plan")
        assert query["limit"] == PAGE
        named = query["project_ids"]
        mine = self.ids if query["org_id"] == "org-a" else []
        wanted = [each for each in mine if named is None or each in named.split(",")]
        behind = [each for each in wanted if query["cursor"] is None or each > query["cursor"]][:PAGE]
        frames = _older if edition == "older" else _newer
        return shape.model_validate(
            {
                "projects": [
                    {
                        "project_id": each,
                        "periods": [
                            {
                                "period_id": "x",
                                "period_plan": "scale",
                                "period_start": "2026-11-01T00:00:00Z",
                                "consumption": [
                                    frame | _times(day) for day in (FIRST, LAST) for frame in [frames(each, query)]
                                ],
                            }
                        ],
                    }
                    for each in behind
                ],
                "pagination": {"cursor": behind[-1]} if len(behind) == PAGE else None,
            }
        )


class _Organization:
    def __init__(self, id: str) -> None:
        self.id = id


def _times(day: date) -> dict[str, datetime]:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return {"timeframe_start": start, "timeframe_end": start + timedelta(days=1)}


def _older(project: str, _: object) -> dict[str, Any]:
    number = int(project[1:])
    return {
        "active_time_seconds": number,
        "compute_time_seconds": number * 2,
        "written_data_bytes": number * 3,
        "synthetic_storage_size_bytes": number * 5,
    }


def _newer(project: str, query: Mapping[str, Any]) -> dict[str, Any]:
    number = int(project[1:])
    values = {
        "compute_unit_seconds": number * 2,
        "root_branch_bytes_month": number * 24 * 4,
        "child_branch_bytes_month": 0,
        "instant_restore_bytes_month": number * 24,
        "public_network_transfer_bytes": number * 6,
        "private_network_transfer_bytes": number,
    }
    asked = query["metrics"].split(",")
    return {"metrics": [{"metric_name": name, "value": values[name]} for name in asked]}


def test_both_editions_make_one_day_in_two_requests_for_each_page() -> None:
    account = Account(250)
    found = list(used_on_days(account, FIRST, LAST))
    assert len(found) == 250 * 2
    one = next(each for each in found if each.project_id == "p0007" and each.day == LAST)
    assert (one.active_seconds, one.compute_seconds, one.written_bytes) == (7, 14, 21)
    assert (one.sent_bytes, one.storage_bytes) == (49, 35)
    pages = 3  # and one of the organization that has nothing
    assert account.asked["/consumption_history/projects"] == pages + 1
    assert account.asked["/consumption_history/v2/projects"] <= 2 * pages


def test_it_asks_only_as_far_as_it_is_read() -> None:
    account = Account(250)
    next(used_on_days(account, FIRST, LAST))
    assert account.asked["/consumption_history/projects"] == 1


def test_some_projects_cost_some_requests_and_not_all_pages() -> None:
    account = Account(250)
    found = list(used_on_days(account, LAST, LAST, [ProjectId("p0007"), ProjectId("gone")]))
    assert [(each.project_id, each.day) for each in found] == [("p0007", LAST)]
    assert account.asked["/consumption_history/projects"] == 2


def test_a_plan_with_the_newer_edition_only_has_no_time_awake() -> None:
    account = Account(150)
    account.plan = {"newer"}
    found = {each.project_id: each for each in used_on_days(account, LAST, LAST)}
    assert len(found) == 150
    one = found[ProjectId("p0007")]
    assert (one.active_seconds, one.compute_seconds, one.written_bytes) == (0, 14, 0)
    assert (one.sent_bytes, one.storage_bytes) == (49, 35)


def test_a_plan_with_the_older_edition_only_has_nothing_sent() -> None:
    account = Account(250)
    account.plan = {"older"}
    one = next(each for each in used_on_days(account, LAST, LAST) if each.project_id == "p0007")
    assert (one.active_seconds, one.sent_bytes) == (7, 0)


def test_a_plan_with_neither_is_told_so() -> None:
    account = Account(1)
    account.plan = set()
    with pytest.raises(Forbidden, match="not with this plan"):
        list(used_on_days(account, LAST, LAST))
