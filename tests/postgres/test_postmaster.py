"""Starting, stopping, adopting; and what is left when someone is killed in between: nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import psycopg
import pytest
import uvloop

from tenantry.errors import Conflict, OperatorError, StartFailed
from tenantry.postgres import conf, control, postmaster
from tenantry.postgres.engines import Engine
from tenantry.postgres.postmaster import Postmaster
from tenantry.postgres.template import ADMIN_ROLE, Template
from tenantry.runtime import child, files
from tenantry.runtime.child import Identity

from .conftest import ROOT, Connect, StartInstance


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


def free(data: Path) -> bool:
    """Whether nobody holds the directory's lock."""
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return files.try_lock(descriptor)
    finally:
        os.close(descriptor)


async def all_gone(data: Path) -> None:
    await until(lambda: not postmaster.running_in(data))
    assert free(data)


# ------------------------------------------------------------------------------------------------ the good way


async def test_it_starts_is_found_and_stops(
    data: Path, start: StartInstance, connect: Connect, workdir: Path, owner: files.Owner | None
) -> None:
    running = await start(data)
    assert running.socket_path == workdir / "s" / postmaster.SOCKET_NAME
    with connect() as session:
        session.execute("CREATE TABLE t (a int)")
        session.execute("INSERT INTO t VALUES (1)")
        assert session.execute("SHOW data_directory").fetchone() == (str(data),)
    members = [one for one in postmaster.running_in(data) if child.alive(one)]
    below = child.descendants(running.identity)
    assert running.identity in members
    assert len(members) >= 5
    assert {one for one in members if child.alive(one)} <= {running.identity, *below}
    for member in members:
        if member in (running.identity, below[0]):
            status = Path(f"/proc/{member.pid}").stat()
            assert (status.st_uid, status.st_gid) == (owner or (os.geteuid(), os.getegid()))
            assert "Groups:\t \n" in Path(f"/proc/{member.pid}/status").read_text() or not ROOT
    directory = (workdir / "s").stat()
    assert stat.S_IMODE(directory.st_mode) == 0o700
    assert (directory.st_uid, directory.st_gid) == (owner or (os.geteuid(), os.getegid()))
    assert stat.S_IMODE(running.socket_path.stat().st_mode) == 0o700
    assert not free(data)
    assert postmaster.adopt(data, workdir / "s") == running
    with pytest.raises(Conflict, match=str(running.identity.pid)):
        await start(data)
    assert child.alive(running.identity)
    assert await postmaster.stop(running, mode="fast", timeout_seconds=30) == "fast"
    assert await postmaster.stop(running, mode="fast", timeout_seconds=30) == "gone"
    await all_gone(data)
    assert control.clean_shutdown(data)
    assert postmaster.adopt(data, workdir / "s") is None
    assert list((workdir / "s").iterdir()) == []
    await start(data)
    with connect() as session:
        assert session.execute("SELECT * FROM t").fetchall() == [(1,)]


def test_it_works_on_uvloop(data: Path, workdir: Path, engine: Engine, owner: files.Owner | None) -> None:
    async def scenario() -> None:
        running = await postmaster.start(
            engine, data, socket_dir=workdir / "s", settings=conf.lean_settings(8, engine.major), owner=owner,
            log_path=workdir / "log", timeout_seconds=60,
        )  # fmt: skip
        assert await postmaster.stop(running, mode="smart", timeout_seconds=30) == "smart"

    uvloop.run(scenario())
    assert control.clean_shutdown(data)


@pytest.mark.skipif(not ROOT, reason="only root can walk where the instance's user cannot")
async def test_a_directory_below_closed_ones_is_reached_by_descriptor(
    workdir: Path, engine: Engine, the_template: Template, verifiers: dict[str, str], owner: files.Owner,
    connect: Connect,
) -> None:  # fmt: skip
    closed = workdir / "closed"
    closed.mkdir(mode=0o700)
    data, sockets = closed / "data", closed / "s"
    the_template.clone(data, system_identifier=9, verifiers=verifiers, owner=owner)
    (workdir / "s").symlink_to(sockets)

    async def begin() -> Postmaster:
        return await postmaster.start(
            engine, data, socket_dir=sockets, settings=conf.lean_settings(1, engine.major), owner=owner,
            log_path=closed / "log", timeout_seconds=60,
        )  # fmt: skip

    running = await begin()
    try:
        with connect() as session:
            assert session.execute("SHOW data_directory").fetchone()[0].startswith("/proc/self/fd/")
            session.execute("CREATE EXTENSION citext")
            session.execute(
                "CREATE TABLE t AS SELECT 'X'::citext AS c, repeat('y', 3000) FROM generate_series(1, 5000)"
            )
            session.execute("SET parallel_setup_cost = 0; SET min_parallel_table_scan_size = 0")
            assert session.execute("SELECT count(*) FROM t WHERE c = 'x'").fetchone() == (5000,)
            session.execute("CREATE DATABASE another")
        with connect(ADMIN_ROLE, dbname="postgres") as session:
            session.execute("CHECKPOINT")
            assert session.execute("SELECT pg_reload_conf()").fetchone() == (True,)
            session.execute("CREATE EXTENSION file_fdw")
            assert session.execute("SELECT count(*) > 0 FROM pg_hba_file_rules WHERE error IS NULL").fetchone() == (
                True,
            )
        assert postmaster.adopt(data, sockets) == running
        with pytest.raises(Conflict):
            await begin()
        assert child.kill(running.identity, signal.SIGKILL)
        assert await postmaster.stop(running, mode="fast", timeout_seconds=10) == "gone"
        running = await begin()
        with connect(dbname="another"), connect() as session:
            assert session.execute("SELECT count(*) FROM t").fetchone() == (5000,)
    finally:
        await postmaster.stop(running, mode="fast", timeout_seconds=30)
    await all_gone(data)


