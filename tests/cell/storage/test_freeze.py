"""Every process of an instance stands still, and goes on whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.cell.storage.freeze import frozen, resume_stopped
from tenantry.errors import Unavailable
from tenantry.runtime import child
from tenantry.runtime.child import Identity

# Forks children that count in a file each, and forks a new one every now and then.
FAMILY = """
import os, sys, time
top = sys.argv[1]
for number in range(3):
    if os.fork() == 0:
        while True:
            with open(f"{top}/{number}", "ab", buffering=0) as file:
                file.write(b".")
            time.sleep(0.0005)
open(f"{top}/ready", "w").close()
while True:
    pid = os.fork()
    if pid == 0:
        time.sleep(0.02)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.fixture
def family(workdir: Path) -> Iterator[Identity]:
    process = subprocess.Popen([sys.executable, "-c", FAMILY, str(workdir)])
    identity = child.identity_of(process.pid)
    assert identity is not None
    try:
        while not (workdir / "ready").exists() or len(list(workdir.iterdir())) < 4:
            assert process.poll() is None
            time.sleep(0.001)
        yield identity
    finally:
        resume_stopped(identity)
        below = child.descendants(identity)
        process.kill()
        process.wait()
        for each in below:
            child.kill(each, signal.SIGKILL)


def sizes(workdir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in workdir.iterdir()}


def states(identity: Identity) -> set[str]:
    everyone = [identity, *child.descendants(identity)]
    return {Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()[0] for each in everyone}


def wait_until_it_goes_on(workdir: Path) -> None:
    before, deadline = sizes(workdir), time.monotonic() + 10
    while sizes(workdir) == before:
        assert time.monotonic() < deadline, "it does not go on"
        time.sleep(0.001)


def test_nothing_moves_inside_and_everything_after(family: Identity, workdir: Path) -> None:
    for _ in range(20):
        with frozen(family):
            before = sizes(workdir)
            assert states(family) == {"T"}
            os.sched_yield()
            assert sizes(workdir) == before
        wait_until_it_goes_on(workdir)


def test_it_goes_on_after_a_failure_inside(family: Identity, workdir: Path) -> None:
    with pytest.raises(RuntimeError), frozen(family):
        raise RuntimeError
    wait_until_it_goes_on(workdir)


def test_a_dead_one_is_told(family: Identity) -> None:
    gone = Identity(family.pid, family.start_ticks - 1)
    with pytest.raises(Unavailable), frozen(gone):
        pytest.fail("nothing to freeze")


def test_whoever_adopts_it_lets_it_go_on(family: Identity, workdir: Path) -> None:
    """We are killed while it stands still."""
    script = (
        "import sys\n"
        "from tenantry.cell.storage.freeze import frozen\n"
        "from tenantry.runtime.child import Identity\n"
        "with frozen(Identity(int(sys.argv[1]), int(sys.argv[2]))): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(family.pid), str(family.start_ticks)],
        env={**os.environ, "TENANTRY_FAILPOINTS": "freeze.stopped=kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert states(family) == {"T"}
    resume_stopped(family)
    resume_stopped(family)
    wait_until_it_goes_on(workdir)
