"""Files of ours in a user's repository: what would change is shown first, written after, and written twice is once.

A file of ours says so in its first lines. Who takes that line away has made the file their own: it is left alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from tenantry.errors import InvalidInput, OperatorError
from tenantry.runtime.files import explained, make_directory, write_atomic

MARK: Final = "Written by `tenantry generate"
"""What makes a file ours. The rest of the line tells readers how to make it theirs."""
MARK_LINES_MAX: Final = 6
"""The mark stands in one of the first lines, so that a text that speaks of it is not taken for ours."""
FILE_BYTES_MAX: Final = 2**20
FILES_MAX: Final = 20_000
_MODE: Final = 0o644

State = Literal["new", "changed", "same", "gone", "theirs"]
"""``gone``: ours, and no longer wanted. ``theirs``: made their own by somebody; left alone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file as it shall be."""

    path: PurePosixPath
    """From the root of the repository."""
    text: str
    mark: str = MARK
    """What makes one that is there ours, where the file has no room for a sentence."""


@dataclass(frozen=True, slots=True)
class Change:
    path: PurePosixPath
    state: State
    before: str | None
    after: str | None

    @property
    def needed(self) -> bool:
        """Whether the repository is not as it would be generated."""
        return self.state in ("new", "changed", "gone")

    def diff(self) -> str:
        """As ``diff -u`` has it, from what is there to what would be; nothing where nothing changes."""
        if not self.needed:
            return ""
        before, after = (self.before or "").splitlines(True), (self.after or "").splitlines(True)
        old = "/dev/null" if self.before is None else f"a/{self.path}"
        new = "/dev/null" if self.after is None else f"b/{self.path}"
        return "".join(difflib.unified_diff(before, after, old, new))


def heading(command: str, *, comment: str) -> str:
    """The line that makes a file ours. ``command``: what follows ``tenantry generate``."""
    return f"{comment} {MARK} {command}`. Take this line away, and the file is yours: it is then left alone."


def plan_files(root: Path, wanted: Iterable[Wanted], *, ours: Sequence[str] = ()) -> list[Change]:
    """What writing would change, in the order of paths. ``ours`` are patterns below ``root`` of files that may be left.

    Reads, and writes nothing. Raises InvalidInput for a root that is no directory or a path that leads out of it,
    OperatorError for what cannot be read.
    """
    if not root.is_dir():
        raise InvalidInput(f"{root} is not a directory", next_step="name the root of your repository with --root")
    files = {each.path: each for each in wanted}
    if len(files) > FILES_MAX:
        raise InvalidInput(f"{len(files)} files would be written; {FILES_MAX} are the most")
    changes = [_change(root, each) for each in files.values()]
    changes.extend(_left(root, ours, files.keys()))
    return sorted(changes, key=lambda change: change.path)


def write_files(root: Path, changes: Iterable[Change]) -> None:
    """Does what was planned. Safe to repeat; one that was interrupted leaves whole files."""
    for change in changes:
        if not change.needed:
            continue
        place = root / change.path
        if change.after is None:
            with explained("cannot remove", place):
                place.unlink(missing_ok=True)
            _remove_empty(root, place.parent)
            continue
        _make_directories(place.parent)
        write_atomic(place, change.after.encode(), mode=_MODE)


def _change(root: Path, wanted: Wanted) -> Change:
    path, text, before = wanted.path, wanted.text, _read(root, wanted.path)
    if before is None:
        return Change(path, "new", None, text)
    if before == text:
        return Change(path, "same", before, text)
    ours = _is_ours(before, wanted.mark)
    return Change(path, "changed", before, text) if ours else Change(path, "theirs", before, before)


def _left(root: Path, patterns: Sequence[str], wanted: Iterable[PurePosixPath]) -> Iterator[Change]:
    known = set(wanted)
    for pattern in patterns:
        for place in sorted(root.glob(pattern)):
            path = PurePosixPath(place.relative_to(root).as_posix())
            if path in known or not place.is_file() or place.is_symlink():
                continue
            if (text := _read(root, path)) is not None and _is_ours(text, MARK):
                yield Change(path, "gone", text, None)


def _is_ours(text: str, mark: str) -> bool:
    return any(mark in line for line in text.splitlines()[:MARK_LINES_MAX])


def _read(root: Path, path: PurePosixPath) -> str | None:
    place = root / path
    if path.is_absolute() or not place.resolve().is_relative_to(root.resolve()):
        raise InvalidInput(f"{path} leads out of {root}", next_step="name a place inside of the repository")
    try:
        with place.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperatorError(f"{place} cannot be read: {error.strerror}", path=str(place)) from error
    if len(content) > FILE_BYTES_MAX:
        raise OperatorError(f"{place} is longer than {FILE_BYTES_MAX} bytes; it is not of ours")
    return content.decode(errors="replace")


def _make_directories(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_directories(directory.parent)
    with explained("cannot make", directory):
        make_directory(directory, mode=0o755)


def _remove_empty(root: Path, directory: Path) -> None:
    """A customer's folder goes with the last file in it; the root never does."""
    while directory != root and directory.is_dir() and not any(directory.iterdir()):
        with explained("cannot remove", directory):
            directory.rmdir()
        directory = directory.parent
