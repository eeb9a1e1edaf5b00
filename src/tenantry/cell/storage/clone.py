"""Copies of data directories: by reflink where the file system shares blocks, by copying elsewhere.

A driver has one verb and declares what it can; ``probe`` tries each in the directory that it would work in. One that
declares a reflink and cannot make it raises: it never copies in silence.

Must never follow a link of the tree it reads (its owner may be hostile), and never put a file over another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from tenantry.cell.storage.directories import OPEN_DIRECTORY, OPEN_FILE
from tenantry.errors import Defect, OperatorError
from tenantry.runtime import files
from tenantry.runtime.files import Owner

_FICLONE: Final = 0x40049409
_CHUNK_BYTES: Final = 1024 * 1024
_CANNOT: Final = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM})
"""How kernels and file systems say that they do not have a call at all."""
FILES_MAX: Final = 2_000_000
"""A tree with more entries is not a data directory of ours."""


class Driver(Protocol):
    """How one file becomes two."""

    @property
    def name(self) -> str: ...

    @property
    def reflink(self) -> bool:
        """Whether a clone shares blocks, so that its cost does not grow with the file."""
        ...

    def clone_file(self, source: int, target: int, size: int) -> int:
        """Makes the empty file ``target`` hold the first ``size`` bytes of ``source``, or what there is of them.

        Answers how many there were. A reflink clones all that there is at that moment. Raises OSError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Reflink:
    """FICLONE: XFS, btrfs, ZFS 2.2 and newer, bcachefs."""

    name: str = "reflink"
    reflink: bool = True

    def clone_file(self, source: int, target: int, size: int) -> int:
        if not size:
            return 0
        fcntl.ioctl(target, _FICLONE, source)
        return os.fstat(target).st_size


@dataclass(frozen=True, slots=True)
class CopyFileRange:
    """A copy inside the kernel."""

    name: str = "copy_file_range"
    reflink: bool = False

    def clone_file(self, source: int, target: int, size: int) -> int:
        done = 0
        while done < size and (copied := os.copy_file_range(source, target, size - done)):
            done += copied
        return done


@dataclass(frozen=True, slots=True)
class ReadWrite:
    """A copy through our own memory: works everywhere."""

    name: str = "copy"
    reflink: bool = False

    def clone_file(self, source: int, target: int, size: int) -> int:
        done = 0
        while done < size and (chunk := os.read(source, min(size - done, _CHUNK_BYTES))):
            done += len(chunk)
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]
        return done


DRIVERS: Final[tuple[Driver, ...]] = (Reflink(), CopyFileRange(), ReadWrite())
"""The best first."""


def probe(directory: Path) -> Driver:
    """The best driver that works in this directory, tried with a file. Blocking; raises OperatorError."""
    content = os.urandom(64 * 1024)
    name = f".probe.{os.urandom(4).hex()}"
    with files.explained("cannot try how to clone in", directory):
        source, target = directory / f"{name}.a", directory / f"{name}.b"
        source.write_bytes(content)
        try:
            for driver in DRIVERS:
                try:
                    _clone_one(driver, source, target)
                    worked = target.read_bytes() == content
                except OSError as error:
                    if error.errno not in _CANNOT:
                        raise
                    worked = False
                finally:
                    target.unlink(missing_ok=True)
                if worked:
                    return driver
        finally:
            source.unlink()
    raise OperatorError(f"a file copied in {directory} is not equal to its original", path=str(directory))


def _clone_one(driver: Driver, source: Path, target: Path) -> None:
    with source.open("rb") as reading, target.open("xb") as writing:
        driver.clone_file(reading.fileno(), writing.fileno(), os.fstat(reading.fileno()).st_size)


# ------------------------------------------------------------------------------------------------ data directories

# What belongs to a running instance, is written anew at each start, or would tie the copy to its original: slots of
# the original would hold back the copy's WAL. Directories named here are made, and stay empty.
_LEFT_OUT: Final = re.compile(
    r"postmaster\.(pid|opts)|postgresql(\.auto)?\.conf|pg_(hba|ident)\.conf|(recovery|standby)\.signal"
    r"|backup_label(\.old)?|tablespace_map(\.old)?|(.*/)?pg_internal\.init(\..*)?|(.*/)?pgsql_tmp[^/]*"
    r"|base/\d+/t\d+_\d+(_[a-z]+)?(\.\d+)?"
    r"|(pg_replslot|pg_stat_tmp|pg_dynshmem|pg_notify|pg_serial|pg_snapshots|pg_subtrans|pg_wal)/.+"
)


@dataclass(frozen=True, slots=True)
class Cloned:
    """How much a clone was."""

    files: int
    bytes: int


class Interrupted(Exception):
    """A clone was given up because ``interrupted`` said so; nothing of it is left."""


