"""Directories whose owner may be hostile, walked without following a link.

Under root a data directory belongs to the tenant's uid, and code that broke out of its Postgres may put a symbolic
link wherever it can write. What lies beside ``data`` (``wal``, ``bases``) is the cell's own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Final

from tenantry.errors import OperatorError
from tenantry.runtime import files

OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def inside(top: Path, *names: str) -> Generator[Path, None, None]:
    """A path to ``top/names...`` that stays this very directory while the block runs, whoever renames what.

    Neither ``top`` itself nor a name below it may be a link. Raises OSError as open does.
    """
    descriptor = os.open(top, OPEN_DIRECTORY)
    try:
        for name in names:
            below = os.open(name, OPEN_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def own_directory(path: Path) -> Path:
    """The cell's own directory at ``path``, made (0700, durably) if it is missing.

    Raises OperatorError when something else is there.
    """
    with files.explained("cannot make", path):
        try:
            facts = path.lstat()
        except FileNotFoundError:
            files.make_directory(path)
            files.fsync_dir(path.parent)
            return path
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise OperatorError(
            f"{path} is not a directory of the cell",
            next_step="look at who put it there; move it away",
            path=str(path),
        )
    return path


def read_regular(directory: Path, name: str, *, bytes_max: int) -> bytes:
    """The content of a plain file; never follows a link or waits for a pipe. Raises OSError, or if it is larger."""
    with opened_regular(directory, name, bytes_max=bytes_max) as descriptor:
        content = os.read(descriptor, bytes_max + 1)
        while chunk := os.read(descriptor, bytes_max + 1 - len(content)):
            content += chunk
        if len(content) > bytes_max:
            raise OperatorError(f"{name} grows while it is read", path=str(directory / name))
        return content


@contextlib.contextmanager
def opened_regular(directory: Path, name: str, *, bytes_max: int) -> Generator[int, None, None]:
    """The same file's descriptor while the block runs, to read parts of it."""
    descriptor = os.open(directory / name, OPEN_FILE)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > bytes_max:
            raise OperatorError(
                f"{name} is not a plain file of at most {bytes_max} bytes",
                next_step="look at who put it there",
                path=str(directory / name),
            )
        yield descriptor
    finally:
        os.close(descriptor)


_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_TOP_DIRECTORY: Final = 0x20000


def spread(directory: Path) -> bool:
    """Tells ext4 that what lies below belongs apart (``chattr +T``): each new subdirectory gets a region of its own.

    Otherwise all trees share one, and an ext4 without a journal steps over every inode freed there within the last
    minutes each time it looks for a new one: clones take ten times as long while others are deleted. False where this
    does not exist.
    """
    descriptor = os.open(directory, OPEN_DIRECTORY)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        (value,) = struct.unpack("=q", flags)
        if not value & _TOP_DIRECTORY:
            fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("=q", value | _TOP_DIRECTORY))
    except OSError:  # another file system, or not ours: it is only slower
        return False
    finally:
        os.close(descriptor)
    return True
