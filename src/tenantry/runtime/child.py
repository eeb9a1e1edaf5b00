"""Processes that outlive us: started in their own session, believed only by pid and start time, signalled by pidfd.

Must never signal a pid that was reused, leave a zombie, or hand a child a descriptor that it was not given.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.errors import OperatorError
from tenantry.runtime.files import explained

DESCENDANTS_MAX: Final = 100_000
"""A process tree larger than this is a fork bomb; the walk stops."""


_SETPRIV: Final = next((path for path in ("/usr/bin/setpriv", "/bin/setpriv") if os.access(path, os.X_OK)), None)
"""Of util-linux: becomes another user and then the program, in the same process. Without it we do that ourselves."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for certain: the pid, and the clock ticks since boot at which it started."""

    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class _Status:
    state: str
    parent: int
    start_ticks: int


def _status(pid: int) -> _Status | None:
    """Fields 3, 4 and 22 of /proc/PID/stat; None when there is no such process."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        text = os.read(descriptor, 4096)
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)
    # The command name may hold spaces and parentheses; the fields begin behind the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return _Status(fields[0].decode(), int(fields[1]), int(fields[19]))


def identity_of(pid: int) -> Identity | None:
    """The living process that has this pid now; None when there is none or only a zombie."""
    status = _status(pid)
    return None if status is None or status.state in "ZXx" else Identity(pid, status.start_ticks)


def alive(identity: Identity) -> bool:
    """Whether exactly this process still runs. A zombie counts as dead."""
    return identity_of(identity.pid) == identity


def age_seconds(identity: Identity) -> float:
    """How long ago it started, whether or not it still runs; a wall clock that is set does not matter."""
    since_boot = identity.start_ticks / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot)


def started_at(identity: Identity) -> float:
    """When it started, in seconds of the wall clock as that is set now."""
    since_boot = identity.start_ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def parent_of(identity: Identity) -> int | None:
    """The pid of its parent; None when it is dead."""
    status = _status(identity.pid)
    return None if status is None or status.start_ticks != identity.start_ticks else status.parent


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    log_path: Path | None,
    uid: int | None,
    gid: int | None,
    pass_fds: Sequence[int] = (),
) -> Identity:
    """Starts a program in a new session that survives our death, and returns once it has been executed.

    It inherits nothing but ``env``, ``pass_fds`` and stdin from /dev/null; stdout and stderr are appended to
    ``log_path`` (made 0600, opened with our rights). With ``uid`` it has that user, ``gid`` and no other groups.
    Blocks (fork and exec): call it in a thread. Raises OperatorError when the program cannot be executed.
    """
    log = subprocess.DEVNULL
    if log_path is not None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with explained("cannot open the log", log_path):
            log = os.open(log_path, flags, 0o600)
    changes_user = uid is not None and (uid, gid) != (os.geteuid(), os.getegid())
    command = list(argv)
    if changes_user and _SETPRIV is not None and os.access(argv[0], os.X_OK):
        # A process of our size takes 5 ms to fork, and changing the user here forbids vfork, which takes 0.5.
        command = [_SETPRIV, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--", *argv]
        changes_user = False
    try:
        process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd if cwd is not None else "/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            close_fds=True,
            pass_fds=tuple(pass_fds),
            umask=0o077,
            user=uid if changes_user else None,
            group=gid if changes_user else None,
            extra_groups=[] if changes_user else None,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise OperatorError(
            f"cannot execute {argv[0]}: {error}",
            next_step="check that the program exists and that the user may execute it",
            program=argv[0],
            uid=uid,
        ) from error
    finally:
        if log_path is not None:
            os.close(log)
    status = _status(process.pid)
    # Not reaped before the reaper is told of it, so its entry is there even if it is dead already.
    assert status is not None
    _reaper().watch(process.pid)
    # The reaper waits for the pid; a Popen that believes its child ended keeps quiet when it is collected.
    process.returncode = 0
    return Identity(process.pid, status.start_ticks)


def open_pidfd(identity: Identity) -> int | None:
    """A descriptor of exactly this process, readable when it ends; None when it is gone. The caller closes it."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a thread has the pid now, not a process
            return None
        raise
    # Looked at after opening: if the start time is right now, it was this process that was opened.
    if not alive(identity):
        os.close(descriptor)
        return None
    return descriptor


async def wait_exit(identity: Identity, timeout_seconds: float) -> bool:
    """Waits until the process has ended, our child or not. False when it still runs after the time."""
    descriptor = open_pidfd(identity)
    if descriptor is None:
        return True
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(timeout_seconds):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return True


def kill(identity: Identity, signal_number: signal.Signals) -> bool:
    """Sends a signal to exactly this process; False when it is gone. Never reaches a reused pid.

    Raises OperatorError when we may not signal it.
    """
    descriptor = open_pidfd(identity)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, signal_number)
    except ProcessLookupError:
        return False
    except PermissionError as error:
        raise OperatorError(
            f"not permitted to signal process {identity.pid}",
            next_step="run tenantry as the user that started it, or as root",
            pid=identity.pid,
        ) from error
    finally:
        os.close(descriptor)
    return True


def descendants(identity: Identity) -> list[Identity]:
    """All living processes below this one, parents before children. Empty when it is dead.

    A snapshot: stop the process first (SIGSTOP) if no child may be missed.
    """
    if not alive(identity):
        return []
    found: list[Identity] = []
    pending = [identity.pid]
    table: dict[int, list[int]] | None = None
    while pending and len(found) < DESCENDANTS_MAX:
        pid = pending.pop()
        children = _children(pid)
        if children is None:
            table = _children_table() if table is None else table
            children = table.get(pid, [])
        for child in children:
            status = _status(child)
            if status is not None and status.parent == pid and status.state not in "ZXx":
                found.append(Identity(child, status.start_ticks))
                pending.append(child)
    return found


def _children(pid: int) -> list[int] | None:
    """From /proc/PID/task/*/children; None on kernels that have no such file."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names, not paths
            text = Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii")
            found += map(int, text.split())
    except ProcessLookupError:
        return found
    except FileNotFoundError:
        return None if _status(pid) is not None else found
    return found


def _children_table() -> dict[int, list[int]]:
    table: dict[int, list[int]] = {}
    for pid in processes():
        status = _status(pid)
        if status is not None:
            table.setdefault(status.parent, []).append(pid)
    return table


def processes() -> Iterator[int]:
    """The pids in /proc."""
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208


# ---------------------------------------------------------------------------------------------- reaping


class _Reaper:
    """One thread that collects the exit of every child of ``spawn`` at once, whoever waits for it."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._thread = threading.Thread(target=self._run, name="child-reaper", daemon=True)
        self._thread.start()

    def watch(self, pid: int) -> None:
        # A child of ours that nobody has waited for keeps its pid, so this is the right process.
        self._poll.register(os.pidfd_open(pid), select.EPOLLIN)

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                self._poll.unregister(descriptor)
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, descriptor, os.WEXITED)
                os.close(descriptor)


_reaper_lock = threading.Lock()
_reaper_instance: _Reaper | None = None


def _reaper() -> _Reaper:
    global _reaper_instance  # noqa: PLW0603 - one per process
    with _reaper_lock:
        if _reaper_instance is None:
            _reaper_instance = _Reaper()
        return _reaper_instance


def _forget_reaper() -> None:
    """After a fork the thread is not there, and the children are not ours."""
    global _reaper_instance, _reaper_lock  # noqa: PLW0603
    _reaper_lock = threading.Lock()
    _reaper_instance = None


os.register_at_fork(after_in_child=_forget_reaper)
