"""Moments and positions, in logs written for the purpose: clocks, sleep, gaps, parents and children."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.model import BuildId, Head
from tenantry.cell.storage import archive, bases
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.history import History, check_moment
from tenantry.cell.storage.segments import Segment
from tenantry.errors import HistoryError, HistoryGap, InvalidInput
from tenantry.neon.ids import BranchId, HeadId, ProjectId
from tenantry.postgres.lsn import Lsn, format_lsn
from tenantry.postgres.template import WAL_SEGMENT_BYTES

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
FIRST = Lsn(WAL_SEGMENT_BYTES + 40)


def at(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


@dataclass
class Histories:
    """Heads whose logs are written by hand."""

    directory: Path
    heads: dict[HeadId, Head] = field(default_factory=dict)

    def __getitem__(self, name: str) -> History:
        return History(HeadId(name), heads=self.heads, directory_of=self.dir)

    def dir(self, name: str) -> Path:
        return self.directory / name

    def add(self, name: str, log: Any, *, parent: str | None = None, origin: int | None = None) -> None:
        log.write(self.dir(name) / "data" / "pg_wal")
        self.heads[HeadId(name)] = Head(
            id=HeadId(name),
            project_id=ProjectId("p"),
            branch_id=BranchId(name),
            build_id=BuildId("x"),
            timeline=log.timeline,
            origin_head_id=None if parent is None else HeadId(parent),
            origin_lsn=None if origin is None else format_lsn(Lsn(origin)),
            created_at=NOON,
        )
        self[name].catch_up()

    def base(self, name: str, number: int, lsn: int, last_commit: datetime) -> None:
        directory = self.dir(name) / "bases" / f"{number:06d}"
        directory.mkdir(parents=True)
        bases._write_record(
            directory,
            Base(
                number=number, kind="cold", lsn=Lsn(lsn), usable_from=Lsn(lsn), timeline=1, taken_at=last_commit,
                last_commit=last_commit, build_id=BuildId("x"), system_identifier=1, bytes=0, digest="",
            ),
            durable=False,
        )  # fmt: skip

    def lose(self, name: str, *numbers: int) -> None:
        """Takes segments away behind the keeper's back: what retention lets go of says so, and is no gap."""
        self[name].catch_up()
        for number in numbers:
            kept = self.dir(name) / "wal" / Segment(self.heads[HeadId(name)].timeline, number).name
            kept.unlink()
            kept.with_name(kept.name + ".json").unlink(missing_ok=True)  # known only of segments that are whole
            (self.dir(name) / "data" / "pg_wal" / Segment(1, number).name).unlink()


@pytest.fixture
def histories(workdir: Path) -> Histories:
    return Histories(workdir)


@pytest.fixture
def simple(histories: Histories, new_log: Callable[..., Any]) -> tuple[Histories, Any, Mapping[int, Lsn]]:
    """Commits at minutes 0 to 8, each in a segment of its own but the last three; what follows fills nothing."""
    log = new_log()
    starts: dict[int, Lsn] = {}
    for minute in range(9):
        starts[minute] = log.commit(at(minute))
        log.commit(at(minute + 0.5), committed=False)
        if minute < 6:
            log.fill_segment()
    histories.add("a", log)
    histories.base("a", 1, FIRST, at(-1))
    return histories, log, starts


