"""Hours, days and months: no second falls between two, and ranges mean what the contract says."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.cell.consumption import (
    FRAMES_MAX,
    REACH,
    Amounts,
    Grain,
    RangeOutside,
    Step,
    byte_hours,
    end_of,
    frames_of,
    frames_with,
    period_of,
    spread,
    start_of,
    together,
)

NOW = datetime(2026, 11, 24, 15, 41, 12, tzinfo=UTC)
MOMENTS = st.integers(1_700_000_000, 1_900_000_000).map(lambda at: datetime.fromtimestamp(at, UTC))
GRAIN = st.sampled_from(get_args(Grain))


@given(MOMENTS, GRAIN)
def test_each_moment_lies_in_one_frame(moment: datetime, grain: Grain) -> None:
    start = start_of(grain, moment)
    assert start <= moment < end_of(grain, start)
    assert start_of(grain, end_of(grain, start)) == end_of(grain, start)
    assert start_of(grain, end_of(grain, start) - timedelta(microseconds=1)) == start


@given(MOMENTS, st.floats(0, 400_000))
def test_seconds_are_cut_at_full_hours_and_none_is_lost(until: datetime, seconds: float) -> None:
    parts = list(spread(until, seconds))
    assert sum(part for _, part in parts) == pytest.approx(seconds, abs=1e-3)
    assert all(0 < part <= 3600 and hour == start_of("hourly", hour) for hour, part in parts)
    hours = [hour for hour, _ in parts]
    assert hours == sorted(set(hours), reverse=True)


@given(GRAIN, st.floats(0, 1), st.floats(0, 1.2))
def test_frames_cover_the_range_without_a_gap(grain: Grain, back: float, width: float) -> None:
    begin = NOW - REACH[grain] * back
    end = begin + REACH[grain] * width
    frames = frames_of(grain, begin, end, NOW)
    assert len(frames) <= FRAMES_MAX
    assert all(a[1] == b[0] for a, b in itertools.pairwise(frames))
    if begin < min(end, NOW):
        assert frames[0][0] <= begin < frames[0][1]
        assert frames[-1][0] < min(end, NOW) <= frames[-1][1]
    assert all(start < min(end, NOW) for start, _ in frames)


@pytest.mark.parametrize(
    ("grain", "begin", "end", "count"),
    [
        ("daily", "2026-11-01T00:00:00Z", "2026-11-08T00:00:00Z", 7),
        ("daily", "2026-11-01T15:30:00Z", "2026-11-01T15:31:00Z", 1),
        ("hourly", "2026-11-24T00:00:00Z", "2026-11-24T15:41:12Z", 16),
        ("monthly", "2026-11-01T00:00:00Z", "2026-11-24T15:41:12Z", 1),
        ("monthly", "2026-01-31T00:00:00Z", "2027-01-01T00:00:00Z", 11),
        ("hourly", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z", 0),
    ],
)
def test_ranges_as_people_write_them(grain: Grain, begin: str, end: str, count: int) -> None:
    assert len(frames_of(grain, datetime.fromisoformat(begin), datetime.fromisoformat(end), NOW)) == count


@pytest.mark.parametrize(
    ("grain", "begin"),
    [("hourly", timedelta(hours=170)), ("daily", timedelta(days=62)), ("monthly", timedelta(days=400))],
)
def test_what_lies_too_far_back_is_refused(grain: Grain, begin: timedelta) -> None:
    with pytest.raises(RangeOutside, match=f"{grain} consumption can be asked for from"):
        frames_of(grain, NOW - begin, NOW, NOW)
    assert RangeOutside.http_status == 406
    with pytest.raises(RangeOutside, match="before from"):
        frames_of(grain, NOW, NOW - timedelta(hours=1), NOW)


STEPS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=8).map(
    lambda pairs: [
        Step(NOW + timedelta(minutes=minutes), size, 2 * size) for minutes, size in sorted(dict(pairs).items())
    ]
)


@given(STEPS, st.integers(0, 1200), st.integers(0, 600), st.integers(0, 600))
def test_storage_over_time_adds_up(steps: list[Step], begin: int, first: int, second: int) -> None:
    a = NOW + timedelta(minutes=begin)
    b = a + timedelta(minutes=first)
    c = b + timedelta(minutes=second)
    whole, left, right = byte_hours(steps, a, c), byte_hours(steps, a, b), byte_hours(steps, b, c)
    assert whole[0] == pytest.approx(left[0] + right[0])
    assert whole[1] == pytest.approx(2 * whole[0])
    minutes = (a + timedelta(minutes=minute, seconds=30) for minute in range(first + second))
    held = [next((step.logical_bytes for step in reversed(steps) if step.at < minute), 0) for minute in minutes]
    assert whole[0] == pytest.approx(sum(held) / 60)


@given(STEPS, st.integers(0, 30))
def test_frames_hold_what_the_whole_time_holds(steps: list[Step], hours: int) -> None:
    end = NOW + timedelta(hours=hours)
    bounds = frames_of("hourly", NOW, end, end)
    found = list(frames_with(bounds, end, {}, steps))
    logical, history = byte_hours(steps, bounds[0][0], end) if bounds else (0, 0)
    assert sum(frame.logical_byte_hours for frame in found) == pytest.approx(logical)
    assert sum(frame.history_byte_hours for frame in found) == pytest.approx(history)
    for frame in found:
        held = [step for step in steps if step.at < min(frame.end, end)]
        assert frame.logical_bytes == (held[-1].logical_bytes if held else 0)


def test_a_frame_that_runs_ends_now_and_branches_add_up() -> None:
    bounds = [period_of(NOW)]
    amounts = {bounds[0][0]: Amounts(active_seconds=1.5, written_bytes=2)}
    one = list(frames_with(bounds, NOW, amounts, [Step(NOW - timedelta(hours=2), 100, 10)]))
    other = list(frames_with(bounds, NOW, {}, [Step(NOW - timedelta(hours=1), 50, 1), Step(NOW, 7, 7)]))
    (found,) = together([one, other])
    assert (found.logical_bytes, found.history_bytes) == (150, 11)
    assert found.logical_byte_hours == pytest.approx(250)
    assert found.history_byte_hours == pytest.approx(21)
    assert (found.amounts, found.end) == (amounts[bounds[0][0]], bounds[0][1])
    assert list(together([])) == []
