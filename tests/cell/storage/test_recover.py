"""Heads from the past, compared with what was written; and what happens when their history is not what it was."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.storage import archive, bases, recover
from tenantry.cell.storage.clone import ReadWrite, regular_files
from tenantry.cell.storage.history import Point
from tenantry.cell.storage.lineage import start_of
from tenantry.cell.storage.segments import Segment
from tenantry.errors import Defect, HistoryDamaged, HistoryGap, OperatorError, StartFailed
from tenantry.neon.ids import HeadId, new_head_id
from tenantry.postgres import postmaster
from tenantry.postgres.lsn import Lsn, format_lsn
from tenantry.postgres.template import WAL_SEGMENT_BYTES

SEED = int(os.environ.get("TENANTRY_SEED", "20301"))


async def holds(site: Any, head: HeadId, expected: Sequence[int]) -> None:
    """The running head has exactly these rows, and can be written to."""
    assert await site.numbers(head) == list(expected)
    await site.write(head, -1)
    await site.stop(head)


async def test_points_all_over_a_history(site: Any) -> None:
    """Times and positions, before, between and after; across bases, sleeps and segments, of a head that goes on."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    head = site.create()
    written: list[Any] = []
    for round_ in range(3):
        await site.start(head)
        for n in range(round_ * 4, round_ * 4 + 4):
            written += await site.write(head, n, bulk=chance.choice([0, 70_000, 1_500_000]))
            if chance.random() < 0.5:
                await site.advance(head)
        if round_ < 2:
            await site.stop(head)
        if round_ == 0:
            assert site.take_base(head) is not None
    rows = [row.n for row in written]
    for index in chance.sample(range(len(rows)), 3):
        by_time = written[index].time + timedelta(microseconds=chance.choice([0, 1]))
        child = await site.restore(head, by_time)
        await holds(site, child, rows[: index + 1])
        child, recovered = await site.recover(head, site.history(head).at_lsn(written[index].lsn))
        assert recovered.plan.base.number == (2 if index > 3 else 1)
        await holds(site, child, rows[: index + 1])
    child = await site.restore(head, written[0].time - timedelta(minutes=1))
    await holds(site, child, [])
    child = await site.restore(head, written[-1].time + timedelta(minutes=1))
    await holds(site, child, rows)
    assert await site.numbers(head) == rows  # nobody noticed


async def test_a_sleep_gap_is_the_state_of_falling_asleep(site: Any) -> None:
    head = site.create()
    await site.start(head)
    (one,) = await site.write(head, 1)
    await site.stop(head)
    await site.start(head)
    await site.write(head, 2)
    child = await site.restore(head, one.time + timedelta(milliseconds=1))
    await holds(site, child, [1])


async def test_two_restores_of_one_head_and_restores_of_those(site: Any) -> None:
    """Both make a timeline 2; their pasts, before and after they departed, stay apart."""
    head = site.create()
    await site.start(head)
    written = await site.write(head, 1, 2, 3)
    first = await site.restore(head, written[0].time)
    second = await site.restore(head, written[1].time)
    assert site.heads[first].timeline == site.heads[second].timeline == 2
    await site.write(head, 4)
    in_first = await site.write(first, 10, 11, bulk=WAL_SEGMENT_BYTES)
    in_second = await site.write(second, 20, 21, bulk=WAL_SEGMENT_BYTES)
    after = await site.restore(first, in_first[0].time)
    assert site.heads[after].timeline == 3
    await holds(site, after, [1, 10])
    await holds(site, await site.restore(second, in_second[0].time), [1, 2, 20])
    before = await site.restore(second, written[0].time)
    assert (site.heads[before].origin_head_id, site.heads[before].timeline) == (head, 2)
    await holds(site, before, [1])
    await holds(site, await site.restore(first, written[0].time - timedelta(minutes=1)), [])
    await site.stop(second)
    branch = await site.branch(second)
    await site.start(branch)
    in_branch = await site.write(branch, 30, 31)
    await holds(site, await site.restore(branch, in_branch[0].time), [1, 2, 20, 21, 30])
    await holds(site, await site.restore(branch, in_second[0].time), [1, 2, 20])
    await holds(site, await site.restore(branch, written[0].time), [1])