def test_a_moment_is_before_the_first_commit_that_is_later(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, log, starts = simple
    history = histories["a"]
    for minute in range(8):
        for moment in (at(minute), at(minute + 0.7)):
            point = history.at_time(moment)
            assert (point.lsn, point.last_commit) == (starts[minute + 1], at(minute))
            assert point.record_end is not None
    before = history.at_time(at(-0.5))
    assert (before.lsn, before.last_commit) == (starts[0], None)
    after = history.at_time(at(100))
    assert (after.lsn, after.record_end, after.last_commit) == (log.position, None, at(8))
    assert history.end() == log.position
    assert history.last_commit() == at(8)


def test_a_microsecond_makes_the_difference(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, _, starts = simple
    just_before = at(4) - timedelta(microseconds=1)
    assert histories["a"].at_time(just_before).lsn == starts[4]
    assert histories["a"].at_time(at(4)).lsn == starts[5]


def test_knowing_segments_or_reading_them_is_the_same(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, _, _ = simple
    moments = [at(quarter / 4) for quarter in range(-4, 40)]
    known = [histories["a"].at_time(moment) for moment in moments]
    for sidecar in (histories.dir("a") / "wal").glob("*.json"):
        sidecar.write_text("lost")
    assert [histories["a"].at_time(moment) for moment in moments] == known


def test_commits_of_a_segment_that_was_not_linked_yet_are_not_overlooked(
    simple: tuple[Histories, Any, Mapping[int, Lsn]],
) -> None:
    histories, log, _ = simple
    histories["a"].catch_up()
    log.fill_segment()
    new = log.commit(at(20))
    log.fill_segment()
    log.commit(at(21))
    log.write(histories.dir("a") / "data" / "pg_wal")
    assert histories["a"].at_time(at(19)).lsn == new
    assert histories["a"].at_time(at(21)).lsn == log.position


def test_what_is_committed_while_one_looks_is_later(
    simple: tuple[Histories, Any, Mapping[int, Lsn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    histories, log, _ = simple
    end, look = log.position, History._around

    def look_while_others_write(self: History, piece: Any, target: int) -> Any:
        found = look(self, piece, target)
        if piece.newest:
            log.commit(at(20))
            log.write(histories.dir("a") / "data" / "pg_wal")
        return found

    monkeypatch.setattr(History, "_around", look_while_others_write)
    assert histories["a"].at_time(at(10)).lsn == end


def test_where_the_clock_was_set_back_the_first_passage_counts(
    histories: Histories, new_log: Callable[..., Any]
) -> None:
    log = new_log()
    log.commit(at(0))
    five = log.commit(at(5))
    log.fill_segment()
    log.commit(at(1))  # the clock was set back
    log.fill_segment()
    log.commit(at(2))
    six = log.commit(at(6))
    histories.add("a", log)
    histories.base("a", 1, FIRST, at(-1))
    for minute in (1, 2, 3, 4.9):
        assert histories["a"].at_time(at(minute)).lsn == five
    assert histories["a"].at_time(at(5)).lsn == six
    assert histories["a"].last_commit() == at(6)


def test_a_record_given_up_in_a_crash_is_no_gap(histories: Histories, new_log: Callable[..., Any]) -> None:
    log = new_log()
    log.commit(at(0))
    log.give_up()
    one = log.commit(at(1))
    log.fill_segment()
    histories.add("a", log)
    histories.base("a", 1, FIRST, at(-1))
    assert histories["a"].at_time(at(0.5)).lsn == one
    assert histories["a"].at_time(at(2)).lsn == log.position
    assert histories["a"].last_commit() == at(1)


def test_a_gap_is_never_guessed_across(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, _, starts = simple
    histories.lose("a", 3)  # with the commit of minute 2
    history = histories["a"]
    assert [str(gap) for gap in history.gaps(FIRST)] == ["0/300000 to 0/400000"]
    assert history.at_time(at(0.5)).lsn == starts[1]
    for minute in (1, 2, 2.9):
        with pytest.raises(HistoryGap):
            history.at_time(at(minute))
    later = history.at_time(at(3))
    assert later.lsn == starts[4]
    with pytest.raises(HistoryGap, match=Segment(1, 3).name):
        history.plan(later)
    histories.base("a", 2, starts[3] - 16, at(2))  # taken behind the gap
    assert histories["a"].at_time(at(2.5)).lsn == starts[3]
    assert histories["a"].plan(later).base.number == 2


def test_what_retention_has_let_go_of_is_no_gap(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    """A point that was within the history when it was asked for may have left it since."""
    histories, _, starts = simple
    history = histories["a"]
    point = history.at_time(at(3))
    archive.delete(histories.dir("a"), [Segment(1, 1), Segment(1, 2)])
    now = histories["a"]
    for asked in (lambda: now.plan(point), lambda: now.at_lsn(Lsn(starts[1] + 8)), lambda: now.at_time(at(1))):
        with pytest.raises(InvalidInput, match="is before the history that is kept"):
            asked()


def test_a_lost_end_is_not_the_end(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, log, starts = simple
    log.fill_segment()
    log.write(histories.dir("a") / "data" / "pg_wal")
    histories.lose("a", 7)  # all commits from minute 6 on
    with pytest.raises(HistoryGap):
        histories["a"].at_time(at(30))
    assert histories["a"].at_time(at(4.5)).lsn == starts[5]


def test_positions_are_rounded_up_to_whole_records(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, log, starts = simple
    history = histories["a"]
    for start in list(starts.values())[1:]:
        assert history.at_lsn(start).lsn == start
        assert history.at_lsn(Lsn(start - 1)).lsn == start
        assert history.at_lsn(Lsn(start + 1)).lsn > start
    end = history.at_lsn(Lsn(log.position))
    assert (end.lsn, end.record_end) == (log.position, None)
    edge = Lsn(4 * WAL_SEGMENT_BYTES)
    assert history.at_lsn(edge).lsn >= edge


def test_positions_outside_are_refused_with_what_is_inside(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, log, _ = simple
    with pytest.raises(InvalidInput, match=f"ends at {format_lsn(Lsn(log.position))}"):
        histories["a"].at_lsn(Lsn(log.position + 8))
    with pytest.raises(InvalidInput, match="ahead of the branch"):
        histories["a"].at_lsn(Lsn(log.position + 50 * WAL_SEGMENT_BYTES))
    with pytest.raises(InvalidInput, match=format_lsn(FIRST)):
        histories["a"].at_lsn(Lsn(FIRST - 8))


def test_a_child_has_its_parents_past_and_not_its_future(histories: Histories, new_log: Callable[..., Any]) -> None:
    log = new_log()
    one = log.commit(at(1))
    log.fill_segment()
    two = log.commit(at(2))
    child, origin = log.copy(), log.position
    log.commit(at(3))
    log.fill_segment()
    log.commit(at(5))
    grand = child.copy()
    four = child.commit(at(4))
    histories.add("parent", log)
    histories.add("child", child, parent="parent", origin=origin)
    six = grand.commit(at(6))
    histories.add("grandchild", grand, parent="child", origin=origin)  # departs where the child begins
    histories.base("parent", 1, FIRST, at(0))
    for name in ("child", "grandchild"):
        assert histories[name].at_time(at(0.5)).lsn == one
        assert histories[name].at_time(at(1.5)).lsn == two
        assert histories[name].at_time(at(1.5)).head_id == "parent"
    assert histories["child"].at_time(at(3.5)).lsn == four
    assert histories["child"].at_time(at(3.5)).head_id == "child"
    assert histories["child"].at_time(at(9)).lsn == child.position
    assert histories["grandchild"].at_time(at(5)).lsn == six
    assert histories["grandchild"].at_lsn(Lsn(origin)).head_id == "grandchild"
    assert histories["child"].at_lsn(Lsn(origin - 1)).lsn == four
    plan = histories["grandchild"].plan(histories["grandchild"].at_time(at(9)))
    assert [(head, segment.number) for head, segment in plan.segments] == [("parent", 1), ("grandchild", 2)]
    plan = histories["child"].plan(histories["child"].at_time(at(1.5)))
    assert [(head, segment.number) for head, segment in plan.segments] == [("parent", 1), ("parent", 2)]


def test_a_childs_first_segment_speaks_for_its_parents_last(histories: Histories, new_log: Callable[..., Any]) -> None:
    """The parent's own copy of it goes when no window reaches before the departure."""
    log = new_log()
    log.commit(at(1))
    log.fill_segment()
    log.commit(at(2))
    child, origin = log.copy(), log.position
    grand = log.copy()
    log.commit(at(3))
    four = child.commit(at(4))
    five = grand.commit(at(5))
    histories.add("parent", log)
    histories.add("child", child, parent="parent", origin=origin)
    histories.add("grandchild", grand, parent="child", origin=origin)
    histories.base("parent", 1, FIRST, at(0))
    histories.lose("parent", 2)
    assert histories["child"].at_time(at(3.5)).lsn == four
    assert histories["child"].at_time(at(3.5)).last_commit == at(2)
    assert histories["child"].last_commit(Lsn(origin)) == at(2)
    histories.lose("child", 2)
    assert histories["grandchild"].at_time(at(4)).lsn == five
    assert histories["grandchild"].last_commit(five) == at(2)
    plan = histories["grandchild"].plan(histories["grandchild"].at_time(at(4)))
    assert [(head, segment.number) for head, segment in plan.segments] == [("parent", 1), ("grandchild", 2)]


def test_a_segment_that_cannot_be_read_is_a_gap(simple: tuple[Histories, Any, Mapping[int, Lsn]]) -> None:
    histories, _, starts = simple
    path = histories.dir("a") / "wal" / Segment(1, 3).name
    content = bytearray(path.read_bytes())
    content[300:] = bytes(len(content) - 300)
    path.write_bytes(content)
    for sidecar in (histories.dir("a") / "wal").glob("*.json"):
        sidecar.unlink()
    with pytest.raises(HistoryGap):
        histories["a"].at_time(at(2.9))
    assert histories["a"].at_time(at(0)).lsn == starts[1]


def test_the_last_commit_is_bounded_where_a_gap_may_hide_it(histories: Histories, new_log: Callable[..., Any]) -> None:
    log = new_log()
    log.commit(at(1))
    log.fill_segment()
    log.commit(at(2))
    log.fill_segment()
    histories.add("a", log)
    histories.base("a", 1, FIRST, at(0))
    assert histories["a"].last_commit() == at(2)
    histories.lose("a", 2)
    written = datetime.fromtimestamp((histories.dir("a") / "wal" / Segment(1, 3).name).stat().st_mtime, UTC)
    assert histories["a"].last_commit() == written


def test_a_plan_starts_from_the_newest_base_of_the_lineage(histories: Histories, new_log: Callable[..., Any]) -> None:
    log = new_log()
    places = {}
    for minute in range(6):
        log.commit(at(minute))
        places[minute] = log.position
        log.fill_segment()
    child, origin = log.copy(), log.position
    log.commit(at(6))
    log.fill_segment()
    child.commit(at(7))
    histories.add("parent", log)
    histories.add("child", child, parent="parent", origin=origin)
    histories.base("parent", 1, FIRST, at(-1))
    histories.base("parent", 2, places[3], at(3))
    histories.base("parent", 3, log.position, at(6))  # behind the departure: not the child's past
    history = histories["child"]
    assert history.plan(history.at_time(at(2))).base.number == 1
    assert history.plan(history.at_time(at(4))).base.number == 2
    latest = history.plan(history.at_time(at(9)))
    assert (latest.base.number, latest.base_head_id, latest.source.id) == (2, "parent", "child")
    older = history.plan(history.at_time(at(9)), without=frozenset({(HeadId("parent"), 2)}))
    assert older.base.number == 1
    with pytest.raises(HistoryError, match="no usable base"):
        history.plan(history.at_time(at(9)), without=frozenset({(HeadId("parent"), 1), (HeadId("parent"), 2)}))


def test_without_any_base_there_is_no_history(histories: Histories, new_log: Callable[..., Any]) -> None:
    log = new_log()
    log.commit(at(1))
    histories.add("a", log)
    with pytest.raises(HistoryError, match="no base image"):
        histories["a"].at_time(at(1))


def test_the_window_is_named() -> None:
    window = {"earliest": at(0), "now": at(10)}
    check_moment(at(0), **window)
    check_moment(at(10), **window)
    with pytest.raises(InvalidInput, match=r"future.*2030-01-01T12:00:00\+00:00 and 2030-01-01T12:10:00"):
        check_moment(at(10.1), **window)
    with pytest.raises(InvalidInput, match=r"before the history.*2030-01-01T12:00:00\+00:00"):
        check_moment(at(-0.1), **window)