# ------------------------------------------------------------------------------------------------ failed starts


@pytest.mark.parametrize(
    ("changed", "hint"),
    [({"shared_buffers": "nonsense"}, "shared_buffers"), ({"shared_preload_libraries": "nowhere"}, "nowhere")],
)  # fmt: skip
async def test_a_failed_start_says_why_at_once(
    data: Path, start: StartInstance, workdir: Path, changed: dict[str, str], hint: str
) -> None:
    (workdir / "postgres.log").write_text("an older line\n")
    began = time.monotonic()
    with pytest.raises(StartFailed, match="ended while it started") as caught:
        await start(data, changed=changed)
    assert time.monotonic() - began < 20
    tail = str(caught.value.fields["log_tail"])
    assert "FATAL" in tail
    assert hint in tail
    assert "an older line" not in tail
    assert "postgres.log" in caught.value.next_step
    assert hint not in caught.value.client_text
    await all_gone(data)
    await start(data)


async def test_a_start_that_takes_too_long_is_ended(
    data: Path, start: StartInstance, owner: files.Owner | None
) -> None:
    # It looks for its log in an archive that does not answer, and is not ready for as long as that lasts.
    signal_file = data / "recovery.signal"
    signal_file.touch()
    if owner is not None:
        os.chown(signal_file, *owner)
    with pytest.raises(StartFailed, match="not ready after"):
        await start(data, changed={"restore_command": "sleep 600"}, seconds=0.5)
    await all_gone(data)
    signal_file.unlink()
    await start(data)


@pytest.mark.parametrize("moment", range(6))
async def test_a_cancelled_start_leaves_nothing(data: Path, start: StartInstance, moment: int) -> None:
    starting = asyncio.create_task(start(data))
    if moment == 0:
        await asyncio.sleep(0)
    elif moment == 1:
        await until((data / "postgresql.conf").exists)
    elif moment == 2:
        await until((data / "postmaster.pid").exists)
    else:
        await asyncio.sleep(0.004 * moment)
    early = not starting.done()  # on a quiet machine the last moments are after its end
    starting.cancel()
    try:
        running = await starting
    except asyncio.CancelledError:
        pass
    else:
        assert not early or moment > 2
        await postmaster.stop(running, mode="fast", timeout_seconds=30)
    await all_gone(data)


async def test_of_two_starts_at_once_one_wins(data: Path, start: StartInstance, connect: Connect) -> None:
    results = await asyncio.gather(*(start(data) for _ in range(4)), return_exceptions=True)
    winners = [result for result in results if isinstance(result, Postmaster)]
    assert len(winners) == 1, results
    assert all(isinstance(result, Conflict) for result in results if result is not winners[0]), results
    with connect() as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


async def test_a_socket_path_that_is_too_long_is_said(
    data: Path, engine: Engine, workdir: Path, owner: files.Owner | None
) -> None:
    with pytest.raises(OperatorError, match="longer than 107 bytes"):
        await postmaster.start(
            engine, data, socket_dir=workdir / ("x" * 90), settings={}, owner=owner, log_path=workdir / "log",
            timeout_seconds=5,
        )  # fmt: skip
    assert free(data)


async def test_a_missing_program_is_said(data: Path, engine: Engine, workdir: Path, owner: files.Owner | None) -> None:
    with pytest.raises(OperatorError, match="cannot execute"):
        await postmaster.start(
            dataclasses.replace(engine, bin_dir=workdir), data, socket_dir=workdir / "s", settings={}, owner=owner,
            log_path=workdir / "log", timeout_seconds=5,
        )  # fmt: skip
    assert free(data)


