from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import LimitReached
from tenantry.neon.client import NeonClient
from tenantry.neon.pace import Pace, Schedule, is_neons_cloud, route_of


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/projects", "GET /projects"),
        ("/projects/cool-sun-12345678", "GET /projects/{}"),
        ("/projects/p/branches/br-a-b-c/roles/neon%2Fowner/reveal_password",
         "GET /projects/{}/branches/{}/roles/{}/reveal_password"),
        ("/projects/shared", "GET /projects/shared"),
        ("/consumption_history/v2/projects", "GET /consumption_history/v2/projects"),
    ],
)  # fmt: skip
def test_a_route_is_a_request_without_its_names(path: str, route: str) -> None:
    assert route_of("GET", path) == route


@pytest.mark.parametrize(
    ("url", "cloud"),
    [
        ("https://console.neon.tech/api/v2", True),
        ("https://NEON.tech/api/v2", True),
        ("https://neon.tech.example/api/v2", False),
        ("https://notneon.tech/api/v2", False),
        ("http://127.0.0.1:7700/api/v2", False),
    ],
)
def test_neons_cloud_is_known_by_its_name(url: str, cloud: bool) -> None:
    assert is_neons_cloud(url) is cloud


ASKED = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3)), max_size=200)


@given(ASKED, st.integers(3, 20), st.data(), st.integers(1, 5))
def test_no_window_ever_holds_more_than_it_may(
    asked: list[tuple[str, float]], minute: int, data: st.DataObject, second: int
) -> None:
    burst = data.draw(st.integers(1, minute - 1))
    schedule, now = Schedule(minute=minute, burst=burst, second=second), 0.0
    begun: list[tuple[str, float]] = []
    for route, later in asked:
        now += later
        at = schedule.begin(route, now)
        assert at >= now
        begun.append((route, at))
    moments = [at for _, at in begun]
    assert moments == sorted(moments)
    assert all(moments[i + minute] - moments[i] >= 60 for i in range(len(moments) - minute))
    for each in "abc":
        mine = [at for route, at in begun if route == each]
        assert all(mine[i + second] - mine[i] >= 1 for i in range(len(mine) - second))


def test_nothing_waits_while_there_is_room() -> None:
    schedule = Schedule()
    assert [schedule.begin("a", 5.0) for _ in range(40)] == [5.0] * 40
    assert schedule.begin("a", 5.0) > 6.0


def test_nobody_waits_for_the_next_minute() -> None:
    """Eight threads without an end: each waits for its turn among eight, and a minute holds 700 at most."""
    schedule, moments = Schedule(), [0.0] * 8
    begun: list[float] = []
    for number in range(3_000):
        now = moments[number % 8]
        at = schedule.begin(f"route {number % 5}", now)
        assert at - now < 2
        moments[number % 8] = at
        begun.append(at)
    assert 550 < 3_000 / (begun[-1] / 60) < 700
    assert all(begun[i + 700] - begun[i] >= 60 for i in range(len(begun) - 700))


def test_threads_share_one_pace() -> None:
    clock, lock = [100.0], threading.Lock()
    waited: list[float] = []

    def pause(seconds: float) -> None:
        with lock:
            waited.append(seconds)

    pace = Pace(Schedule(minute=1000, burst=900, second=10), clock=lambda: clock[0], pause=pause)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(pace.wait, "a", latest=200.0) for _ in range(30)]:
            done.result(30)
    assert [round(seconds, 2) for seconds in sorted(waited)] == [1.05] * 10 + [2.1] * 10


def test_who_would_wait_beyond_the_deadline_is_told_at_once_and_takes_no_place() -> None:
    pace = Pace(Schedule(minute=100, burst=99, second=1), clock=lambda: 0.0, pause=lambda _: None)
    pace.wait("a", latest=10.0)
    for _ in range(3):
        with pytest.raises(LimitReached, match="to keep to 700 requests a minute"):
            pace.wait("a", latest=1.0)
    pace.wait("a", latest=1.1)


def test_a_client_keeps_its_pace_and_does_not_ask_again_for_what_cannot_be_in_time(script: Any, new_reply: Any) -> None:
    script.replies += [new_reply() for _ in range(5)]
    pace = Pace(Schedule(minute=6, burst=5, second=4))
    with NeonClient(script.base_url, "key", deadline_seconds=20, pace=pace) as client:
        began = time.monotonic()
        for _ in range(5):
            client.list_regions()
        assert time.monotonic() - began >= 1.05
        with pytest.raises(LimitReached, match="would have to wait"):
            client.list_regions()
        assert time.monotonic() - began < 20
    assert len(script.asked) == 5
