"""An instance held still for the milliseconds of a clone: every process of it stopped, then continued.

What lies on disk then is what a power cut of the machine would leave if everything written had reached the disk: a
crash-consistent copy. If we are killed meanwhile the instance stays stopped, so whoever adopts it afterwards calls
``resume_stopped``. Must never leave the block without having told every process to go on.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from tenantry.errors import Unavailable
from tenantry.runtime import child
from tenantry.runtime.child import Identity
from tenantry.runtime.failpoints import failpoint

FREEZE_SECONDS_MAX: Final = 2.0
"""How long it may take until every process stands; one that waits in the kernel for a slow disk stops late."""
POLL_SECONDS: Final = 0.0005


@contextlib.contextmanager
def frozen(postmaster: Identity) -> Generator[None, None, None]:
    """Holds the postmaster and all below it still during the block. Blocking: call it in a thread.

    Raises Unavailable when it is dead, or does not stand within FREEZE_SECONDS_MAX; it goes on in any case.
    """
    try:
        _stop_all(postmaster)
        failpoint("freeze.stopped")
        yield
    finally:
        resume_stopped(postmaster)


def resume_stopped(postmaster: Identity) -> None:
    """Lets everything go on that a freeze may have stopped; without effect on what runs. Blocking, safe twice."""
    # The children first: the postmaster takes a child that does not answer for hung.
    for identity in (*reversed(child.descendants(postmaster)), postmaster):
        child.kill(identity, signal.SIGCONT)


def _stop_all(postmaster: Identity) -> None:
    deadline = time.monotonic() + FREEZE_SECONDS_MAX
    if not child.kill(postmaster, signal.SIGSTOP):
        raise Unavailable(f"the postmaster {postmaster.pid} is gone", pid=postmaster.pid)
    _until_stopped(postmaster, deadline)
    told: set[Identity] = set()
    # A stopped postmaster forks no more, but what it forked last, or a backend's own child, may be news.
    while fresh := [identity for identity in child.descendants(postmaster) if identity not in told]:
        for identity in fresh:
            child.kill(identity, signal.SIGSTOP)
        for identity in fresh:
            _until_stopped(identity, deadline)
        told.update(fresh)


def _until_stopped(identity: Identity, deadline: float) -> None:
    """Waits until the process stands, or has ended."""
    while not _stopped(identity):
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"process {identity.pid} does not stop within {FREEZE_SECONDS_MAX:g} s",
                next_step="it waits in the kernel: look at the disk; or branch from a moment ago instead",
                client_text="the instance is too busy to be copied now; try again",
                pid=identity.pid,
            )
        time.sleep(POLL_SECONDS)


def _stopped(identity: Identity) -> bool:
    """Whether every thread of it stands (state T), or it is gone."""
    try:
        states = [_state(path) for path in Path(f"/proc/{identity.pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(state in "TtZXx" for state in states) or not child.alive(identity)


def _state(task: Path) -> str:
    try:
        text = (task / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return "X"
    return text[text.rindex(b")") + 2 :][:1].decode()
