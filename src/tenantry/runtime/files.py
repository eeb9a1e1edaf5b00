"""Every durable write of the project: temporary name, fsync, rename, fsync of the directory.

All of them pass through here so that a ``Recorder`` can watch the order of operations, and a test can rebuild
the disk as a power cut would leave it after each one: what was not synced is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tenantry.errors import Defect, DiskFull, OperatorError, Unavailable

Owner = tuple[int, int]
"""A numeric uid and gid."""
Buffer = bytes | bytearray | memoryview

REMOVE_ROUNDS_MAX: Final = 8
"""How often a directory that is refilled while it is emptied is emptied again."""
LOCK_POLL_SECONDS: Final = 0.02
WRITE_OUT_BYTES_MIN: Final = 64 * 1024
"""The disk is told of smaller files by the sync itself, which is cheaper than a call for each."""
_SYNC_FILE_RANGE_WRITE: Final = 2
_NOBODYS_ID: Final = 0xFFFFFFFF
"""Changes nothing, and so tells what is."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_libc.setfsuid.argtypes = _libc.setfsgid.argtypes = (ctypes.c_uint32,)


# ---------------------------------------------------------------------------------------------- errors


@contextlib.contextmanager
def explained(action: str, path: Path) -> Generator[None, None, None]:
    """Turns the OSErrors that only an operator can cure into OperatorError; lets the others pass unchanged."""
    try:
        yield
    except OSError as error:
        cure = _CURES.get(error.errno or 0)
        if cure is None:
            raise
        reason, next_step = cure
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else OperatorError
        raise kind(f"{action} {path}: {reason}", next_step=next_step, path=str(path)) from error


_CURES: Final = {
    errno.ENOSPC: ("the disk is full", "free space or move the data directory to a larger disk, then try again"),
    errno.EDQUOT: ("the disk quota is used up", "raise the quota or free space, then try again"),
    errno.EROFS: ("the file system is read-only", "remount it writable; look for disk errors in the kernel log"),
    errno.EACCES: ("permission denied", "give the user that runs tenantry access to the directory"),
    errno.EPERM: ("operation not permitted", "give the user that runs tenantry ownership of the directory"),
    errno.EMFILE: ("too many open files", "raise the open files limit (ulimit -n) of the process"),
    errno.ENFILE: ("the machine has too many open files", "raise fs.file-max"),
    errno.EIO: ("the disk reports an input/output error", "look for disk errors in the kernel log"),
}


# ---------------------------------------------------------------------------------------------- writes


