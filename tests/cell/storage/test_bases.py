"""Base images: whole, of a head that stood still, and unchanged when they are used."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.storage import bases, sizes
from tenantry.cell.storage.clone import ReadWrite
from tenantry.errors import HistoryDamaged, InvalidInput, OperatorError
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn

MIB = 1024 * 1024


def test_a_base_is_due_when_replay_would_be_long() -> None:
    assert not bases.due(bases.BASE_WAL_BYTES_MIN, 15 * MIB)
    assert bases.due(bases.BASE_WAL_BYTES_MIN + 1, 15 * MIB)
    assert not bases.due(400 * MIB, 1000 * MIB)
    assert bases.due(501 * MIB, 1000 * MIB)


async def test_a_base_is_the_head_as_it_sleeps(site: Any, sleeping: HeadId) -> None:
    first, second = bases.bases(site.dir(sleeping))[0], site.take_base(sleeping)
    assert (first.kind, first.number, first.bytes) == ("template", 1, 0)
    assert (second.kind, second.number) == ("cold", 2)
    assert second.lsn > first.usable_from
    assert second.usable_from == site.history(sleeping).end()
    assert second.last_commit == site.history(sleeping).last_commit() > first.last_commit
    assert bases.bases(site.dir(sleeping)) == [first, second]
    assert second.bytes == sizes.head_bytes(site.dir(sleeping) / "bases" / "000002")
    bases.verify(site.dir(sleeping), second)
    bases.verify(site.dir(sleeping), first)
    owners = {path.lstat().st_uid for path in (site.dir(sleeping) / "bases").rglob("*")}
    assert owners == {os.geteuid()}  # the tenant cannot reach them


@pytest.mark.parametrize("harm", ["flip", "shorten", "remove", "add", "manifest"])
async def test_a_changed_base_is_told_with_the_file(site: Any, sleeping: HeadId, harm: str) -> None:
    base = site.take_base(sleeping)
    directory = site.dir(sleeping) / "bases" / "000002"
    name = "data/global/pg_control"
    path = directory / name
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[100] ^= 4
        path.write_bytes(content)
    elif harm == "shorten":
        path.write_bytes(content[:-1])
    elif harm == "remove":
        path.unlink()
    elif harm == "add":
        name = "data/base/new"
        (directory / name).write_text("")
    else:
        name = "files.json"
        (directory / name).write_text((directory / name).read_text() + " ")
    with pytest.raises(HistoryDamaged, match=name) as raised:
        bases.verify(site.dir(sleeping), base)
    assert raised.value.fields["file"] == name


async def test_a_wake_discards_the_base_that_is_being_taken(site: Any, sleeping: HeadId) -> None:
    calls = iter(range(100))
    assert site.take_base(sleeping, interrupted=lambda: next(calls) > 20) is None
    assert [base.number for base in bases.bases(site.dir(sleeping))] == [1]
    assert [path.name for path in (site.dir(sleeping) / "bases").iterdir()] == ["000001"]


@pytest.mark.parametrize("stopped_again", [True, False])
async def test_a_start_that_nobody_told_of_discards_it_too(
    site: Any, sleeping: HeadId, monkeypatch: pytest.MonkeyPatch, stopped_again: bool
) -> None:
    loop = asyncio.get_running_loop()
    started = False

    def clone(source: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal started
        if not started:
            started = True
            asyncio.run_coroutine_threadsafe(site.start(sleeping), loop).result()
            if stopped_again:
                asyncio.run_coroutine_threadsafe(site.stop(sleeping), loop).result()
        return original(source, *arguments, **options)

    original = bases.clone_data
    monkeypatch.setattr(bases, "clone_data", clone)
    assert await asyncio.to_thread(site.take_base, sleeping) is None
    assert [base.number for base in bases.bases(site.dir(sleeping))] == [1]


async def test_a_base_never_has_a_commit_that_is_later_than_it_says(site: Any, sleeping: HeadId) -> None:
    loop = asyncio.get_running_loop()

    def last_commit() -> datetime:
        found = site.history(sleeping).last_commit()
        for step in (site.start(sleeping), site.write(sleeping, 99), site.stop(sleeping)):
            asyncio.run_coroutine_threadsafe(step, loop).result()
        return found

    now = datetime.now(UTC)
    taken = await asyncio.to_thread(
        bases.take_cold_base,
        site.driver,
        site.dir(sleeping),
        build_id=site.heads[sleeping].build_id,
        last_commit=last_commit,
        now=now,
    )
    assert taken is None


async def test_only_a_cleanly_stopped_head_gives_a_base(site: Any) -> None:
    head = site.create()
    await site.start(head)
    assert site.take_base(head) is None
    await site.stop(head, mode="immediate")
    assert site.take_base(head) is None


async def test_a_base_of_an_instance_that_never_sleeps(site: Any) -> None:
    """It is written to all the time, and relations come and go while they are copied."""
    head = site.create()
    await site.start(head)
    await site.write(head, 0)
    done: list[Any] = []

    async def load() -> None:
        for number in range(1, 1_000_000):
            done.extend(await site.write(head, number, bulk=65536))
            async with site.session(head) as connection:
                await connection.execute("create table fleeting as select generate_series(1, 1000) as n")
                await connection.execute("drop table fleeting")

    writer = asyncio.create_task(load())
    try:
        await site.until(lambda: len(done) >= 2)
        base = await site.take_running_base(head)
        count = len(done)
        await site.until(lambda: len(done) >= count + 3)
    finally:
        writer.cancel()
        with contextlib.suppress(asyncio.CancelledError, psycopg.Error):
            await writer
    assert base.lsn < base.usable_from
    await asyncio.to_thread(bases.verify, site.dir(head), base)
    bases.delete(site.dir(head), 1)
    assert bases.bases(site.dir(head)) == [base]
    with pytest.raises(InvalidInput, match="before the history"):
        site.history(head).at_lsn(Lsn(base.usable_from - 8))
    for row in (done[-1], next(row for row in done if row.lsn >= base.usable_from)):
        child, recovered = await site.recover(head, site.history(head).at_lsn(row.lsn))
        assert recovered.plan.base == base
        assert await site.numbers(child) == list(range(row.n + 1))
        await site.stop(child)
    child, _ = await site.recover(head, site.history(head).at_lsn(base.usable_from))
    await site.write(child, -1)
    assert (site.dir(head) / "bases").exists()


async def test_a_running_base_that_fails_leaves_nothing(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head = site.create()
    await site.start(head)
    await site.write(head, 0)

    async def failing(message: str, error: Exception) -> None:
        def fail(*_: Any) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(bases, "_write_manifest", fail)
            with pytest.raises(OperatorError, match=message):
                await site.take_running_base(head)

    await failing("disk is full", OSError(errno.ENOSPC, "x"))
    task = asyncio.create_task(site.take_running_base(head))
    await site.until((site.dir(head) / "bases" / "000002").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [path.name for path in (site.dir(head) / "bases").iterdir()] == ["000001"]
    assert (await site.take_running_base(head)).number == 2  # no backup is under way
    assert await site.numbers(head) == [0]


async def test_a_deleted_base_is_gone_at_once(site: Any, sleeping: HeadId) -> None:
    site.take_base(sleeping)
    bases.delete(site.dir(sleeping), 2)
    bases.delete(site.dir(sleeping), 2)
    assert [base.number for base in bases.bases(site.dir(sleeping))] == [1]
    again = site.take_base(sleeping)
    assert again.number == 2


async def test_a_full_disk_leaves_no_base(site: Any, sleeping: HeadId) -> None:
    place = site.dir(sleeping) / "bases"
    shutil.move(place / "000001", site.directory / "kept")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "none", place], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("a small disk cannot be mounted here (needs root with CAP_SYS_ADMIN)")
    try:
        with pytest.raises(OperatorError, match="disk is full"):
            bases.take_cold_base(
                ReadWrite(),
                site.dir(sleeping),
                build_id=site.heads[sleeping].build_id,
                last_commit=lambda: site.heads[sleeping].created_at,
                now=site.heads[sleeping].created_at,
            )
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", place], check=True)


SCRIPT = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from tenantry.cell.storage import bases
from tenantry.cell.storage.clone import probe
sleeping = Path(sys.argv[1])
now = datetime.now(UTC)
bases.take_cold_base(probe(sleeping), sleeping, build_id="x", last_commit=lambda: now, now=now)
"""