def clone_data(
    driver: Driver,
    source: Path,
    target: Path,
    *,
    owner: Owner | None,
    interrupted: Callable[[], bool] = lambda: False,
    changing: bool = False,
    only: Callable[[str], bool] = lambda _: True,
) -> Cloned:
    """Makes ``target`` a copy of the data directory ``source``, belonging to ``owner``, with an empty ``pg_wal``.

    ``source`` must not change meanwhile: its instance is stopped, or held still (``freeze``). With ``changing`` it
    may, and the copy is only good for replaying the log of the time in which it was made (a base backup).
    Of files only those are copied whose relative path ``only`` says yes to; directories all.
    Not durable: the caller syncs. On failure nothing is left behind. Blocking. Raises Interrupted, or OperatorError: a
    full disk, a link in the tree, or a driver that cannot do what it declares.
    """
    with files.explained("cannot clone to", target):
        source_fd = os.open(source, OPEN_DIRECTORY)
        try:
            try:
                files.make_directory(target, owner=owner)
            except FileExistsError as error:
                raise Defect(f"{target} exists; a clone never goes over what is there", path=str(target)) from error
            try:
                return _Work(driver, source, target, owner, interrupted, changing, only).run(source_fd)
            except BaseException:
                with contextlib.suppress(OSError):  # the first error is the one to tell
                    files.remove_tree(target)
                raise
        except OSError as error:
            if error.errno in _CANNOT:
                raise OperatorError(
                    f"{driver.name} from {source} to {target} is not possible: {error.strerror}",
                    next_step="keep the whole data directory on one file system, or restart the cell if it was moved",
                    path=str(target),
                    driver=driver.name,
                ) from error
            raise
        finally:
            os.close(source_fd)


@dataclass(slots=True)
class _Work:
    driver: Driver
    source: Path
    target: Path
    owner: Owner | None
    interrupted: Callable[[], bool]
    changing: bool
    only: Callable[[str], bool]
    files: int = 0
    bytes: int = 0

    def run(self, source_fd: int) -> Cloned:
        target_fd = os.open(self.target, OPEN_DIRECTORY)
        try:
            self._directory(source_fd, target_fd, "")
        finally:
            os.close(target_fd)
        return Cloned(self.files, self.bytes)

    def _directory(self, source_fd: int, target_fd: int, prefix: str) -> None:
        for name in sorted(os.listdir(source_fd)):
            relative = prefix + name
            if _LEFT_OUT.fullmatch(relative):
                continue
            if self.interrupted():
                raise Interrupted
            try:
                descriptor = os.open(name, OPEN_FILE, dir_fd=source_fd)
            except FileNotFoundError:
                if self.changing:
                    continue
                raise OperatorError(
                    f"{self.source / relative} vanished while it was cloned: something still writes there",
                    next_step="find the process with /proc/*/cwd and end it",
                    path=str(self.source / relative),
                ) from None
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    raise self._strange(relative) from error
                raise
            try:
                self._entry(descriptor, target_fd, name, relative)
            finally:
                os.close(descriptor)

    def _entry(self, descriptor: int, target_fd: int, name: str, relative: str) -> None:
        facts = os.fstat(descriptor)
        self.files += 1
        if self.files > FILES_MAX:
            raise OperatorError(f"{self.source} has more than {FILES_MAX} entries", path=str(self.source))
        if stat.S_ISDIR(facts.st_mode):
            os.mkdir(name, 0o700, dir_fd=target_fd)
            below = os.open(name, OPEN_DIRECTORY, dir_fd=target_fd)
            try:
                self._own(below)
                self._directory(descriptor, below, f"{relative}/")
            finally:
                os.close(below)
        elif stat.S_ISREG(facts.st_mode):
            if not self.only(relative):
                return
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            written = os.open(name, flags, 0o600, dir_fd=target_fd)
            try:
                self._own(written)
                done = self.driver.clone_file(descriptor, written, facts.st_size)
                if not self.driver.reflink:
                    files.write_out(written, done)
            finally:
                os.close(written)
            if done != facts.st_size and not self.changing:
                raise OSError(errno.EIO, f"{relative} had {done} of {facts.st_size} bytes")
            self.bytes += done
        else:
            raise self._strange(relative)

    def _own(self, descriptor: int) -> None:
        if self.owner is not None:
            os.fchown(descriptor, *self.owner)

    def _strange(self, relative: str) -> OperatorError:
        return OperatorError(
            f"{self.source / relative} is neither a file nor a directory; Postgres made none such",
            next_step="look at who put it there and remove it",
            path=str(self.source / relative),
        )


def regular_files(tree: Path) -> Iterator[tuple[str, int]]:
    """Relative path and size of each file of a tree, in order, not following links."""
    descriptor = os.open(tree, OPEN_DIRECTORY)
    try:
        yield from _files_below(descriptor, "")
    finally:
        os.close(descriptor)


def _files_below(descriptor: int, prefix: str) -> Iterator[tuple[str, int]]:
    with os.scandir(descriptor) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                below = os.open(entry.name, OPEN_DIRECTORY, dir_fd=descriptor)
                try:
                    yield from _files_below(below, f"{prefix}{entry.name}/")
                finally:
                    os.close(below)
            elif entry.is_file(follow_symlinks=False):
                yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:  # of a running instance: it is gone meanwhile
            continue