# ------------------------------------------------------------------------------------------------ kills


@pytest.fixture
async def busy(connect: Connect) -> AsyncGenerator[Callable[[], None], None]:
    """Makes a backend compute for minutes without ever looking at the postmaster."""
    threads: list[threading.Thread] = []

    def begin() -> None:
        def compute() -> None:
            try:
                with connect() as session:
                    session.execute("SET statement_timeout = 0")
                    session.execute("SELECT count(*) FROM generate_series(1, 100000000000)")
            except psycopg.Error:
                pass  # it is killed

        thread = threading.Thread(target=compute)
        thread.start()
        threads.append(thread)

    yield begin
    for thread in threads:
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()


def computing(running: Postmaster, data: Path) -> list[Identity]:
    return [one for one in postmaster.running_in(data) if one != running.identity and b"SELECT" in title(one)]


def title(process: Identity) -> bytes:
    """Nothing of one that has ended meanwhile: workers of an instance come and go."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def test_after_a_kill_the_next_start_ends_orphans_and_has_all_that_was_acknowledged(
    data: Path, start: StartInstance, connect: Connect, busy: Callable[[], None]
) -> None:
    running = await start(data)
    with connect() as session:
        session.execute("CREATE TABLE t (a int)")
        for number in range(20):
            session.execute("INSERT INTO t VALUES (%s)", (number,))
    busy()
    await until(lambda: computing(running, data))
    (orphan,) = computing(running, data)
    child.kill(running.identity, signal.SIGKILL)
    await until(lambda: not child.alive(running.identity))
    assert child.alive(orphan)
    assert postmaster.adopt(data, running.socket_path.parent) is None
    await start(data)
    assert not child.alive(orphan)
    with connect() as session:
        assert session.execute("SELECT count(*) FROM t").fetchone() == (20,)


async def test_stopping_a_killed_one_ends_its_orphans_and_frees_its_memory(
    data: Path, start: StartInstance, busy: Callable[[], None]
) -> None:
    running = await start(data)
    segment = (data / "postmaster.pid").read_text().splitlines()[6].split()[1]
    assert segment in _segments()
    busy()
    await until(lambda: computing(running, data))
    child.kill(running.identity, signal.SIGKILL)
    assert await postmaster.stop(running, mode="fast", timeout_seconds=10) == "gone"
    assert postmaster.running_in(data) == [], "it returns when all are gone"
    assert segment not in _segments()


async def test_the_memory_is_freed_also_where_the_last_process_takes_its_time(data: Path, start: StartInstance) -> None:
    """On its way out nobody sees it any more, and what it holds is still held."""
    running = await start(data)
    segment = (data / "postmaster.pid").read_text().splitlines()[6].split()[1]
    for one in (running.identity, *child.descendants(running.identity)):
        child.kill(one, signal.SIGKILL)
    await until(lambda: not postmaster.running_in(data))
    lock = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    await until(lambda: files.try_lock(lock))
    stopping = asyncio.create_task(postmaster.stop(running, mode="fast", timeout_seconds=10))
    await asyncio.wait([stopping], timeout=0.2)
    assert not stopping.done()
    os.close(lock)
    assert await stopping == "gone"
    assert segment not in _segments()


def _segments() -> list[str]:
    return [line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]


async def test_one_that_hangs_is_killed_with_all_below_it(
    data: Path, start: StartInstance, busy: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postmaster, "IMMEDIATE_SECONDS_MAX", 0.1)
    running = await start(data)
    busy()
    await until(lambda: computing(running, data))
    child.kill(running.identity, signal.SIGSTOP)
    began = time.monotonic()
    assert await postmaster.stop(running, mode="fast", timeout_seconds=0.1) == "killed"
    assert time.monotonic() - began < 15
    assert postmaster.running_in(data) == [], "it returns when all are gone"
    assert free(data)
    await start(data)


async def test_a_smart_stop_that_waits_too_long_becomes_immediate(
    data: Path, start: StartInstance, connect: Connect
) -> None:
    running = await start(data)
    with connect() as session:
        session.execute("SELECT 1")
        assert await postmaster.stop(running, mode="smart", timeout_seconds=0.2) == "immediate"
    await all_gone(data)
    assert not control.clean_shutdown(data)


# ------------------------------------------------------------------------------------------------ false postmasters


async def test_a_reused_pid_is_not_adopted_and_does_not_keep_it_from_starting(
    data: Path, start: StartInstance, workdir: Path, owner: files.Owner | None
) -> None:
    running = await start(data)
    lines = (data / "postmaster.pid").read_text().splitlines(keepends=True)
    child.kill(running.identity, signal.SIGKILL)
    await until(lambda: not postmaster.running_in(data))
    uid, gid = owner or (None, None)
    other = subprocess.Popen(["/bin/sleep", "600"], user=uid, group=gid, cwd=data)
    try:
        # Postgres itself would refuse to start: the pid lives and belongs to the same user.
        (data / "postmaster.pid").write_text("".join([f"{other.pid}\n", *lines[1:]]))
        assert postmaster.adopt(data, workdir / "s") is None
        await start(data)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_only_the_postmaster_of_this_very_directory_is_adopted(
    data: Path, start: StartInstance, workdir: Path, the_template: Template, verifiers: dict[str, str],
    owner: files.Owner | None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    running = await start(data)
    text = (data / "postmaster.pid").read_text()
    lines = text.splitlines(keepends=True)
    other = workdir / "other"
    the_template.clone(other, system_identifier=3, verifiers=verifiers, owner=owner)

    def adopted(directory: Path, *changed: str) -> Postmaster | None:
        (directory / "postmaster.pid").write_text("".join([*changed, *lines[len(changed) :]]))
        return postmaster.adopt(directory, workdir / "s")

    assert adopted(other) is None, "it works in another directory"
    (backend, *_) = child.descendants(running.identity)
    assert adopted(data, f"{backend.pid}\n") is None, "a process below it is no postmaster"
    assert adopted(data, f"-{running.identity.pid}\n") is None, "single-user mode"
    assert adopted(data, "no number\n") is None
    assert adopted(data, f"{running.identity.pid}\n", lines[1], "1000000000\n") == running, "the clock was set"
    assert adopted(data) == running
    (workdir / "link").symlink_to(data)
    assert postmaster.adopt(workdir / "link", workdir / "s") is None
    assert postmaster.adopt(workdir / "missing", workdir / "s") is None
    (data / "postmaster.pid").unlink()
    monkeypatch.setattr(postmaster, "LAUNCH_SECONDS_MAX", 0.05)
    assert postmaster.adopt(data, workdir / "s") is None
    (data / "postmaster.pid").write_text(text)


async def test_one_that_was_launched_a_moment_ago_is_waited_for(
    data: Path, engine: Engine, workdir: Path, owner: files.Owner | None
) -> None:
    """As when the cell is killed between launching it and its first words: it is no directory that nobody runs."""
    (workdir / "s").mkdir(mode=0o700)
    uid, gid = owner or (None, None)
    if uid is not None and gid is not None:
        os.chown(workdir / "s", uid, gid)
    conf.write_configuration(data, {"unix_socket_directories": str(workdir / "s")}, owner=owner)
    lock = os.open(data, os.O_RDONLY | os.O_DIRECTORY)
    assert files.try_lock(lock)
    late = ["/bin/sh", "-c", 'kill -STOP $$; exec "$0" -D "$1"', engine.program("postgres"), str(data)]
    launched = subprocess.Popen(late, user=uid, group=gid, extra_groups=[], pass_fds=[lock])
    os.close(lock)
    try:
        await until(lambda: f"{launched.pid} (sh) T" in Path(f"/proc/{launched.pid}/stat").read_text())
        looking = asyncio.create_task(asyncio.to_thread(postmaster.adopt, data, workdir / "s"))
        await asyncio.wait([looking], timeout=0.2)
        assert not looking.done()
        launched.send_signal(signal.SIGCONT)
        adopted = await looking
        assert adopted is not None and adopted.identity.pid == launched.pid
    finally:
        launched.kill()
        launched.wait()
    await until(lambda: postmaster.adopt(data, workdir / "s") is None and free(data))


# ------------------------------------------------------------------------------------------------ the log


def test_a_log_is_bounded_and_keeps_its_end(workdir: Path) -> None:
    log = workdir / "log"
    assert postmaster.bound_log(log) == 0
    log.write_text("short\n")
    assert postmaster.bound_log(log) == 6
    with log.open("a") as writer:  # as Postgres has it open
        writer.write("x" * postmaster.LOG_BYTES_MAX + "\nthe last line\n")
        writer.flush()
        assert postmaster.bound_log(log) == 0
        writer.write("after\n")
    assert log.read_text() == "after\n"
    assert (workdir / "log.1").read_text().endswith("the last line")
    assert (workdir / "log.1").stat().st_size <= postmaster.LOG_TAIL_BYTES_MAX


async def test_the_loop_is_not_blocked_by_a_start(data: Path, start: StartInstance) -> None:
    """Forking, executing and waiting are elsewhere: a ticker keeps ticking."""
    ticks = 0
    stop = asyncio.Event()

    async def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    await start(data)
    stop.set()
    await ticker
    assert ticks > 100
