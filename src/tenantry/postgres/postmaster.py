"""One running Postgres: started until it is ready, stopped until it is gone, found again after we were restarted.

A postmaster outlives us. While it or any process below it lives, an ``flock`` on the data directory is held through
a descriptor they inherited: a second start on the same directory is refused from anywhere on the machine, also from
another PID or IPC namespace where Postgres' own check is blind. Must never leave two, and never leave half a group.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tenantry.errors import Conflict, DiskFull, OperatorError, StartFailed, Unavailable
from tenantry.postgres import conf, control
from tenantry.postgres.engines import Engine
from tenantry.runtime import child, files
from tenantry.runtime.child import Identity
from tenantry.runtime.failpoints import failpoint

SOCKET_NAME: Final = ".s.PGSQL.5432"
SOCKET_PATH_BYTES_MAX: Final = 107
"""``sun_path`` of Linux, less the final zero."""
LOG_TAIL_LINES_MAX: Final = 20
LOG_TAIL_BYTES_MAX: Final = 8_192
LOG_BYTES_MAX: Final = 1_048_576
"""A log that is larger is emptied, when its instance starts and whenever ``bound_log`` is called."""

POLL_SECONDS_FIRST: Final = 0.001
POLL_SECONDS_MAX: Final = 0.02
"""How often readiness is looked for: at first every millisecond, later (long recoveries) less often."""
LOCK_SECONDS_MAX: Final = 5.0
"""How long a start waits for the processes of a dead postmaster to be gone."""
LAUNCH_SECONDS_MAX: Final = 5.0
"""How long one that was launched may take to say its pid, on a loaded machine."""
FREE_BYTES_MIN: Final = 2 * 1024 * 1024
"""With less left on the disk a start that failed has failed for that."""
ABORT_SECONDS_MAX: Final = 10.0
IMMEDIATE_SECONDS_MAX: Final = 5.0
KILL_SECONDS_MAX: Final = 10.0
CLOCK_SKEW_SECONDS_MAX: Final = 15.0

StopMode = Literal["smart", "fast", "immediate"]
Stopped = Literal["gone", "smart", "fast", "immediate", "killed"]
"""How it ended: ``gone`` before we came, or by another hand; after ``smart`` and ``fast`` it was a clean stop."""

_IPC_RMID: Final = 0
_libc = ctypes.CDLL(None, use_errno=True)

_SIGNALS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


@dataclass(frozen=True, slots=True)
class Postmaster:
    identity: Identity
    data: Path
    socket_path: Path


# ------------------------------------------------------------------------------------------------ starting


async def start(
    engine: Engine,
    data: Path,
    *,
    socket_dir: Path,
    settings: Mapping[str, str],
    owner: files.Owner | None,
    log_path: Path,
    timeout_seconds: float,
) -> Postmaster:
    """Starts Postgres on ``data`` and returns once it takes connections.

    ``owner`` is the user it runs as, and that ``data`` belongs to (None: ourselves). ``socket_dir`` is made if it is
    missing, and closed to everybody else. The log gets stderr. Configuration is written anew.
    Raises StartFailed (with the end of the log in ``fields``) when it ends or is not ready in time, Conflict when a
    living postmaster has the directory, DiskFull or another OperatorError for what the machine lacks. Nothing runs
    after a failure, also not after a cancellation.
    """
    deadline = time.monotonic() + timeout_seconds
    launch = asyncio.ensure_future(
        asyncio.to_thread(_launch, engine, data, socket_dir, settings, owner, log_path, deadline)
    )
    try:
        launched = await asyncio.shield(launch)
    except asyncio.CancelledError:
        # The thread cannot be cancelled: wait for what it started, to end it, however often we are.
        while not launch.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([launch])
        if launch.exception() is None:
            os.close(launch.result().data_fd)
            await _end(launch.result().postmaster)
        raise
    ready = False
    try:
        await _until_ready(launched, deadline, timeout_seconds)
        ready = True
    finally:
        os.close(launched.data_fd)
        if not ready:
            await _end(launched.postmaster)
    return launched.postmaster


@dataclass(frozen=True, slots=True)
class _Launched:
    postmaster: Postmaster
    data_fd: int
    """Ours, without the lock's last reference: the postmaster has inherited the same open file."""
    log_path: Path
    log_start: int


