"""Real processes: nothing is inherited, nothing is left, and a reused pid is never believed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tenantry.errors import OperatorError
from tenantry.runtime import child
from tenantry.runtime.child import Identity

ROOT = os.geteuid() == 0
ENV = {"PATH": "/usr/bin:/bin"}


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.005)


def start(*argv: str, log: Path | None = None, **options: object) -> Identity:
    given = {"env": ENV, "cwd": None, "log_path": log, "uid": None, "gid": None, **options}
    return child.spawn(argv, **given)


@pytest.fixture
def sleeper() -> Iterator[Identity]:
    identity = start("/bin/sleep", "600")
    yield identity
    child.kill(identity, signal.SIGKILL)


def test_an_identity_is_a_pid_with_its_start_time(sleeper: Identity) -> None:
    assert child.identity_of(sleeper.pid) == sleeper
    assert child.alive(sleeper)
    assert child.parent_of(sleeper) == os.getpid()
    assert abs(child.started_at(sleeper) - time.time()) < 20
    reused = Identity(sleeper.pid, sleeper.start_ticks - 1)
    assert not child.alive(reused)
    assert child.parent_of(reused) is None
    assert child.identity_of(2**22 + 1) is None


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen(["/bin/sleep", "600"])
    identity = child.identity_of(process.pid)
    assert identity is not None
    process.kill()
    until(lambda: Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "Z")
    assert not child.alive(identity)
    assert child.identity_of(process.pid) is None
    process.wait()


def test_a_child_gets_what_it_is_given_and_nothing_else(workdir: Path) -> None:
    log = workdir / "log"
    log.write_bytes(b"before\n")
    with (workdir / "secret").open("w") as secret, (workdir / "given").open("w") as given:
        os.set_inheritable(secret.fileno(), True)
        identity = start(
            "/bin/sh", "-c", "pwd; env; umask; readlink /proc/self/fd/* | sort -u; echo error >&2; cat; echo end",
            log=log, pass_fds=[given.fileno()],
        )  # fmt: skip
        until(lambda: not child.alive(identity))
        text = log.read_text()
        assert text.startswith("before\n/\n")
        assert "0077" in text
        assert str(workdir / "given") in text
        assert str(workdir / "secret") not in text
        assert "error\n" in text
        assert text.endswith("end\n"), "stdin is at its end"
        assert "HOME=" not in text
    assert log.stat().st_mode & 0o777 in (0o600, 0o644)


@pytest.mark.skipif(not ROOT, reason="changes the user")
def test_a_child_has_the_user_it_is_given_and_no_other_groups(workdir: Path) -> None:
    log = workdir / "log"
    identity = start("/usr/bin/id", log=log, uid=50777, gid=50778)
    until(lambda: not child.alive(identity))
    assert log.read_text() == "uid=50777 gid=50778 groups=50778\n"
    assert log.stat().st_uid == 0


SPAWN_AND_DIE = """
import os
from tenantry.runtime import child
identity = child.spawn(["/bin/sleep", "600"], env={}, cwd=None, log_path=None, uid=None, gid=None)
print(identity.pid, identity.start_ticks, flush=True)
os.kill(os.getpid(), 9)
"""


async def test_a_child_outlives_us_and_is_waited_for_and_killed_by_another() -> None:
    spawner = subprocess.run([sys.executable, "-c", SPAWN_AND_DIE], capture_output=True, text=True, check=False)
    assert spawner.returncode == -signal.SIGKILL, spawner.stderr
    pid, ticks = map(int, spawner.stdout.split())
    orphan = Identity(pid, ticks)
    assert child.alive(orphan)
    assert os.getsid(pid) == pid, "it has its own session: no terminal and no group signal reaches it"
    assert child.parent_of(orphan) != os.getpid()
    assert not await child.wait_exit(orphan, 0.01)
    waiting = asyncio.create_task(child.wait_exit(orphan, 20))
    await asyncio.sleep(0)
    assert child.kill(orphan, signal.SIGTERM)
    assert await waiting
    assert not child.kill(orphan, signal.SIGTERM)
    assert await child.wait_exit(orphan, 0)


def test_waiting_works_on_uvloop(sleeper: Identity) -> None:
    async def scenario() -> None:
        assert not await child.wait_exit(sleeper, 0.01)
        waiting = asyncio.create_task(child.wait_exit(sleeper, 20))
        await asyncio.sleep(0.01)
        assert child.kill(sleeper, signal.SIGKILL)
        assert await waiting

    uvloop.run(scenario())


async def test_a_reused_pid_is_neither_signalled_nor_waited_for(sleeper: Identity) -> None:
    dead = Identity(sleeper.pid, sleeper.start_ticks - 1)
    assert not child.kill(dead, signal.SIGKILL)
    assert await child.wait_exit(dead, 0)
    assert child.descendants(dead) == []
    assert child.alive(sleeper)


def test_no_zombie_and_no_descriptor_is_left() -> None:
    start("/bin/true")  # the reaper is there
    before = len(os.listdir("/proc/self/fd"))
    identities = [start("/bin/true") for _ in range(30)]
    until(lambda: not any(Path(f"/proc/{identity.pid}").exists() for identity in identities))
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_all_descendants_are_found_parents_first() -> None:
    top = start("/bin/sh", "-c", "/bin/sh -c 'sleep 600 & sleep 600 & wait' & wait")
    try:
        until(lambda: len(child.descendants(top)) == 3)
        found = child.descendants(top)
        assert child.parent_of(found[0]) == top.pid
        assert {child.parent_of(identity) for identity in found[1:]} == {found[0].pid}
        assert found == child.descendants(top)
    finally:
        for identity in [*child.descendants(top), top]:
            child.kill(identity, signal.SIGKILL)
    until(lambda: not child.alive(top))
    assert child.descendants(top) == []


def test_descendants_without_the_kernels_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_children", lambda _pid: None)
    top = start("/bin/sh", "-c", "sleep 600 & wait")
    try:
        until(lambda: len(child.descendants(top)) == 1)
    finally:
        for identity in [*child.descendants(top), top]:
            child.kill(identity, signal.SIGKILL)


def test_what_cannot_be_executed_is_the_operators_to_cure(workdir: Path) -> None:
    with pytest.raises(OperatorError, match="cannot execute /no/such/program") as caught:
        start("/no/such/program")
    assert caught.value.next_step
    (workdir / "script").write_text("not executable")
    with pytest.raises(OperatorError, match="Permission"):
        start(str(workdir / "script"))
    (workdir / "log").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        start("/bin/true", log=workdir / "log")


def test_a_lock_lives_as_long_as_the_child_that_inherited_it(workdir: Path) -> None:
    descriptor = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    identity = start("/bin/sleep", "600", pass_fds=[descriptor])
    os.close(descriptor)

    def free() -> bool:
        other = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(other)
        return True

    assert not free()
    child.kill(identity, signal.SIGKILL)
    until(free)