def write_atomic(
    path: Path,
    data: Buffer,
    *,
    mode: int = 0o600,
    owner: Owner | None = None,
    durable: bool = True,
    follow_parent: bool = True,
) -> None:
    """Makes ``path`` hold ``data``: a reader, also one after a power cut, sees the old file or the new one.

    ``durable=False`` leaves out both fsyncs, for what is written anew before each use. ``follow_parent=False``
    refuses a symbolic link as parent: for directories that belong to a tenant while we are root.
    Raises OperatorError for a full disk and its kind.
    """
    temporary = f".{path.name}.{os.urandom(4).hex()}.tmp"
    with explained("cannot write", path):
        directory = os.open(
            path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow_parent else os.O_NOFOLLOW)
        )
        try:
            place = path.parent / temporary
            _write_at(directory, temporary, data, place=place, mode=mode, owner=owner, sync=durable)
            try:
                os.rename(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                _unlink_at(directory, temporary)
                raise
            _record("rename", place, target=path)
            if durable:
                _fsync(directory, "fsync_dir", path.parent)
        finally:
            os.close(directory)


def write_new(path: str, data: Buffer, *, mode: int, owner: Owner | None, sync: bool = False) -> None:
    """Creates one file that must not exist. Without ``sync`` the caller makes it durable later (``syncfs``).

    Takes a string and raises plain OSError: clones call it a thousand times within 30 ms.
    """
    _write_at(None, path, data, place=path, mode=mode, owner=owner, sync=sync)


def write_many(directory: str, content: Iterable[tuple[str, Buffer]], *, mode: int, owner: Owner | None) -> None:
    """Creates files that must not exist in one directory, which is the owner's already. Not durable: see ``write_new``.

    They are the owner's from their creation: giving each away afterwards is a further change of every inode.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with _as_owner(owner) as left:
            for name, data in content:
                _write_at(descriptor, name, data, place=f"{directory}/{name}", mode=mode, owner=left, sync=False)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _as_owner(owner: Owner | None) -> Generator[Owner | None]:
    """What this thread makes in the block is the owner's; where that cannot be, yields to whom it is to be given.

    The kernel has these ids for each thread (setfsuid(2)), and none but file systems look at them. What is opened
    before needs no rights any more; what is not the owner's cannot be opened in the block.
    """
    if owner is None or os.geteuid() != 0:
        yield owner
        return
    uid, gid = owner
    try:
        # The group first: both need to be root's file system rights. They tell the id before, and no error.
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        taken = (_libc.setfsuid(_NOBODYS_ID), _libc.setfsgid(_NOBODYS_ID)) == owner
        if not taken:
            _as_root()
        yield None if taken else owner
    finally:
        _as_root()


def _as_root() -> None:
    _libc.setfsuid(0)
    _libc.setfsgid(os.getegid())


def make_directory(path: Path | str, *, mode: int = 0o700, owner: Owner | None = None) -> None:
    """Makes one directory that must not exist, with exactly this mode. The caller syncs its parent."""
    os.mkdir(path, mode)  # noqa: PTH102 - str or Path, on the hot path of a clone
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
    _record("mkdir", path, mode=mode)


def make_symlink(target: str, path: Path) -> None:
    path.symlink_to(target)
    _record("symlink", path, data=os.fsencode(target))


def make_hard_link(source: Path, path: Path) -> None:
    """A second name for the same file; not durable until the directory of ``path`` is synced."""
    os.link(source, path, follow_symlinks=False)
    _record("link", source, target=path)


def rename_durably(source: Path, destination: Path) -> None:
    """Renames, then syncs both parents. An existing destination file, or empty directory, is replaced."""
    with explained("cannot rename to", destination):
        source.rename(destination)
        _record("rename", source, target=destination)
        fsync_dir(destination.parent)
        if source.parent != destination.parent:
            fsync_dir(source.parent)


def unlink(path: Path) -> None:
    """Removes one file if it is there. Not durable until the directory is synced."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    _record("unlink", path)


def fsync_dir(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fsync(descriptor, "fsync_dir", path)
    finally:
        os.close(descriptor)


def syncfs(path: Path) -> None:
    """Makes everything written so far to the file system of ``path`` durable.

    Who comes while another thread's sync runs waits for the next one together with all others who do: one sync serves
    however many have written meanwhile. Raises OperatorError for a full disk or an input/output error, also one that
    an earlier write-back met.
    """
    with explained("cannot sync the file system of", path):
        _syncs.of(path.stat().st_dev).sync(path)
        _record("syncfs", path)


class _SharedSync:
    """The syncs of one file system, one after another."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun = 0
        self._ended = 0
        self._failed: dict[int, OSError] = {}
        """Of the syncs that somebody who waits has to know of, those that failed."""
        self._waiting: list[int] = []
        """For each who waits, the first sync whose failure may be theirs."""

    def sync(self, path: Path) -> None:
        """Returns once a sync has ended that began after this call. Raises its OSError."""
        with self._changed:
            mine = self._begun + 1
            # The kernel tells of a page that it could not write once: also the sync that runs now may have met ours.
            first = self._ended + 1
            self._waiting.append(first)
            try:
                while self._ended < mine and self._begun > self._ended:
                    self._changed.wait()
                if self._ended < mine:
                    self._run(path)
                for number in range(first, mine + 1):
                    if (error := self._failed.get(number)) is not None:
                        raise OSError(error.errno, error.strerror, str(path)) from error
            finally:
                self._waiting.remove(first)
                needed = min(self._waiting, default=self._ended + 1)
                self._failed = {number: error for number, error in self._failed.items() if number >= needed}

    def _run(self, path: Path) -> None:
        """Called and left with the lock held, which others have while the disk works."""
        self._begun = number = self._begun + 1
        self._changed.release()
        failed: OSError | None = None
        try:
            _sync_file_system(path)
        except OSError as error:
            failed = error
        finally:
            self._changed.acquire()
            if failed is not None:
                self._failed[number] = failed
            self._ended = number
            self._changed.notify_all()


class _Syncs:
    """The file systems that were synced, by device. There are as many as data directories lie on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: dict[int, _SharedSync] = {}

    def of(self, device: int) -> _SharedSync:
        with self._lock:
            return self._shared.setdefault(device, _SharedSync())


_syncs: Final = _Syncs()


def _sync_file_system(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def write_out(descriptor: int, size: int) -> None:
    """Lets the disk begin to write a new file of this size that is synced soon, while the next one is made.

    A hint: where it is not understood nothing happens, and a failure of the disk is told by the sync.
    """
    if size >= WRITE_OUT_BYTES_MIN:
        _libc.sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)


def remove_tree(path: Path) -> None:
    """Removes a directory and all below it, or one file; what is gone already does not matter.

    Never follows a symbolic link, also not one that appears while it works, and never leaves the tree: as root
    it runs over trees whose owner is hostile. Not durable until the parent is synced.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _remove_at(parent, path.name, path)
    finally:
        os.close(parent)


def _remove_at(directory: int, name: str, path: Path) -> None:
    try:
        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        if _unlink_at(directory, name):
            _record("unlink", path)
        return
    try:
        for _ in range(REMOVE_ROUNDS_MAX):
            with os.scandir(child) as entries:
                names = [entry.name for entry in entries]
            for inner in names:
                _remove_at(child, inner, path / inner)
            try:
                os.rmdir(name, dir_fd=directory)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue
            _record("rmdir", path)
            return
    finally:
        os.close(child)
    raise Unavailable(
        f"{path} is refilled while it is removed",
        next_step="end the process that still writes below it",
        path=str(path),
    )


def _unlink_at(directory: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def _write_at(
    directory: int | None,
    name: str,
    data: Buffer,
    *,
    place: Path | str,
    mode: int,
    owner: Owner | None,
    sync: bool,
) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, mode, dir_fd=directory)
    _record("create", place, mode=mode)
    try:
        try:
            if owner is not None:
                os.fchown(descriptor, *owner)
            if mode & 0o077:  # what is only the owner's no sane umask takes away
                os.fchmod(descriptor, mode)
            written = os.write(descriptor, data) if data else 0
            while written < len(data):
                written += os.write(descriptor, memoryview(data)[written:])
            _record("write", place, data=data)
            if sync:
                _fsync(descriptor, "fsync", place)
            else:
                write_out(descriptor, len(data))
        finally:
            os.close(descriptor)
    except OSError:
        os.unlink(name, dir_fd=directory)
        _record("unlink", place)
        raise


def _fsync(descriptor: int, kind: Literal["fsync", "fsync_dir"], place: Path | str) -> None:
    os.fsync(descriptor)
    _record(kind, place)


# ---------------------------------------------------------------------------------------------- locks


@contextlib.contextmanager
def lock_file(path: Path, *, timeout_seconds: float) -> Generator[int, None, None]:
    """Holds an flock on ``path`` (made when missing, never removed). Blocks its thread, not longer than told.

    Yields the descriptor that holds it: a child that inherits it keeps the lock should we be killed.
    Raises Unavailable when another process keeps the lock.
    """
    with explained("cannot lock", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + timeout_seconds
        while not try_lock(descriptor):
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"{path} is locked by another process for more than {timeout_seconds:g} s",
                    next_step="wait for the other tenantry process, or end it",
                    path=str(path),
                )
            time.sleep(LOCK_POLL_SECONDS)
        yield descriptor
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """An exclusive flock, or False at once. It belongs to the open file: every process that inherits it holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- access


def traversable_for(path: Path, uid: int | None, gid: int | None) -> bool:
    """Whether a process of this uid and gid without other groups may walk down to ``path`` and into it.

    ``None`` means this process's own. Knows mode bits only: an access control list that grants more is missed,
    which errs on the side of refusing.
    """
    uid = os.geteuid() if uid is None else uid
    gid = os.getegid() if gid is None else gid
    if uid == 0:
        return True
    resolved = path.resolve()
    for directory in (resolved, *resolved.parents):
        try:
            status = directory.stat()
        except OSError:
            return False
        if status.st_uid == uid:
            needed = stat.S_IXUSR
        elif status.st_gid == gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not status.st_mode & needed:
            return False
    return True


# ---------------------------------------------------------------------------------------------- recorder

OperationKind = Literal[
    "create", "write", "fsync", "rename", "link", "symlink", "unlink", "mkdir", "rmdir", "fsync_dir", "syncfs"
]
Loss = Literal["unsynced", "data", "nothing"]
"""What the power cut takes: ``unsynced`` every name and every byte not synced (the strictest reading of POSIX),
``data`` only bytes, while names survive early (what a journal that orders metadata first does), ``nothing``
(the process died, the machine did not)."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One operation. ``target`` is the new name of a rename or link; ``data`` the bytes of a write."""

    kind: OperationKind
    path: Path
    target: Path | None = None
    data: bytes = b""
    mode: int = 0


@dataclass(slots=True)
class _File:
    mode: int
    data: bytes = b""
    durable: bytes = b""


@dataclass(slots=True)
class _Link:
    target: bytes


@dataclass(slots=True)
class _Directory:
    mode: int
    entries: dict[str, _Node] = field(default_factory=dict[str, "_Node"])
    durable: dict[str, _Node] = field(default_factory=dict[str, "_Node"])


_Node = _File | _Link | _Directory


class Recorder:
    """Watches the operations of this module below ``root`` while installed (``with Recorder(root) as r``).

    What ``root`` holds at installation counts as durable. One recorder at a time in a process; any thread.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.operations: list[Recorded] = []
        self._lock = threading.Lock()
        self._before: list[Recorded] = []

    def __enter__(self) -> Recorder:
        global _recorder  # noqa: PLW0603 - one observer per process is the point
        if _recorder is not None:
            raise Defect("two recorders at once would each see half of the operations")
        self._before = list(_snapshot(self.root))
        _recorder = self
        return self

    def __exit__(self, *_: object) -> None:
        global _recorder  # noqa: PLW0603
        _recorder = None

    def note(self, operation: Recorded) -> None:
        with self._lock:
            self.operations.append(operation)

    def replay(self, prefix_length: int, into: Path, *, loss: Loss = "unsynced") -> None:
        """Makes ``into`` (which must not exist) hold what a power cut after ``prefix_length`` operations leaves."""
        if not 0 <= prefix_length <= len(self.operations):
            raise Defect(f"there are {len(self.operations)} operations, not {prefix_length}")
        disk = _Disk(self.root)
        for operation in self._before:
            disk.apply(operation)
        disk.sync_all()
        for operation in self.operations[:prefix_length]:
            disk.apply(operation)
        _materialise(disk.top, into, loss)


class _Disk:
    """A model of one file system: each file and directory has what is cached and what is durable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.top = _Directory(0o700)

    def apply(self, operation: Recorded) -> None:
        path = operation.path
        match operation.kind:
            case "mkdir":
                self._parent(path).entries[path.name] = _Directory(operation.mode)
            case "create":
                self._parent(path).entries[path.name] = _File(operation.mode)
            case "write":
                self._file(path).data = operation.data
            case "fsync":
                node = self._file(path)
                node.durable = node.data
            case "symlink":
                self._parent(path).entries[path.name] = _Link(operation.data)
            case "link":
                assert operation.target is not None
                node = self._parent(path).entries[path.name]
                self._parent(operation.target).entries[operation.target.name] = node
            case "rename":
                assert operation.target is not None
                node = self._parent(path).entries.pop(path.name)
                self._parent(operation.target).entries[operation.target.name] = node
            case "unlink" | "rmdir":
                # What other programs made was not recorded; its removal changes nothing that is modelled.
                with contextlib.suppress(KeyError):
                    self._parent(path).entries.pop(path.name)
            case "fsync_dir":
                node = self._at(path)
                assert isinstance(node, _Directory)
                node.durable = dict(node.entries)
            case "syncfs":
                self.sync_all()

    def sync_all(self) -> None:
        self._sync(self.top)

    def _sync(self, node: _Node) -> None:
        if isinstance(node, _File):
            node.durable = node.data
        elif isinstance(node, _Directory):
            node.durable = dict(node.entries)
            for child in node.entries.values():
                self._sync(child)

    def _at(self, path: Path) -> _Node:
        node: _Node = self.top
        for part in path.relative_to(self._root).parts:
            assert isinstance(node, _Directory)
            node = node.entries[part]
        return node

    def _parent(self, path: Path) -> _Directory:
        node = self._at(path.parent)
        assert isinstance(node, _Directory)
        return node

    def _file(self, path: Path) -> _File:
        node = self._at(path)
        assert isinstance(node, _File)
        return node


def _materialise(node: _Node, path: Path, loss: Loss) -> None:
    match node:
        case _Directory():
            path.mkdir(mode=0o700)
            entries = node.durable if loss == "unsynced" else node.entries
            for name, child in entries.items():
                _materialise(child, path / name, loss)
            path.chmod(node.mode)
        case _File():
            path.write_bytes(node.data if loss == "nothing" else node.durable)
            path.chmod(node.mode)
        case _Link():
            path.symlink_to(os.fsdecode(node.target))


def _snapshot(root: Path) -> Iterator[Recorded]:
    for entry in sorted(root.iterdir()):
        status = entry.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            yield Recorded("mkdir", entry, mode=mode)
            yield from _snapshot(entry)
        elif stat.S_ISLNK(status.st_mode):
            yield Recorded("symlink", entry, data=os.fsencode(entry.readlink()))
        elif stat.S_ISREG(status.st_mode):
            yield Recorded("create", entry, mode=mode)
            yield Recorded("write", entry, data=entry.read_bytes())


_recorder: Recorder | None = None


def _record(
    kind: OperationKind, path: Path | str, *, target: Path | None = None, data: Buffer = b"", mode: int = 0
) -> None:
    """Called right after the operation succeeded; costs one comparison when nobody watches."""
    recorder = _recorder
    if recorder is None:
        return
    path = Path(path)
    # Parents are resolved, names are not: an operation is on the link itself, never on what it points to.
    place = path.parent.resolve() / path.name if path.resolve() != recorder.root else recorder.root
    goal = None if target is None else target.parent.resolve() / target.name
    if kind == "syncfs" or place == recorder.root or recorder.root in place.parents:
        recorder.note(Recorded(kind, place, goal, bytes(data), mode))