def _launch(
    engine: Engine,
    data: Path,
    socket_dir: Path,
    settings: Mapping[str, str],
    owner: files.Owner | None,
    log_path: Path,
    deadline: float,
) -> _Launched:
    """All that blocks: lock, configuration, fork and exec."""
    uid, gid = owner if owner is not None else (None, None)
    socket_path = socket_dir / SOCKET_NAME
    if len(os.fsencode(socket_path)) > SOCKET_PATH_BYTES_MAX:
        raise OperatorError(
            f"the socket path {socket_path} is longer than {SOCKET_PATH_BYTES_MAX} bytes",
            next_step="choose a shorter directory for sockets",
            path=str(socket_path),
        )
    with files.explained("cannot open the data directory", data):
        data_fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _lock(data, data_fd, deadline)
        _remove_stale(data_fd, socket_path)
        socket_fd = _prepare_socket_directory(socket_dir, owner)
        try:
            reach_socket = socket_dir
            passed = [data_fd]
            if not files.traversable_for(socket_dir, uid, gid):
                reach_socket = Path(f"/proc/self/fd/{socket_fd}")
                passed.append(socket_fd)
            reach_data = data if files.traversable_for(data, uid, gid) else Path(f"/proc/self/fd/{data_fd}")
            conf.write_configuration(
                data, {**settings, "unix_socket_directories": str(reach_socket), "port": "5432"}, owner=owner
            )
            log_start = bound_log(log_path)
            identity = child.spawn(
                [engine.program("postgres"), "-D", str(reach_data)],
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "GMT"},
                cwd=None,
                log_path=log_path,
                uid=uid,
                gid=gid,
                pass_fds=passed,
            )
            failpoint("postmaster.launched")
        finally:
            os.close(socket_fd)
    except BaseException:
        os.close(data_fd)
        raise
    return _Launched(Postmaster(identity, data, socket_path), data_fd, log_path, log_start)


def _lock(data: Path, data_fd: int, deadline: float) -> None:
    """Takes the directory's lock; ends processes that a dead postmaster left. Raises Conflict."""
    deadline = min(deadline, time.monotonic() + LOCK_SECONDS_MAX)
    while not files.try_lock(data_fd):
        living = _living(data)
        if living is not None:
            raise Conflict(
                f"{data} is run by the living postmaster {living.pid}",
                next_step="adopt it, or stop it first",
                pid=living.pid,
                path=str(data),
            )
        _kill_orphans(data)
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"{data} is locked by a process that is no postmaster",
                next_step="find it with `fuser` or /proc/locks and end it",
                path=str(data),
            )
        time.sleep(files.LOCK_POLL_SECONDS)