async def test_a_restored_head_survives_a_crash_at_once(site: Any) -> None:
    """Its control file may still know only the parent's timeline."""
    head = site.create()
    await site.start(head)
    written = await site.write(head, 1, 2, 3)
    child = await site.restore(head, written[1].time)
    await site.write(child, 9)
    branch = await site.branch(child)
    await site.stop(child, mode="immediate")
    await site.start(child)
    assert await site.numbers(child) == [1, 2, 9]
    await site.start(branch)
    assert await site.numbers(branch) == [1, 2, 9]
    (later,) = await site.write(branch, 10)
    await site.write(branch, 11)
    await holds(site, await site.restore(branch, later.time), [1, 2, 9, 10])


async def test_restore_during_writes(site: Any) -> None:
    head = site.create()
    await site.start(head)
    await site.write(head, 0)
    done: list[Any] = []

    async def load() -> None:
        for number in range(1, 1_000_000):
            done.extend(await site.write(head, number))

    writer = asyncio.create_task(load())
    try:
        for _ in range(2):
            count = len(done)
            await site.until(lambda count=count: len(done) >= count + 3)
            last = done[-1]
            child = await site.restore(head, last.time)
            assert await site.numbers(child) == list(range(last.n + 1))
            await site.stop(child)
            end = await asyncio.to_thread(site.history(head).end)
            count = len(done)
            point = await asyncio.to_thread(site.history(head).at_lsn, end)
            child, _ = await site.recover(head, point)
            found = await site.numbers(child)
            assert found == list(range(len(found)))
            assert len(found) >= count
            await site.stop(child)
    finally:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError, psycopg.Error):
            await writer


async def test_the_end_is_reached_where_the_log_went_on_meanwhile(site: Any) -> None:
    """The point was the end of the log when it was found, and is not when the log is copied."""
    head = site.create()
    await site.start(head)
    await site.write(head, 1)
    point = site.history(head).at_lsn(site.history(head).end())
    assert point.record_end is None
    await site.write(head, 2)
    child, _ = await site.recover(head, point)
    await holds(site, child, [1])


async def test_a_snapshot_outlives_the_log_behind_it(site: Any) -> None:
    """Only the segments that lead to it are left; the record that begins at it may be cut off."""
    head = site.create()
    await site.start(head)
    written = await site.write(head, 1, 2, bulk=400_000)
    async with site.session(head) as connection:
        await connection.execute("select pg_logical_emit_message(false, 'long', repeat('x', 3000000))")
    await site.write(head, 3)
    await site.stop(head)
    kept = archive.segments(site.dir(head), 1)
    archive.delete(site.dir(head), [s for s in kept.values() if s.start > written[-1].lsn])
    for path in (site.dir(head) / "data" / "pg_wal").glob("0*"):
        path.unlink()
    child, recovered = await site.recover(head, site.history(head).at_lsn(written[-1].lsn))
    assert recovered.origin_lsn <= written[-1].lsn
    await holds(site, child, [1, 2])


async def test_another_major_does_all_of_it(site_15: Any) -> None:
    site = site_15
    head = site.create()
    await site.start(head)
    written = await site.write(head, 1, 2, 3, bulk=600_000)
    base = await site.take_running_base(head)
    branch = await site.branch(head)
    written += await site.write(head, 4, 5)
    await site.advance(head)
    await site.start(branch)
    await holds(site, branch, [1, 2, 3])
    await holds(site, await site.restore(head, written[0].time), [1])
    child, recovered = await site.recover(head, site.history(head).at_lsn(written[3].lsn))
    assert recovered.plan.base == base
    in_child = await site.write(child, 9)
    await site.stop(child)
    assert site.take_base(child) is not None
    await site.start(child)
    await holds(site, await site.restore(child, in_child[0].time), [1, 2, 3, 4, 9])


# ---------------------------------------------------------------------------------------- damage


@pytest.fixture
async def long_log(site: Any) -> tuple[HeadId, list[Any]]:
    """A sleeping head with rows 1 to 4, more than a segment of log before each."""
    head = site.create()
    await site.start(head)
    written = await site.write(head, 1, 2, 3, 4, bulk=1_200_000)
    await site.stop(head)
    return head, written


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 8
    path.write_bytes(content)


