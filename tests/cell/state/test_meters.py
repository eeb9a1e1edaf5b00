"""Whatever is read twice, late, never, or after a crash: every second and every byte is counted once."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.cell.consumption import GRAINS, KEPT, Amounts, Reading, Step, start_of
from tenantry.cell.state.meters import WORKERS_KEPT, Meters
from tenantry.cell.state.tables import Tables, open_connection
from tenantry.neon.ids import BranchId, EndpointId, HeadId, ProjectId

NOW = datetime(2026, 11, 24, 15, 41, tzinfo=UTC)
P, B, H, E = ProjectId("p"), BranchId("br-a"), HeadId("hd-a"), EndpointId("ep-a")
SCRIPTS = Path(open_connection.__code__.co_filename).parent


def database() -> sqlite3.Connection:
    """One project with a branch, its head and its endpoint; in memory."""
    connection = open_connection(":memory:", SCRIPTS)
    moment = NOW.isoformat()
    connection.executescript(
        f"""
        begin;
        insert into project values ('p', 'ACME', 'local', 18, 7, 1, 60, '{{}}', '{{}}', '{moment}', '{moment}', null);
        insert into branch (id, project_id, name, state, state_changed_at, is_default, protected, head_id, created_at,
            updated_at, init_source)
        values ('br-a', 'p', 'main', 'ready', '{moment}', 1, 0, 'hd-a', '{moment}', '{moment}', 'parent-data');
        insert into head values ('hd-a', 'p', 'br-a', 1, 'x', 1, null, null, '{moment}');
        insert into endpoint (id, project_id, branch_id, type, min_cu, max_cu, suspend_timeout_seconds, disabled,
            pooler_enabled, settings, state, created_at, updated_at)
        values ('ep-a', 'p', 'br-a', 'read_write', 0.25, 0.25, 0, 0, 0, '{{}}', 'idle', '{moment}', '{moment}');
        commit;
        """
    )
    return connection


def about(value: float) -> object:
    return pytest.approx(value)  # pyright: ignore[reportUnknownMemberType]


@pytest.fixture
def meters() -> Meters:
    return Tables(database()).meters


def reading(seconds: float, log_end: int | None = None, **other: object) -> Reading:
    given: dict[str, object] = {
        "endpoint_id": E, "branch_id": B, "project_id": P, "head_id": H, "at": NOW, "pid": 1, "start_ticks": 1,
        "seconds": seconds, "cu": 0.5, "log_begin": 100, "log_end": log_end, **other,
    }  # fmt: skip
    return Reading(**given)  # pyright: ignore[reportArgumentType]


def total(meters: Meters) -> Amounts:
    return meters.sums_of_projects([P], start_of("monthly", NOW)).get(P, Amounts())


LIVES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50), st.booleans()), max_size=5),
        st.integers(0, 50),
    ),
    max_size=6,
)
"""Processes: their looks (time and bytes since the last, and whether the look is noted twice), and what was torn."""


@settings(max_examples=150, deadline=None)
@given(LIVES)
def test_every_second_and_byte_counts_once(lives: list[tuple[list[tuple[float, int, bool]], int]]) -> None:
    meters = Tables(database()).meters
    active = 0.0
    mark = position = 100
    for number, (looks, torn) in enumerate(lives):
        age = 0.0
        for seconds, written, twice in looks:
            age += seconds
            position += written
            for _ in range(1 + twice):
                meters.note(reading(age, position, start_ticks=number))
        active += age
        mark = max(mark, position)
        position = max(100, position - torn)  # what a crash took back is written again
    found = total(meters)
    assert found.active_seconds == about(active)
    assert found.compute_seconds == about(active / 2)
    assert found.written_bytes == mark - 100


def test_a_late_reading_makes_good_what_was_missed_and_cuts_it_at_full_hours(meters: Meters) -> None:
    meters.note(reading(60, at=NOW - timedelta(hours=3)))
    meters.note(reading(60 + 3 * 3600))
    hours = meters.amounts(P, "hourly", NOW - timedelta(hours=4), NOW)[B]
    assert {hour.hour: round(found.active_seconds) for hour, found in hours.items()} == {
        12: 60 + 19 * 60, 13: 3600, 14: 3600, 15: 41 * 60,
    }  # fmt: skip
    assert total(meters).active_seconds == about(60 + 3 * 3600)


def test_the_grains_agree(meters: Meters) -> None:
    for back in (0, 1, 30, 400, 20_000):
        meters.add(P, B, NOW - timedelta(minutes=back), Amounts(active_seconds=1, written_bytes=2, sent_bytes=3))
    sums: list[Amounts] = []
    for grain in GRAINS:
        found = meters.amounts(P, grain, NOW - timedelta(days=40), NOW + timedelta(days=1))[B]
        sums.append(sum(found.values(), Amounts()))
    assert sums == [Amounts(active_seconds=5, written_bytes=10, sent_bytes=15)] * 3


def test_a_size_that_was_changed_counts_for_the_time_at_the_old_one(meters: Meters) -> None:
    meters.note(reading(1, cu=0.25))
    meters.note(reading(11, cu=8))
    assert total(meters).compute_seconds == about(11 * 0.25)


def test_a_new_head_begins_where_it_begins(meters: Meters) -> None:
    meters.note(reading(1, 150))
    meters.note(reading(2, 1_000_000, head_id=HeadId("hd-gone"), log_begin=999_000))
    assert total(meters).written_bytes == 50 + 1000
    meters.note(reading(3, 170))
    assert total(meters).written_bytes == 50 + 1000 + 20


def test_a_head_that_nobody_read_and_whose_files_do_not_tell_counts_from_now(meters: Meters) -> None:
    meters.note(reading(1, 5_000, log_begin=None))
    meters.note(reading(2, 5_010, log_begin=None))
    assert total(meters).written_bytes == 10


def test_reports_come_once_and_for_endpoints_that_are_there(meters: Meters) -> None:
    assert meters.note_report("w", 1, NOW, [(E, 5), (EndpointId("ep-gone"), 7)])
    assert not meters.note_report("w", 1, NOW, [(E, 5)])
    assert meters.note_report("other", 1, NOW, [(E, 1)])
    assert meters.note_report("w", 2, NOW, [(E, 2)])
    assert total(meters).sent_bytes == 8
    for number in range(WORKERS_KEPT):
        meters.note_report(f"w{number}", 1, NOW, [])
    meters.forget_workers()
    assert not meters.note_report(f"w{WORKERS_KEPT - 1}", 1, NOW, [(E, 5)])


def test_sizes_are_steps_and_the_last_holds(meters: Meters) -> None:
    for minutes, size in ((0, 10), (5, 20), (10, 20), (60, 30)):
        meters.note_sizes(P, B, Step(NOW + timedelta(minutes=minutes), size, 1))
    assert meters.steps(P)[B] == [Step(NOW, 20, 1), Step(NOW + timedelta(minutes=60), 30, 1)]
    assert meters.sizes_of_projects([P]) == {P: 31}
    assert meters.unsized(10) == []


def test_a_branch_that_goes_occupies_nothing_and_what_it_used_stays() -> None:
    connection = database()
    tables = Tables(connection)
    assert [found[1] for found in tables.meters.unsized(10)] == [B]
    tables.meters.note_sizes(P, B, Step(NOW - timedelta(days=200), 10, 1))
    tables.meters.note(reading(5, 120))
    connection.execute("begin")
    tables.delete_branch(B)
    tables.delete_head(H)
    connection.execute("commit")
    assert [(step.logical_bytes, step.history_bytes) for step in tables.meters.steps(P)[B]] == [(10, 1), (0, 0)]
    assert tables.meters.sizes_of_projects([P]) == {}
    assert total(tables.meters) == Amounts(active_seconds=5, compute_seconds=2.5, written_bytes=20)
    connection.execute("begin")
    tables.delete_project(P)
    connection.execute("commit")
    assert tables.meters.steps(P) == {}


def test_what_nobody_can_ask_for_is_forgotten(meters: Meters) -> None:
    for days in range(0, 500, 3):
        meters.add(P, B, NOW - timedelta(days=days), Amounts(active_seconds=1))
    for hours in range(500 * 24, 0, -5):
        meters.note_sizes(P, B, Step(NOW - timedelta(hours=hours), hours, 0))
    before = meters.steps(P)[B]
    assert meters.forget([ProjectId("other")], NOW) == 0
    assert meters.forget([P], NOW) > 0
    assert meters.forget([P], NOW) == 0
    for grain in GRAINS:
        found = meters.amounts(P, grain, NOW - timedelta(days=600), NOW + timedelta(days=1))[B]
        assert min(found) >= NOW - KEPT[grain]
    kept = meters.steps(P)[B]
    assert [step for step in kept if step.at >= NOW - KEPT["hourly"]] == [
        step for step in before if step.at >= NOW - KEPT["hourly"]
    ]
    days = [step.at.date() for step in kept if step.at < NOW - KEPT["hourly"]]
    assert len(days) == len(set(days))
    assert sum(step.at <= NOW - KEPT["monthly"] for step in kept) == 1, "what held when the year began"