def _remove_stale(data_fd: int, socket_path: Path) -> None:
    """Removes what a killed postmaster left, and what Postgres would refuse to start over if the pid was reused.

    Safe because we hold the lock: neither it nor any process below it lives. Postgres itself finds and removes the
    old shared memory, whose key comes from the directory's inode.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink("postmaster.pid", dir_fd=data_fd)
    for path in (socket_path, socket_path.with_name(f"{SOCKET_NAME}.lock")):
        path.unlink(missing_ok=True)


def _prepare_socket_directory(socket_dir: Path, owner: files.Owner | None) -> int:
    """Makes it if it is missing, gives it to the owner and closes it to all others; returns it open."""
    with files.explained("cannot prepare the socket directory", socket_dir):
        with contextlib.suppress(FileExistsError):
            socket_dir.mkdir(mode=0o700)
        descriptor = os.open(socket_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if owner is not None and (status.st_uid, status.st_gid) != owner:
                os.fchown(descriptor, *owner)
            if stat.S_IMODE(status.st_mode) != 0o700:
                os.fchmod(descriptor, 0o700)
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


def bound_log(log_path: Path) -> int:
    """Empties a log that has grown over ``LOG_BYTES_MAX``, its last lines kept in ``<name>.1``; returns its size.

    Safe while Postgres writes to it (it appends). Raises OperatorError.
    """
    try:
        size = log_path.lstat().st_size
    except FileNotFoundError:
        return 0
    if size <= LOG_BYTES_MAX:
        return size
    kept = log_tail(log_path, since=size - LOG_TAIL_BYTES_MAX)
    files.write_atomic(log_path.with_name(f"{log_path.name}.1"), kept.encode(), durable=False)
    os.truncate(log_path, 0)
    return 0


async def _until_ready(launched: _Launched, deadline: float, timeout_seconds: float) -> None:
    identity = launched.postmaster.identity
    began = time.monotonic()
    watch = await _Exit.of(identity)
    try:
        while not _ready(launched.data_fd, identity.pid):
            now = time.monotonic()
            if now >= deadline:
                raise _start_failed(launched, f"is not ready after {timeout_seconds:g} s")
            pause = min(POLL_SECONDS_MAX, max(POLL_SECONDS_FIRST, (now - began) / 20), deadline - now)
            if await watch.within(pause):
                raise _start_failed(launched, "ended while it started")
    finally:
        watch.close()


def _ready(data_fd: int, pid: int) -> bool:
    """Whether postmaster.pid is this process's and says that it takes connections (8th line, since Postgres 10)."""
    lines = _pid_file(data_fd)
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _pid_file(data_fd: int) -> list[str]:
    try:
        descriptor = os.open(
            "postmaster.pid", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=data_fd
        )
    except OSError:  # not there yet, or not a file of Postgres
        return []
    try:
        return os.read(descriptor, 4096).decode(errors="replace").splitlines()
    finally:
        os.close(descriptor)


