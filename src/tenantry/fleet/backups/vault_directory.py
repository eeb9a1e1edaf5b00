"""A vault in a directory: each object a file, written under another name, fsynced and renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from tenantry.errors import NotFound, VaultDenied, VaultError
from tenantry.fleet.backups.vault import READ_BYTES_MAX, Stored, check_key
from tenantry.runtime.files import fsync_dir

PARTS: Final = ".parts"
"""What is being written. A process that dies leaves it there; nobody sees it under its key."""
PART_SECONDS_MAX: Final = 7 * 24 * 3600.0
"""A part that nobody has written to for so long belongs to nobody any more."""
_TRIES_MAX: Final = 10


class DirectoryVault:
    """Its directories are closed to other users, whatever the umask."""

    def __init__(self, url: str) -> None:
        self.url: Final = url
        self._root: Final = Path(unquote(urlsplit(url).path))
        self._parts: Final = self._root / PARTS

    def write(self, key: str, chunks: Iterable[bytes], *, bytes_expected: int = 0) -> Stored:
        del bytes_expected  # a file has no parts
        target = self._path(key)
        with self._refusals("write", key):
            self._make_directory(self._parts)
            self._remove_old_parts()
            part = self._parts / secrets.token_hex(8)
            opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(opened, "wb", buffering=0) as file:
                for chunk in chunks:
                    with self._refusals("write", key):
                        _write_all(file.fileno(), chunk)
                with self._refusals("write", key):
                    os.fsync(file.fileno())
            with self._refusals("write", key):
                self._rename(part, target)
                fsync_dir(target.parent)
                return _stored(key, target.stat())
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def read(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        with self._refusals("read", key):
            try:
                file = path.open("rb", buffering=0)
            except (FileNotFoundError, IsADirectoryError):
                raise _none(key, self.url) from None
        with file:
            while True:
                with self._refusals("read", key):
                    chunk = file.read(READ_BYTES_MAX)
                if not chunk:
                    return
                yield chunk

    def read_small(self, key: str, *, bytes_max: int) -> bytes:
        whole = bytearray()
        for chunk in self.read(key):
            whole += chunk
            if len(whole) > bytes_max:
                raise VaultError(f"{key} in {self.url} has more than {bytes_max} bytes")
        return bytes(whole)

    def look(self, key: str) -> Stored | None:
        path = self._path(key)
        with self._refusals("look at", key):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return None if path.is_dir() else _stored(key, status)

    def list(self, prefix: str) -> Iterator[Stored]:
        root = self._path(prefix.strip("/")) if prefix.strip("/") else self._root
        if not self._root.is_dir():
            raise VaultError(
                f"the vault's directory {self._root} is not there",
                next_step="mount what it is on, or write a first backup",
            )
        yield from self._list(root)

    def _list(self, directory: Path) -> Iterator[Stored]:
        with self._refusals("list", str(directory.relative_to(self._root))):
            try:
                entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != PARTS or directory != self._root:
                    yield from self._list(directory / entry.name)
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # it was deleted meanwhile
                    yield _stored(str(Path(entry.path).relative_to(self._root)), entry.stat())

    def delete(self, keys: Sequence[str]) -> None:
        touched: set[Path] = set()
        for key in keys:
            path = self._path(key)
            with self._refusals("delete", key), contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                touched.add(path.parent)
        for directory in touched:
            with self._refusals("delete", str(directory.relative_to(self._root))):
                with contextlib.suppress(FileNotFoundError):
                    fsync_dir(directory)
                self._remove_if_empty(directory)

    def _remove_if_empty(self, directory: Path) -> None:
        for each in (directory, *directory.parents):
            if each == self._root:
                return
            try:
                each.rmdir()
            except OSError as error:
                if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                    return
                raise

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _rename(self, part: Path, target: Path) -> None:
        """Somebody who deletes the folder's last object may take the folder away between its making and its use."""
        for attempt in range(_TRIES_MAX):
            self._make_directory(target.parent)
            try:
                part.rename(target)
            except FileNotFoundError:
                if attempt == _TRIES_MAX - 1:
                    raise
            else:
                return

    def _make_directory(self, directory: Path) -> None:
        missing = [each for each in (directory, *directory.parents) if not each.exists()]
        for each in reversed(missing):
            try:
                each.mkdir(mode=0o700)
            except FileExistsError:
                continue
            except FileNotFoundError:  # taken away again; who renames into it tries again
                return
            with contextlib.suppress(FileNotFoundError):
                fsync_dir(each.parent)

    def _remove_old_parts(self) -> None:
        now = time.time()
        for entry in os.scandir(self._parts):
            with contextlib.suppress(FileNotFoundError):
                if now - entry.stat().st_mtime > PART_SECONDS_MAX:
                    Path(entry.path).unlink()

    @contextlib.contextmanager
    def _refusals(self, verb: str, key: str) -> Generator[None]:
        try:
            yield
        except PermissionError as error:
            raise VaultDenied(
                f"this user may not {verb} {key} in {self.url}: {error.strerror}",
                next_step=f"give the user who runs this all rights in {self._root}",
                missing=verb,
            ) from error
        except OSError as error:
            raise VaultError(
                f"could not {verb} {key} in {self.url}: {error.strerror}",
                next_step=f"look after the disk that {self._root} is on",
            ) from error


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _stored(key: str, status: os.stat_result) -> Stored:
    return Stored(
        key=key,
        size=status.st_size,
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
        etag=f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}",
    )


def _none(key: str, url: str) -> NotFound:
    return NotFound(f"there is no {key} in {url}")
