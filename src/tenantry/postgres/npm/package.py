"""The tarball of a build, unpacked by hand: plain files below ``native/``, and the links that it lists for a script.

npm's packages hold no links, so their makers list them in ``pg-symlinks.json`` and have node make them afterwards; we
make them ourselves, inside the tree or not at all. A package that holds anything else is refused as a whole.
"""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast

from tenantry.errors import OperatorError
from tenantry.postgres.engines import left_out
from tenantry.runtime import files

FILES_MAX: Final = 20_000
FILE_BYTES_MAX: Final = 256 * 1024 * 1024
TREE_BYTES_MAX: Final = 1024 * 1024 * 1024
LINKS_BYTES_MAX: Final = 1024 * 1024

_ROOT: Final = "native"
_LINKS: Final = "pg-symlinks.json"
_LICENCE: Final = "LICENSE"


def unpack(archive: BinaryIO, into: Path) -> None:
    """Puts the build into the empty directory ``into``: what is below ``native/``, without what serves nobody here.

    Not durable; the caller syncs. Raises OperatorError for a package that is not what it should be or a full disk.
    What it wrote until then stays, for the caller to remove.
    """
    links: bytes | None = None
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            left = TREE_BYTES_MAX
            for count, member in enumerate(tar):
                if count >= FILES_MAX:
                    raise _refused(f"it holds more than {FILES_MAX} files")
                path = _below_package(member.name)
                if member.isdir() or path is None:
                    continue
                if not member.isreg() or member.issparse():
                    raise _refused(f"{member.name!r} is not a plain file")
                left -= member.size
                if member.size > FILE_BYTES_MAX or left < 0:
                    raise _refused(f"{member.name!r} is larger than any build's")
                if str(path) == _LINKS and member.size > LINKS_BYTES_MAX:
                    raise _refused(f"{_LINKS} is larger than any build's")
                if len(path.parts) > 1 and left_out(path):
                    continue
                file = tar.extractfile(member)
                assert file is not None, "a plain file has a content"
                content = file.read()
                if str(path) == _LINKS:
                    links = content
                else:
                    _write(into, path, content, executable=bool(member.mode & 0o100))
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise _refused(f"it cannot be unpacked: {error}") from error
    for source, target in _parse_links(links or b"[]"):
        _link(into, source, target)


def _below_package(name: str) -> PurePosixPath | None:
    """A member's path below ``native/`` (or that of the licence); None for what is not ours. Raises OperatorError."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise _refused(f"{name!r} leads out of the package")
    inner = path.parts[1:]  # whatever the first directory is called, as npm does it
    if len(inner) == 1 and inner[0].startswith(_LICENCE):
        return PurePosixPath(inner[0])
    return PurePosixPath(*inner[1:]) if len(inner) > 1 and inner[0] == _ROOT else None


def _write(into: Path, path: PurePosixPath, content: bytes, *, executable: bool) -> None:
    try:
        _make_parents(into, path)
        files.write_new(str(into / path), content, mode=0o755 if executable else 0o644, owner=None)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refused(f"{str(path)!r} is in it twice") from error


def _make_parents(into: Path, path: PurePosixPath) -> None:
    place = into
    for name in path.parts[:-1]:
        place /= name
        if not place.exists():
            files.make_directory(place, mode=0o755)


def _parse_links(text: bytes) -> list[tuple[PurePosixPath, PurePosixPath]]:
    """Each link's source (what it points to) and target (where it is), below ``native/``."""
    try:
        listed: object = json.loads(text)
    except ValueError as error:
        raise _refused(f"{_LINKS} is no JSON") from error
    found: list[tuple[PurePosixPath, PurePosixPath]] = []
    for entry in cast("list[object]", listed) if isinstance(listed, list) else ():
        fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
        found.append((_inside(fields.get("source")), _inside(fields.get("target"))))
    if len(found) > FILES_MAX:
        raise _refused(f"{_LINKS} lists more than {FILES_MAX} links")
    return found


def _inside(value: object) -> PurePosixPath:
    path = PurePosixPath(value) if isinstance(value, str) and "\0" not in value else PurePosixPath("/")
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or path.parts[0] != _ROOT:
        raise _refused(f"{_LINKS} names {value!r}, which is not below {_ROOT}/")
    return PurePosixPath(*path.parts[1:])


def _link(into: Path, source: PurePosixPath, target: PurePosixPath) -> None:
    """Links within the tree, where neither end passes through a link made before. What is there already stays."""
    if not (into / source).exists() or left_out(target):
        return  # it pointed to what was left out
    for path in (source, target):
        if any((into / parent).is_symlink() for parent in path.parents):
            raise _refused(f"{_LINKS} leads through a link to {str(path)!r}")
    try:
        _make_parents(into, target)
        if not os.path.lexists(into / target):
            files.make_symlink(os.path.relpath(source, target.parent), into / target)
    except (NotADirectoryError, FileNotFoundError) as error:
        raise _refused(f"{_LINKS} names {str(target)!r}, which cannot be made") from error


def _refused(reason: str) -> OperatorError:
    return OperatorError(
        f"the package is not a build as it should be: {reason}",
        next_step="nothing of it was installed; check npm's registry: `npm config get registry`",
    )