class _Exit:
    """The end of one process as something to wait for, in slices."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        if descriptor is None:
            self._ended.set_result(None)
        else:
            self._loop.add_reader(descriptor, self._on_end)

    @classmethod
    async def of(cls, identity: Identity) -> _Exit:
        return cls(child.open_pidfd(identity))

    def _on_end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    async def within(self, seconds: float) -> bool:
        await asyncio.wait([self._ended], timeout=seconds)
        return self._ended.done()

    def close(self) -> None:
        self._ended.cancel()
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None


def _start_failed(launched: _Launched, what: str) -> StartFailed | DiskFull:
    data = launched.postmaster.data
    tail = log_tail(launched.log_path, since=launched.log_start)
    # Postgres names another reason where it was shared memory that found no room on disk.
    if "No space left on device" in tail or _free_bytes(data) < FREE_BYTES_MIN:
        return DiskFull(
            f"postgres on {data} {what}: the disk is full",
            next_step="free space or move the data directory to a larger disk, then try again",
            path=str(data),
            log_tail=tail,
        )
    return StartFailed(
        f"postgres on {data} {what}",
        next_step=f"read {launched.log_path}",
        client_text="the database could not be started",
        path=str(data),
        log_tail=tail,
    )


def _free_bytes(directory: Path) -> int:
    """What may still be written on its file system; enough when that is not known."""
    try:
        facts = os.statvfs(directory)
    except OSError:
        return FREE_BYTES_MIN
    return facts.f_bavail * facts.f_frsize


def log_tail(log_path: Path, *, since: int = 0) -> str:
    """The last lines of a log, at most ``LOG_TAIL_BYTES_MAX`` and none written before offset ``since``."""
    try:
        with log_path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(since if since <= size else 0, size - LOG_TAIL_BYTES_MAX))
            lines = file.read(LOG_TAIL_BYTES_MAX).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(lines[-LOG_TAIL_LINES_MAX:])


# ------------------------------------------------------------------------------------------------ stopping


def override(postmaster: Postmaster, settings: Mapping[str, str], *, owner: files.Owner | None) -> None:
    """Lets these settings hold over the configuration's, at once and until the next start. Blocking.

    For such as a running instance takes over. Raises InvalidInput, OperatorError.
    """
    conf.write_overrides(postmaster.data, settings, owner=owner)
    child.kill(postmaster.identity, signal.SIGHUP)


async def stop(postmaster: Postmaster, *, mode: StopMode = "fast", timeout_seconds: float) -> Stopped:
    """Stops it and returns when it and everything below it is gone. Safe twice.

    ``smart`` waits for clients, ``fast`` ends their sessions, ``immediate`` leaves the work to recovery. What has not
    ended after the time is stopped ``immediate``, then killed with its whole group. Raises Unavailable if even that
    does not help (a process that hangs in the kernel).
    """
    identity = postmaster.identity
    how: Stopped = "gone"
    group: list[Identity] = []
    if child.kill(identity, _SIGNALS[mode]):
        how = mode
        if not await child.wait_exit(identity, timeout_seconds):
            how = "immediate"
            child.kill(identity, signal.SIGQUIT)
            if mode == "immediate" or not await child.wait_exit(identity, IMMEDIATE_SECONDS_MAX):
                how = "killed"
                group = _kill_group(identity)
    if how in ("smart", "fast") and not await asyncio.to_thread(_stopped_cleanly, postmaster.data):
        how = "gone"  # it was killed by another hand just before our signal
    if how in ("gone", "killed"):
        # Children of a dead postmaster go by themselves, unless one is deep in a computation.
        group += await asyncio.to_thread(_kill_orphans, postmaster.data)
        await _until_gone([identity, *group], postmaster.data)
        await asyncio.to_thread(_release_memory, postmaster.data)
    return how


def _stopped_cleanly(data: Path) -> bool:
    try:
        return control.clean_shutdown(data)
    except FileNotFoundError:
        return False


def _kill_group(identity: Identity) -> list[Identity]:
    """SIGKILL for the postmaster and all below it; stopped first, so that no child is born meanwhile."""
    child.kill(identity, signal.SIGSTOP)
    group = child.descendants(identity)
    child.kill(identity, signal.SIGKILL)
    for member in group:
        child.kill(member, signal.SIGKILL)
    return group


def _kill_orphans(data: Path) -> list[Identity]:
    orphans = _orphans_in(data)
    for orphan in orphans:
        child.kill(orphan, signal.SIGKILL)
    return orphans


def _release_memory(data: Path) -> None:
    """Removes the System V segment of a killed postmaster: the machine has 4,096 of them, and a deleted tenant would
    keep its own for ever.

    Only where dynamic shared memory is in files: the other kind is found by Postgres through this segment. What
    postmaster.pid says is believed only for a segment of the directory's owner, made by the dead postmaster and
    attached by nobody.
    """
    try:
        data_fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        lines = _pid_file(data_fd)
        if len(lines) < 7 or not any((data / "pg_dynshmem").glob("mmap.*")) or not _all_let_go(data, data_fd):
            return
        owner = os.fstat(data_fd).st_uid
        segment = lines[6].split()[-1] if lines[6].split() else ""
        for line in Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]:
            _, identifier, _, _, creator, _, attached, uid, *_ = line.split()
            if identifier == segment and creator == lines[0] and attached == "0" and uid == str(owner):
                _libc.shmctl(int(identifier), _IPC_RMID, None)
    finally:
        os.close(data_fd)


def _all_let_go(data: Path, data_fd: int) -> bool:
    """Takes the directory's lock, once the last process of a dead postmaster has let it go; False when another lives.

    A process on its way out shows no program any more, so nobody finds it, while its memory and its files are still
    being taken apart: only the lock tells that it is gone.
    """
    deadline = time.monotonic() + LOCK_SECONDS_MAX
    while not files.try_lock(data_fd):
        if _living(data) is not None or time.monotonic() >= deadline:
            return False
        time.sleep(files.LOCK_POLL_SECONDS)
    return True


async def _until_gone(group: list[Identity], data: Path) -> None:
    deadline = time.monotonic() + KILL_SECONDS_MAX
    for member in group:
        if not await child.wait_exit(member, max(0.0, deadline - time.monotonic())):
            child.kill(member, signal.SIGKILL)
            if not await child.wait_exit(member, 1.0):
                raise Unavailable(
                    f"process {member.pid} of {data} does not end, not even when killed",
                    next_step="it hangs in the kernel: look at the disk it waits for",
                    pid=member.pid,
                    path=str(data),
                )


async def _end(postmaster: Postmaster) -> None:
    """Ends a start that failed, also when we are cancelled meanwhile."""
    ending = asyncio.ensure_future(stop(postmaster, mode="fast", timeout_seconds=ABORT_SECONDS_MAX))
    while not ending.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(ending)
    ending.result()


# ------------------------------------------------------------------------------------------------ finding again


def adopt(data: Path, socket_dir: Path) -> Postmaster | None:
    """The living postmaster of this data directory, or None.

    Believed only if the process that postmaster.pid names runs a program called postgres, in this very directory
    (by inode, not by name), as nobody's backend, and is as old as the file says.
    A stale file is left where it is: ``start`` removes it under the lock. One that was launched a moment ago, by
    whoever died since, has not said its pid yet: it is waited for. Blocking.
    """
    deadline = time.monotonic() + LAUNCH_SECONDS_MAX
    while (identity := _living(data)) is None and _launched_in(data) and time.monotonic() < deadline:
        time.sleep(files.LOCK_POLL_SECONDS)
    return None if identity is None else Postmaster(identity, data, socket_dir / SOCKET_NAME)


def _launched_in(data: Path) -> bool:
    """Whether somebody holds the directory's lock who has not said its pid, and is no child of a dead postmaster."""
    try:
        data_fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        return len(_pid_file(data_fd)) < 3 and not files.try_lock(data_fd) and not _orphans_in(data)
    finally:
        os.close(data_fd)


