"""Branches of the present: the same rows, then each its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.storage import archive, fork
from tenantry.cell.storage.clone import CopyFileRange, Reflink
from tenantry.cell.storage.lineage import start_of
from tenantry.errors import Unavailable
from tenantry.neon.ids import HeadId
from tenantry.postgres.template import WAL_SEGMENT_BYTES


async def check(site: Any, head: HeadId) -> None:
    """Postgres' own checks of every index and heap page."""
    async with site.session(head) as connection:
        await connection.execute("create extension if not exists amcheck")
        await connection.execute(
            "select bt_index_check(c.oid, true) from pg_index i join pg_class c on c.oid = i.indexrelid"
            " join pg_am a on a.oid = c.relam where a.amname = 'btree' and c.relpersistence = 'p'"
        )
        rows = await connection.execute(
            "select (verify_heapam(oid)).msg from pg_class where relkind in ('r', 't') and relpersistence = 'p'"
        )
        assert await rows.fetchall() == []


async def test_branch_of_a_sleeping_parent(site: Any) -> None:
    parent = site.create()
    await site.start(parent)
    await site.write(parent, 1, 2)
    await site.stop(parent)
    branch = await site.branch(parent)
    assert site.heads[branch].timeline == 1
    await site.start(branch)
    await site.start(parent)
    assert await site.numbers(branch) == [1, 2]
    await site.write(branch, 10)
    await site.write(parent, 20)
    assert (await site.numbers(branch), await site.numbers(parent)) == ([1, 2, 10], [1, 2, 20])
    log = Path(site.directory / f"{branch}.log").read_text()
    assert "redo" not in log  # nothing to recover


async def test_branch_of_a_branch_never_started(site: Any) -> None:
    parent = site.create()
    await site.start(parent)
    await site.write(parent, 1)
    await site.stop(parent)
    branch = await site.branch(parent)
    second = await site.branch(branch)
    assert site.heads[second].origin_lsn == site.heads[branch].origin_lsn
    await site.start(second)
    assert await site.numbers(second) == [1]
    written = await site.write(second, 2, 3)
    past, _ = await site.recover(second, site.history(second).at_lsn(written[0].lsn))
    assert await site.numbers(past) == [1, 2]


async def test_a_fresh_head_can_be_branched_before_its_first_start(site: Any) -> None:
    branch = await site.branch(site.create())
    await site.start(branch)
    assert await site.numbers(branch) == []


async def test_logs_of_parent_and_child_stay_apart(site: Any) -> None:
    """They have the same timeline and the same segment names."""
    parent = site.create()
    await site.start(parent)
    await site.write(parent, 1)
    await site.stop(parent)
    branch = await site.branch(parent)
    await site.start(branch)
    await site.start(parent)
    for head, number in ((parent, 2), (branch, 3)):
        await site.write(head, number, bulk=2 * WAL_SEGMENT_BYTES)
        await site.stop(head)
    kept = {head: archive.segments(site.dir(head), 1) for head in (parent, branch)}
    shared = kept[parent].keys() & kept[branch].keys()
    assert len(shared) >= 2
    twins = [[site.dir(head) / "wal" / kept[head][number].name for head in kept] for number in shared]
    assert not any(os.path.samefile(*pair) for pair in twins)
    assert any(one.read_bytes() != other.read_bytes() for one, other in twins)
    first = min(kept[branch])
    assert first == start_of(site.heads[branch]) // WAL_SEGMENT_BYTES
    with_origin = [(site.dir(head) / "wal" / kept[head][first].name).read_bytes() for head in kept]
    upto = start_of(site.heads[branch]) % WAL_SEGMENT_BYTES
    assert with_origin[0][:upto] == with_origin[1][:upto]


async def test_branch_of_a_running_parent_has_every_acknowledged_commit(site: Any) -> None:
    parent = site.create()
    site.settings = {"fsync": "on", "max_wal_size": "4MB"}
    await site.start(parent)
    await site.write(parent, 0)
    acknowledged: list[set[int]] = [set() for _ in range(3)]

    async def load(worker: int) -> None:
        async with site.session(parent) as connection:
            for number in range(1 + worker * 1_000_000, (worker + 1) * 1_000_000):
                await connection.execute("insert into t values (%s)", (number,))
                acknowledged[worker].add(number)

    writers = [asyncio.create_task(load(worker)) for worker in range(3)]
    try:
        for _ in range(2):
            await site.until(lambda: min(map(len, acknowledged)) >= 20)
            before = set().union(*acknowledged, {0})
            branch = await site.branch(parent)
            for done in acknowledged:
                done.clear()
            await site.until(lambda: all(acknowledged))  # the parent goes on
            await site.start(branch)
            assert before <= set(await site.numbers(branch))
            await check(site, branch)
            written = await site.write(branch, -1)
            await site.stop(branch)
            past, _ = await site.recover(branch, site.history(branch).at_lsn(written[0].lsn))
            assert -1 in await site.numbers(past)
            await site.stop(past)
            for done in acknowledged:
                done.update(before)
    finally:
        for writer in writers:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError, psycopg.Error):
                await writer


async def test_the_origin_of_a_running_branch_is_where_its_recovery_ends(site: Any) -> None:
    parent = site.create()
    await site.start(parent)
    await site.write(parent, *range(5), bulk=300_000)
    branch = await site.branch(parent)
    origin = start_of(site.heads[branch])
    await site.start(branch)
    log = (site.directory / f"{branch}.log").read_text()
    end = site.history(branch).end()
    assert "database system was not properly shut down" in log
    assert end > origin
    assert site.history(branch).at_lsn(origin).lsn in (origin, origin + 24, origin + 40)
    past, _ = await site.recover(branch, site.history(branch).at_lsn(origin))
    assert await site.numbers(past) == list(range(5))
    assert start_of(site.heads[past]) == origin


async def test_a_parent_in_the_wrong_state_is_refused(site: Any) -> None:
    parent = site.create()
    await site.start(parent)
    child_dir = site.directory / "child"
    places = (site.driver, site.heads[parent], site.dir(parent), child_dir)
    with pytest.raises(Unavailable, match="running"):
        await asyncio.to_thread(fork.fork_sleeping, *places, owner=None)
    identity = site.running[parent].identity
    await site.stop(parent, mode="immediate")
    with pytest.raises(Unavailable, match="cleanly"):
        await asyncio.to_thread(fork.fork_sleeping, *places, owner=None)
    with pytest.raises(Unavailable, match="gone"):
        await asyncio.to_thread(fork.fork_running, *places, instance=identity, owner=None)
    assert not child_dir.exists()


def test_only_what_is_copied_in_a_moment_is_held_still() -> None:
    assert fork.may_hold_still(Reflink(), 1 << 40)
    assert fork.may_hold_still(CopyFileRange(), 15 * 1024 * 1024)
    assert not fork.may_hold_still(CopyFileRange(), 1 << 30)
