"""Neon's limits, by a stand-in that counts as Neon does: kept where they can be, waited out where they are met."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from tenantry.errors import LimitReached
from tenantry.fleet.catalog.records import ProviderId, ProviderKind, ProviderRecord, Serving
from tenantry.fleet.providers.check import judge
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.fleet.providers.ports import Health
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import RegionId
from tenantry.neon.pace import BURST, BURST_A_SECOND, Pace
from tenantry.testing.neon_cloud import StandIn
from tenantry.testing.throwaway import ThrowawayCell


def ask(client: NeonClient, times: int, *, at_a_time: int = 8) -> None:
    with ThreadPoolExecutor(at_a_time) as pool:
        for done in [pool.submit(client.list_regions) for _ in range(times)]:
            done.result(120)


def test_a_paced_client_is_hardly_ever_refused(cell: ThrowawayCell) -> None:
    with StandIn(cell.target) as cloud, NeonClient(cloud.url, cell.target.api_key, pace=Pace()) as client:
        # One by one, for on a busy machine several that left in time would arrive together.
        ask(client, BURST + 10, at_a_time=1)
        assert cloud.refused.total() <= BURST_A_SECOND // 4
        assert cloud.asked["GET /regions"] == BURST + 10 + cloud.refused.total()


def test_a_client_without_a_pace_is_refused_and_gets_through_all_the_same(cell: ThrowawayCell) -> None:
    """As one of several processes that share an account, none of which knows of the others."""
    with StandIn(cell.target) as cloud, NeonClient(cloud.url, cell.target.api_key) as client:
        began = time.monotonic()
        ask(client, BURST_A_SECOND + 10)
        assert cloud.refused[429] > 0 or time.monotonic() - began > 1
        assert cloud.asked["GET /regions"] == BURST_A_SECOND + 10 + cloud.refused[429]


def test_a_minute_that_is_used_up_is_told_within_the_deadline(cell: ThrowawayCell) -> None:
    with StandIn(cell.target, requests_a_minute=3) as cloud:
        with NeonClient(cloud.url, cell.target.api_key) as others:
            ask(others, 3)
        with NeonClient(cloud.url, cell.target.api_key, deadline_seconds=3) as client:
            began = time.monotonic()
            with pytest.raises(LimitReached, match="rate limit exceeded") as refused:
                client.list_regions()
            assert time.monotonic() - began < 30
        wait = refused.value.fields["retry_after"]
        assert isinstance(wait, float)
        assert 3 < wait <= 60


def test_a_change_meets_one_that_runs_and_waits_for_it(cell: ThrowawayCell) -> None:
    mark = uuid.uuid4()
    with StandIn(cell.target) as cloud, NeonClient(cloud.url, cell.target.api_key, pace=Pace()) as client:
        provider = NeonProvider(client, "cloud")
        project, home = provider.create_project(name=f"x [{mark}]", region=None, pg_version=None)
        cloud.lock_next = 1  # whatever of its creation still runs when we come
        provider.new_password(project.id, home)
        assert cloud.refused[423] > 0
        assert provider.delete_project(project.id)
        assert provider.find_projects(str(mark)) == []


# -- what a check makes of it ---------------------------------------------------------------------------------


def record(kind: ProviderKind) -> ProviderRecord:
    return ProviderRecord(
        id=ProviderId(uuid.uuid4()),
        name="x",
        kind=kind,
        api_url=None,
        api_ca=None,
        secret_from="env:X",
        created_at=datetime.now(UTC),
        removed_at=None,
    )


def health(clock: float | None, *regions: str) -> Health:
    return Health(version="1", regions=[RegionId(region) for region in regions], clock_seconds=clock)


SERVED = Serving(
    provider_id=ProviderId(uuid.uuid4()),
    provider="x",
    region="eu-1",
    provider_region="aws-eu-central-1",
    projects=0,
    ready=0,
    projects_max=None,
    accepts_new=True,
)


@pytest.mark.parametrize(
    ("kind", "seen", "wrong"),
    [
        ("neon", health(0.4, "aws-eu-central-1", "aws-us-east-1"), []),
        ("neon", health(None, "aws-us-east-1"), ["it has no region aws-eu-central-1"]),
        ("cell", health(0.0, "local"), []),
        ("postgres", health(-3.0), []),
        ("postgres", health(-61.0), ["its clock is 61 s behind this machine's"]),
        ("cell", health(5.6, "local"), ["its clock is 6 s ahead of this machine's"]),
    ],
)
def test_a_check_names_clocks_and_regions_that_are_wrong(kind: ProviderKind, seen: Health, wrong: list[str]) -> None:
    assert judge(record(kind), seen, [SERVED]) == wrong