def _living(data: Path) -> Identity | None:
    try:
        data_fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        lines = _pid_file(data_fd)
        if len(lines) < 3 or not lines[0].isdecimal() or not lines[2].isdecimal():
            return None
        identity = child.identity_of(int(lines[0]))
        if identity is None or not _runs_postgres_in(identity.pid, os.fstat(data_fd)):
            return None
        parent = child.parent_of(identity)
        if parent is None or _runs_postgres_in(parent, os.fstat(data_fd)):
            return None
        # A clock that was set meanwhile moves this apart; then the lock, which only it can hold, decides.
        apart = abs(child.started_at(identity) - int(lines[2]))
        if apart > CLOCK_SKEW_SECONDS_MAX and files.try_lock(data_fd):
            return None
        return identity if child.alive(identity) else None
    finally:
        os.close(data_fd)


def _runs_postgres_in(pid: int, directory: os.stat_result) -> bool:
    """Whether this process's program is called postgres and its working directory is this one."""
    try:
        program = os.readlink(f"/proc/{pid}/exe")  # noqa: PTH115 - may end in " (deleted)", which is no path
        cwd = os.stat(f"/proc/{pid}/cwd")  # noqa: PTH116
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    name = program.removesuffix(" (deleted)").rpartition("/")[2]
    return name == "postgres" and os.path.samestat(cwd, directory)


def running_in(data: Path) -> list[Identity]:
    """Every postgres process whose working directory is ``data``, whoever started it; walks all of /proc."""
    try:
        directory = data.stat()
    except FileNotFoundError:
        return []
    found: list[Identity] = []
    for pid in child.processes():
        if _runs_postgres_in(pid, directory):
            identity = child.identity_of(pid)
            if identity is not None and _runs_postgres_in(pid, directory):
                found.append(identity)
    return found


def _orphans_in(data: Path) -> list[Identity]:
    """Server processes whose postmaster is dead. A postmaster that just starts is none: it has no title yet."""
    members = running_in(data)
    pids = {member.pid for member in members}
    return [member for member in members if child.parent_of(member) not in pids and _title(member.pid)]


def _title(pid: int) -> bool:
    """Whether the process has the title that Postgres gives to all but the postmaster (``postgres: walwriter``)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"postgres: ")
    except (FileNotFoundError, ProcessLookupError):
        return False