async def test_a_flipped_bit_in_a_closed_segment_stops_what_needs_it(
    site: Any, long_log: tuple[HeadId, list[Any]]
) -> None:
    head, written = long_log
    name = Segment(1, written[2].lsn // WAL_SEGMENT_BYTES - 1).name
    flip(site.dir(head) / "wal" / name, 777_777)
    with pytest.raises(HistoryDamaged, match=name):
        await site.recover(head, site.history(head).at_lsn(written[2].lsn))
    assert set(site.directory.glob("head-*")) == {site.dir(head), site.directory / f"{head}.log"}
    child, _ = await site.recover(head, site.history(head).at_lsn(written[0].lsn))
    await holds(site, child, [1])
    await site.start(head)
    assert await site.numbers(head) == [1, 2, 3, 4]  # the tenant is served


async def test_a_flipped_bit_in_the_open_segment_is_found_by_the_replay(
    site: Any, long_log: tuple[HeadId, list[Any]]
) -> None:
    head, written = long_log
    # In the message before the last commit: ours reads past it, Postgres does not.
    number, offset = divmod(written[-1].lsn - 80_000, WAL_SEGMENT_BYTES)
    open_ = max(archive.segments(site.dir(head), 1))
    if number != open_:
        number, offset = open_, 5_000
    point = site.history(head).at_lsn(written[-1].lsn)
    flip(site.dir(head) / "wal" / Segment(1, number).name, offset)
    with pytest.raises(HistoryDamaged, match="not what was written"):
        await site.recover(head, point)
    end = dataclasses.replace(point, record_end=None)
    with pytest.raises(HistoryDamaged, match="not what was written"):
        await site.recover(head, end)
    assert set(site.directory.glob("head-*")) == {site.dir(head), site.directory / f"{head}.log"} | set(
        site.directory.glob("head-*.log")
    )


async def test_a_missing_segment_is_named(site: Any, long_log: tuple[HeadId, list[Any]]) -> None:
    head, written = long_log
    point = site.history(head).at_lsn(written[3].lsn)
    segment = Segment(1, written[1].lsn // WAL_SEGMENT_BYTES)
    for place in ("wal", "data/pg_wal"):
        (site.dir(head) / place / segment.name).unlink()
    with pytest.raises(HistoryGap, match=segment.name):
        await site.recover(head, point)


async def test_a_damaged_base_gives_way_to_an_older_one(site: Any, long_log: tuple[HeadId, list[Any]]) -> None:
    head, written = long_log
    base = site.take_base(head)
    await site.start(head)
    (five,) = await site.write(head, 5)
    flip(site.dir(head) / "bases" / base.directory_name / "data" / "global" / "pg_control", 30)
    child, recovered = await site.recover(head, site.history(head).at_lsn(five.lsn))
    assert recovered.plan.base.number == 1
    await holds(site, child, [*(row.n for row in written), 5])
    bases.delete(site.dir(head), 1)
    with pytest.raises(HistoryDamaged, match="pg_control of base 2"):
        await site.recover(head, site.history(head).at_lsn(five.lsn))


async def test_another_template_is_not_taken_for_the_first_base(site: Any) -> None:
    head = site.create()
    await site.start(head)
    (one,) = await site.write(head, 1)
    path = site.dir(head) / "bases" / "000001" / "base.json"
    path.write_text(path.read_text().replace(bases.bases(site.dir(head))[0].digest, "0" * 64))
    with pytest.raises(HistoryDamaged, match="template"):
        await site.recover(head, site.history(head).at_lsn(one.lsn))


async def test_a_gone_template_is_the_operators(site: Any) -> None:
    head = site.create()
    await site.start(head)
    (one,) = await site.write(head, 1)

    def gone(base: bases.Base) -> Any:
        raise OperatorError(f"the template of {base.build_id} is gone")

    with pytest.raises(OperatorError, match="gone"):
        await site.recover(
            head,
            site.history(head).at_lsn(one.lsn),
            workshop=dataclasses.replace(site.workshop, template_of=gone),
        )


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    place.mkdir()
    options = f"size={size},mode=0711"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("a small disk cannot be mounted here (needs root with CAP_SYS_ADMIN)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


@pytest.mark.parametrize("missing", [10_000_000, 0, -200_000, -700_000])
async def test_a_full_disk_is_the_operators_and_leaves_nothing(site: Any, sleeping: HeadId, missing: int) -> None:
    """Too little for the files, for the log, and for what Postgres writes while it recovers."""
    point = site.history(sleeping).at_lsn(site.history(sleeping).end())
    place, name = site.directory / "disk", new_head_id()
    files = sum(-(-size // 4096) * 4096 for _, size in regular_files(site.dir(sleeping) / "data"))
    with small_disk(place, files - missing):
        with pytest.raises(OperatorError, match="full"):
            await site.recover(
                sleeping, point, name, head_dir=place / name,
                workshop=dataclasses.replace(site.workshop, driver=ReadWrite()),
            )  # fmt: skip
        assert list(place.iterdir()) == []


async def test_a_failed_start_leaves_nothing(site: Any) -> None:
    head = site.create()
    await site.start(head)
    (one,) = await site.write(head, 1)
    point = site.history(head).at_lsn(one.lsn)
    with pytest.raises(StartFailed):
        await site.recover(head, point, settings={"shared_buffers": "nonsense"})
    before = set(site.directory.iterdir())
    task = asyncio.create_task(site.recover(head, point))
    await site.until(lambda: set(site.directory.iterdir()) != before)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = {path.name for path in site.directory.glob("head-*") if path.suffix != ".log"}
    assert left == {head}


# ---------------------------------------------------------------------------------------- a killed cell

SCRIPT = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from tenantry.cell.model import Head
from tenantry.cell.storage import fork, recover
from tenantry.cell.storage.clone import probe
from tenantry.cell.storage.history import History
from tenantry.postgres import conf, engines
from tenantry.postgres.lsn import parse_lsn
from tenantry.postgres.template import build_template

top, name, engines_dir, templates, child, lsn, what = sys.argv[1:]
top, child = Path(top), Path(child)
owner = (65534, 65534) if os.geteuid() == 0 else None
engine = engines.choose(engines.discover(extra_dirs=[Path(engines_dir)]), 18)
head = Head(id=name, project_id="p", branch_id="b", build_id=engine.build_id, created_at=datetime.now(UTC))
driver = probe(top)
if what == "fork":
    fork.fork_sleeping(driver, head, top / name, child, owner=owner)
else:
    template = build_template(engine, Path(templates), uid=65534 if owner else None, gid=65534 if owner else None)
    history = History(name, heads={name: head}, directory_of=lambda i: top / i)
    asyncio.run(recover.recover(
        history, history.at_lsn(parse_lsn(lsn)),
        workshop=recover.Workshop(driver=driver, directory_of=lambda i: top / i, template_of=lambda base: template),
        engine=engine, head_dir=child, socket_dir=Path(f"{child}.s"), settings=conf.lean_settings(0.25, 18),
        owner=owner, log_path=Path(f"{child}.log"), timeout_seconds=60,
    ))
"""


@pytest.mark.parametrize("step", ["recover.laid_out", "recover.promoted", "recover.checked", "fork.copied"])
async def test_a_killed_cell_begins_again(site: Any, sleeping: HeadId, shared_engines: Path, step: str) -> None:
    end = site.history(sleeping).end()
    child = new_head_id()
    what = step.partition(".")[0]
    arguments = [site.directory, sleeping, shared_engines / "engines", shared_engines / "templates", site.dir(child)]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT, *map(str, arguments), format_lsn(end), what],
        env={**os.environ, "TENANTRY_FAILPOINTS": f"{step}=kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert site.dir(child).exists()
    orphan = await asyncio.to_thread(postmaster.adopt, site.dir(child) / "data", Path(f"{site.dir(child)}.s"))
    assert (orphan is not None) == (step in ("recover.promoted", "recover.checked"))
    options: dict[str, Any] = {"socket_dir": Path(f"{site.dir(child)}.s")}
    if what == "fork":
        made = await site.branch(sleeping, child)
        await site.start(made)
        await holds(site, made, [1, 2])
    else:
        made, _ = await site.recover(sleeping, site.history(sleeping).at_lsn(end), child, **options)
        assert postmaster.running_in(site.dir(child) / "data")
        async with site.session(made, socket_dir=options["socket_dir"]) as connection:
            rows = await (await connection.execute("select n from t order by n")).fetchall()
        assert rows == [(1,), (2,)]
    assert start_of(site.heads[made]) == end


def test_recovery_goes_by_position_and_never_further() -> None:
    settings = recover.recovery_settings(3, Lsn(0x1_0000_0028))
    assert settings["recovery_target_lsn"] == "1/28"
    assert settings["recovery_target_inclusive"] == "off"
    assert settings["recovery_target_timeline"] == "3"
    assert not any("time" in name.removeprefix("recovery_target_timeline") for name in settings)
    assert "recovery_target_lsn" not in recover.recovery_settings(3, None)


async def test_a_point_of_somebody_else_is_refused(site: Any, sleeping: HeadId) -> None:
    with pytest.raises(Defect, match="not in the past"):
        await site.recover(sleeping, Point(HeadId("other"), site.history(sleeping).end(), None, None))
