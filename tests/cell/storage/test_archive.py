"""The kept log: linked before it can vanish, closed with what is in it, and honest about what is missing."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.storage import archive
from tenantry.cell.storage.archive import Gap
from tenantry.cell.storage.segments import Segment, number_of
from tenantry.errors import HistoryDamaged, HistoryError, HistoryGap, OperatorError
from tenantry.postgres import wal
from tenantry.postgres.lsn import Lsn
from tenantry.postgres.template import WAL_SEGMENT_BYTES
from tenantry.runtime import child, files
from tenantry.runtime.files import Recorder

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def minutes(count: float) -> datetime:
    return NOON + timedelta(minutes=count)


def link(head_dir: Path, **options: Any) -> archive.Linked:
    return archive.link_new_segments(head_dir, **{"timeline": 1, "start": Lsn(0), **options})


@pytest.fixture
def head_dir(workdir: Path, new_log: Callable[..., Any]) -> Path:
    """Three complete segments (numbers 1 to 3) and one that is being written."""
    log = new_log()
    for number in range(3):
        log.commit(minutes(number))
        log.fill_segment()
    log.commit(minutes(3))
    log.write(workdir / "data" / "pg_wal")
    return workdir


def test_every_segment_is_linked_and_the_complete_ones_are_closed(
    head_dir: Path, numbered: Callable[[int], str]
) -> None:
    first = link(head_dir)
    assert first.linked == tuple(numbered(n) for n in (1, 2, 3, 4))
    assert first.closed == tuple(numbered(n) for n in (1, 2, 3))
    assert first.advance_to == 4 * WAL_SEGMENT_BYTES
    for name in first.linked:
        assert os.path.samefile(head_dir / "data" / "pg_wal" / name, head_dir / "wal" / name)
    assert link(head_dir) == archive.Linked((), (), (), first.advance_to)
    facts = archive.facts(head_dir, Segment(1, 2))
    assert facts is not None
    assert (facts.commits, facts.first_micros) == (1, wal.to_micros(minutes(1)))
    assert archive.facts(head_dir, Segment(1, 4)) is None


def test_a_linked_segment_grows_and_outlives_its_twin(head_dir: Path, new_log: Callable[..., Any]) -> None:
    link(head_dir)
    live = head_dir / "data" / "pg_wal" / Segment(1, 4).name
    content = bytearray(live.read_bytes())
    content[-8:] = b"new data"
    with live.open("r+b") as file:
        file.write(content)
    live.unlink()
    assert archive.read_verified(head_dir, Segment(1, 4)) == content


def test_links_are_durable_before_the_slot_may_advance(head_dir: Path) -> None:
    with Recorder(head_dir) as recorder:
        link(head_dir)
    kinds = [(op.kind, (op.target or op.path).name) for op in recorder.operations]
    last_link = max(i for i, (kind, _) in enumerate(kinds) if kind == "link")
    assert ("fsync_dir", "wal") in kinds[last_link:]


def test_segments_of_a_parent_stay_out(head_dir: Path, numbered: Callable[[int], str]) -> None:
    done = link(head_dir, start=Lsn(3 * WAL_SEGMENT_BYTES + 100))
    assert done.linked == (numbered(3), numbered(4))
    (head_dir / "data" / "pg_wal" / Segment(2, 5).name).write_bytes(bytes(WAL_SEGMENT_BYTES))
    assert link(head_dir, start=Lsn(3 * WAL_SEGMENT_BYTES + 100)).linked == ()


def test_what_is_made_ahead_of_its_time_waits(head_dir: Path, numbered: Callable[[int], str]) -> None:
    pg_wal = head_dir / "data" / "pg_wal"
    (pg_wal / numbered(5)).write_bytes(bytes(WAL_SEGMENT_BYTES))
    (pg_wal / "xlogtemp.123").write_bytes(b"x")
    (pg_wal / "archive_status").mkdir()
    done = link(head_dir)
    assert numbered(5) not in done.linked
    assert numbered(4) not in done.closed
    assert done.advance_to == 4 * WAL_SEGMENT_BYTES


def test_histories_of_timelines_are_linked(head_dir: Path) -> None:
    pg_wal = head_dir / "data" / "pg_wal"
    (pg_wal / "00000001.history").write_text("")
    (pg_wal / "00000002.history").write_text("1\t0/300000\tof somebody else\n")
    link(head_dir)
    assert archive.histories(head_dir) == ["00000001.history"]


def test_a_name_with_another_file_is_an_error(head_dir: Path, numbered: Callable[[int], str]) -> None:
    link(head_dir)
    twin = head_dir / "data" / "pg_wal" / numbered(2)
    kept = (head_dir / "wal" / numbered(2)).read_bytes()
    twin.unlink()
    twin.write_bytes(bytes(WAL_SEGMENT_BYTES))
    with pytest.raises(HistoryError, match=numbered(2)):
        link(head_dir)
    assert (head_dir / "wal" / numbered(2)).read_bytes() == kept


@pytest.mark.parametrize("kind", ["link", "pipe", "short", "stranger"])
def test_only_files_that_postgres_writes_are_taken(head_dir: Path, numbered: Callable[[int], str], kind: str) -> None:
    path = head_dir / "data" / "pg_wal" / numbered(3)
    content = path.read_bytes()
    path.unlink()
    if kind == "link":
        (head_dir / "elsewhere").write_bytes(content)
        path.symlink_to(head_dir / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(content[:100] if kind == "short" else content)
    with pytest.raises((HistoryError, OSError)) as raised:
        link(head_dir, owner_uid=os.geteuid() + 1 if kind == "stranger" else None)
    if isinstance(raised.value, OSError):
        assert raised.value.errno == errno.ELOOP
    assert not (head_dir / "wal" / numbered(3)).exists()


def test_a_wal_directory_of_somebody_else_is_not_entered(head_dir: Path, workdir: Path) -> None:
    (workdir / "trap").mkdir()
    (head_dir / "wal").symlink_to(workdir / "trap")
    with pytest.raises(OperatorError):
        link(head_dir)
    assert list((workdir / "trap").iterdir()) == []


def test_gaps_are_found_where_they_are(head_dir: Path) -> None:
    link(head_dir)
    kept = archive.segments(head_dir, 1)
    assert archive.gaps(kept, Lsn(WAL_SEGMENT_BYTES)) == []
    archive.delete(head_dir, [kept[2]])
    left = archive.segments(head_dir, 1)
    assert archive.gaps(left, Lsn(WAL_SEGMENT_BYTES)) == [Gap(Lsn(2 * WAL_SEGMENT_BYTES), Lsn(3 * WAL_SEGMENT_BYTES))]
    assert archive.gaps(left, Lsn(3 * WAL_SEGMENT_BYTES)) == []
    assert archive.facts(head_dir, Segment(1, 2)) is None
    with pytest.raises(HistoryGap, match=Segment(1, 2).name):
        archive.read_verified(head_dir, Segment(1, 2))


def test_what_was_let_go_does_not_come_back(head_dir: Path, numbered: Callable[[int], str]) -> None:
    """Postgres may keep its names for long, most of all while it sleeps."""
    link(head_dir)
    kept = archive.segments(head_dir, 1)
    archive.delete(head_dir, [kept[1], kept[3]])
    assert link(head_dir).linked == ()
    archive.delete(head_dir, [kept[1]])  # again, as after a kill
    archive.delete(head_dir, [])
    assert link(head_dir).linked == ()
    assert sorted(archive.segments(head_dir, 1)) == [2, 4]
    archive.delete(head_dir, [kept[4]])
    assert link(head_dir).linked == (numbered(4),)  # a head that wakes again writes on in its newest


def test_a_lost_link_of_a_log_that_was_never_let_go_comes_back(head_dir: Path, numbered: Callable[[int], str]) -> None:
    """A power cut may take the link of one segment and leave that of the next."""
    link(head_dir)
    (head_dir / "wal" / numbered(2)).unlink()
    (head_dir / "wal" / f"{numbered(2)}.json").unlink()
    assert link(head_dir).linked == (numbered(2),)


@pytest.mark.parametrize("offset", [0, 5, 300_000, WAL_SEGMENT_BYTES - 1])
def test_a_flipped_bit_in_a_closed_segment_is_seen(head_dir: Path, offset: int) -> None:
    link(head_dir)
    path = head_dir / "wal" / Segment(1, 2).name
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(HistoryDamaged, match=Segment(1, 2).name):
        archive.read_verified(head_dir, Segment(1, 2))


def test_facts_that_were_lost_are_found_out_again(head_dir: Path) -> None:
    link(head_dir)
    before = archive.facts(head_dir, Segment(1, 1))
    sidecar = head_dir / "wal" / f"{Segment(1, 1).name}.json"
    sidecar.write_bytes(b"")
    assert archive.facts(head_dir, Segment(1, 1)) is None
    assert link(head_dir).closed == ()  # it is there; whoever needs it reads the segment instead
    sidecar.unlink()
    assert link(head_dir).closed == (Segment(1, 1).name,)
    assert archive.facts(head_dir, Segment(1, 1)) == before


def test_a_segment_that_is_no_log_is_told_each_time(head_dir: Path, numbered: Callable[[int], str]) -> None:
    path = head_dir / "data" / "pg_wal" / numbered(2)
    content = bytearray(path.read_bytes())
    content[500_000:600_000] = bytes(100_000)
    path.write_bytes(content)
    assert link(head_dir).damaged == (numbered(2),)
    assert link(head_dir).damaged == (numbered(2),)


def test_a_segment_is_closed_only_when_its_last_record_is_whole(
    workdir: Path, new_log: Callable[..., Any], numbered: Callable[[int], str]
) -> None:
    log = new_log()
    log.commit(minutes(0))
    log.filler(2 * WAL_SEGMENT_BYTES + 100_000)
    log.commit(minutes(1))
    log.write(workdir / "data" / "pg_wal")
    third = workdir / "data" / "pg_wal" / numbered(3)
    whole = third.read_bytes()
    third.write_bytes(whole[: 2 * wal.PAGE_BYTES] + bytes(WAL_SEGMENT_BYTES - 2 * wal.PAGE_BYTES))
    assert link(workdir).closed == ()
    with third.open("r+b") as file:
        file.write(whole)
    assert link(workdir).closed == (numbered(1), numbered(2))
    facts = archive.facts(workdir, Segment(1, 2))
    assert facts is not None
    assert facts.first_record > 3 * WAL_SEGMENT_BYTES  # one record fills it


def test_a_segment_that_ends_in_a_given_up_record_is_closed(
    workdir: Path, new_log: Callable[..., Any], numbered: Callable[[int], str]
) -> None:
    log = new_log()
    log.commit(minutes(0))
    replaced = log.give_up()
    log.commit(minutes(1))
    log.write(workdir / "data" / "pg_wal")
    done = link(workdir)
    assert (done.closed, done.damaged) == ((numbered(1),), ())
    facts = archive.facts(workdir, Segment(1, 1))
    assert facts is not None
    assert (facts.commits, facts.last_micros) == (1, wal.to_micros(minutes(0)))
    assert replaced == 2 * WAL_SEGMENT_BYTES + 40


# ---------------------------------------------------------------------------------------- with a real Postgres


async def test_nothing_vanishes_while_postgres_writes_and_removes(site: Any) -> None:
    head = site.create()
    site.settings = {"max_wal_size": "2MB", "checkpoint_timeout": "30s"}
    await site.start(head)
    for batch in range(4):
        await site.write(head, batch, bulk=3 * WAL_SEGMENT_BYTES)
        await site.advance(head)
        async with site.session(head) as connection:
            await connection.execute("checkpoint")
    await site.stop(head)
    kept = archive.segments(site.dir(head), 1)
    own = {path.name for path in (site.dir(head) / "data" / "pg_wal").iterdir() if len(path.name) == 24}
    assert len(own) < len(kept) > 12  # Postgres removed its names, the history kept its own
    assert archive.gaps(kept, site.history(head).oldest().lsn) == []
    assert site.link(head).damaged == ()
    for segment in [kept[number] for number in sorted(kept)[:-1]]:
        archive.read_verified(site.dir(head), segment)
        assert archive.facts(site.dir(head), segment) is not None


async def test_unlinked_segments_survive_a_dead_cell(site: Any) -> None:
    """The slot holds them in pg_wal, whatever checkpoints would remove, until somebody links them."""
    head = site.create()
    site.settings = {"max_wal_size": "2MB"}
    await site.start(head)
    await site.advance(head)
    await site.write(head, 1, 2, 3, bulk=3 * WAL_SEGMENT_BYTES)
    async with site.session(head) as connection:
        await connection.execute("checkpoint")
        await connection.execute("checkpoint")
    await site.stop(head)
    assert archive.gaps(archive.segments(site.dir(head), 1), site.history(head).oldest().lsn) == []


async def test_a_bounded_slot_leaves_a_gap_that_is_told(site: Any) -> None:
    head = site.create()
    site.settings = {"max_wal_size": "2MB", "max_slot_wal_keep_size": "3MB"}
    await site.start(head)
    await site.advance(head)
    rows = await site.write(head, *range(4), bulk=4 * WAL_SEGMENT_BYTES)
    async with site.session(head) as connection:
        await connection.execute("checkpoint")
    written = await site.write(head, 99)
    await site.stop(head)
    (gap,) = site.history(head).gaps(site.history(head).oldest().lsn)
    assert gap.start < gap.end
    with pytest.raises(HistoryGap):
        site.history(head).at_time(rows[0].time)
    with pytest.raises(HistoryGap):
        site.history(head).plan(site.history(head).at_lsn(written[0].lsn))


@pytest.mark.parametrize("whole_group", [True, False])
async def test_after_kill_9_the_log_goes_on_without_a_gap(site: Any, whole_group: bool) -> None:
    head = site.create()
    await site.start(head)
    await site.write(head, 1, bulk=WAL_SEGMENT_BYTES)
    await site.advance(head)
    await site.write(head, 2, bulk=WAL_SEGMENT_BYTES)
    running = site.running.pop(head)
    group = [running.identity, *child.descendants(running.identity)] if whole_group else [running.identity]
    for identity in group:
        child.kill(identity, signal.SIGKILL)
    for identity in group:
        assert await child.wait_exit(identity, 10)
    site.link(head)  # of a crashed head
    await site.start(head)  # recovers in the same segment
    assert await site.numbers(head) == [1, 2]
    written = await site.write(head, 3, bulk=2 * WAL_SEGMENT_BYTES)
    await site.stop(head)
    assert site.history(head).gaps(site.history(head).oldest().lsn) == []
    child_head, _ = await site.recover(head, site.history(head).at_lsn(written[0].lsn))
    assert await site.numbers(child_head) == [1, 2, 3]


async def test_a_full_disk_is_the_operators(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = site.create()
    await site.start(head)

    def full(source: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "make_hard_link", full)
    with pytest.raises(OperatorError, match="full"):
        site.link(head)
    monkeypatch.undo()
    assert site.link(head).linked


def test_numbers_and_positions_agree() -> None:
    assert number_of(Segment(1, 7).start) == number_of(Lsn(Segment(1, 7).end - 1)) == 7