@pytest.mark.parametrize("step", ["base.cloned", "base.synced"])
async def test_a_killed_cell_leaves_no_base_and_no_litter(site: Any, sleeping: HeadId, step: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(site.dir(sleeping))],
        env={**os.environ, "TENANTRY_FAILPOINTS": f"{step}=kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert [base.number for base in bases.bases(site.dir(sleeping))] == [1]
    taken = site.take_base(sleeping)
    assert taken.number == 3
    assert bases.delete_unfinished(site.dir(sleeping)) == 1
    assert sorted(path.name for path in (site.dir(sleeping) / "bases").iterdir()) == ["000001", "000003"]
    bases.verify(site.dir(sleeping), taken)


async def test_sizes_are_those_that_postgres_tells(site: Any) -> None:
    head = site.create()
    await site.start(head)
    await site.write(head, 1, 2, 3)
    async with site.session(head) as connection:
        await connection.execute("checkpoint")
        row = await (await connection.execute("select sum(pg_database_size(oid))::bigint from pg_database")).fetchone()
    data = site.dir(head) / "data"
    assert row == (sizes.logical_bytes(data),)
    await site.stop(head)
    before = sizes.history_bytes(site.dir(head))
    taken = site.take_base(head)
    assert sizes.history_bytes(site.dir(head)) - before >= taken.bytes
    assert sizes.head_bytes(site.dir(head)) == sum(path.lstat().st_size for path in data.rglob("*") if path.is_file())
    assert sizes.history_bytes(Path(site.directory / "nothing")) == 0
