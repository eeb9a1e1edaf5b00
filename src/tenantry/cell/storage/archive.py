"""A head's own write-ahead log, kept: hard links to the segments that Postgres writes, and what is known of each.

``wal/`` of a head holds segments of its timeline from the one where it begins, never a parent's. A linked segment
grows with its twin, so nothing is copied; ``wal_recycle=off`` lets Postgres remove its name but never the content.
When a later segment has begun, the one before is complete: it is closed, with a checksum and the times in it.

The order is: link, sync the directory, then (the caller) advance the slot that keeps segments in ``pg_wal``.
Must never put one file's name over another's content, and never call a history whole that has a gap.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, cast

from tenantry.cell.storage.directories import OPEN_FILE, inside, own_directory, read_regular
from tenantry.cell.storage.segments import Segment, SegmentReader, parse_segment, segments_among, segments_in
from tenantry.errors import HistoryDamaged, HistoryError, HistoryGap
from tenantry.postgres import wal
from tenantry.postgres.lsn import Lsn, format_lsn
from tenantry.postgres.template import WAL_SEGMENT_BYTES
from tenantry.runtime import files
from tenantry.runtime.failpoints import failpoint

HISTORY_BYTES_MAX: Final = 1024 * 1024
"""Of a timeline history file: one line for each restore in a head's ancestry."""
_FACTS_SUFFIX: Final = ".json"
_RELEASED: Final = "released"
"""Names the segment before which nothing is linked any more: what is not kept there was let go."""
_RELEASED_BYTES_MAX: Final = 64
_FACTS_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a closed segment, which never changes again."""

    crc32: int
    first_record: int
    """Where the first record begins that starts in it (or behind it, when one record fills it)."""
    commits: int
    first_micros: int | None
    """Time of its first commit in log order, in microseconds since 2000-01-01 UTC."""
    last_micros: int | None
    max_micros: int | None
    """The latest time, which is another commit's than the last where a clock was set back."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Segments that are missing before others that are there."""

    start: Lsn
    end: Lsn

    def __str__(self) -> str:
        return f"{format_lsn(self.start)} to {format_lsn(self.end)}"


@dataclass(frozen=True, slots=True)
class Linked:
    """What one round did."""

    linked: tuple[str, ...]
    closed: tuple[str, ...]
    damaged: tuple[str, ...]
    """Segments that cannot be closed because they are not a readable log; each stays and is told each time."""
    advance_to: Lsn | None
    """Postgres may now remove its names of what lies before: every segment up to this one is linked durably."""


# ------------------------------------------------------------------------------------------------ linking


def link_new_segments(head_dir: Path, *, timeline: int, start: Lsn, owner_uid: int | None = None) -> Linked:
    """Links what Postgres has begun to write since the last round, and closes what it has completed.

    ``timeline`` and ``start`` are the head's: segments before the one with ``start`` are a parent's and stay out.
    With ``owner_uid`` only files of this user are taken. Works on running, stopped and crashed heads; durable when
    it returns. Blocking. Raises HistoryError when a name is taken by another file, OperatorError for a full disk.
    """
    own_directory(head_dir / "wal")
    if not (head_dir / "data").exists():
        # No branch runs the head any more: only its history is kept, and that is all there will be.
        return Linked((), (), (), None)
    with (
        files.explained("cannot keep the log of", head_dir),
        inside(head_dir, "data", "pg_wal") as source,
        inside(head_dir, "wal") as target,
    ):
        found = {entry.name: entry.inode() for entry in os.scandir(source)}
        kept = {entry.name: entry.inode() for entry in os.scandir(target)}
        linked: list[str] = []
        start = max(start, _released(target) if _RELEASED in kept else Lsn(0))
        for name in sorted(found):
            if not _belongs(name, timeline, start):
                continue
            if name not in kept:
                if _link(head_dir, source, target, name, owner_uid):
                    linked.append(name)
            elif kept[name] != found[name]:
                raise _another_file(head_dir, name)
        failpoint("archive.linked")
        closed, damaged = _close_complete(target, timeline, {*kept, *linked})
        if linked or closed:
            files.fsync_dir(head_dir / "wal")
        failpoint("archive.synced")
        numbers = segments_among({*kept, *linked}, timeline)
    return Linked(
        linked=tuple(linked),
        closed=tuple(closed),
        damaged=tuple(damaged),
        advance_to=numbers[max(numbers)].start if numbers else None,
    )


def let_go(directory: Path) -> Lsn:
    """Up to where retention has let go of the log that is kept in this directory; what is missing there is no gap."""
    return _released(directory) if (directory / _RELEASED).exists() else Lsn(0)


def _released(target: Path) -> Lsn:
    """Where the log begins that may still be linked."""
    segment = parse_segment(read_regular(target, _RELEASED, bytes_max=_RELEASED_BYTES_MAX).decode().strip())
    return Lsn(0) if segment is None else segment.start


def _another_file(head_dir: Path, name: str) -> HistoryError:
    return HistoryError(
        f"the log of {head_dir.name} has another file called {name} than Postgres has",
        next_step="two instances wrote one head, or it was copied with its history; make a new base",
        head=head_dir.name,
        segment=name,
    )


def _belongs(name: str, timeline: int, start: Lsn) -> bool:
    """Whether a file of pg_wal is this head's own log, or tells the ancestry of a timeline."""
    ancestor = wal.history_timeline(name)
    if ancestor is not None:
        return ancestor <= timeline
    segment = parse_segment(name)
    return segment is not None and segment.timeline == timeline and segment.end > start


def _link(head_dir: Path, source: Path, target: Path, name: str, owner_uid: int | None) -> bool:
    """Gives a file its second name; False when it is gone, or made ahead of its time and still unwritten."""
    try:
        descriptor = os.open(source / name, OPEN_FILE)
    except FileNotFoundError:
        return False
    try:
        facts = os.fstat(descriptor)
        segment = parse_segment(name)
        sized = facts.st_size <= HISTORY_BYTES_MAX if segment is None else facts.st_size == WAL_SEGMENT_BYTES
        owned = owner_uid is None or facts.st_uid == owner_uid
        if not (stat.S_ISREG(facts.st_mode) and sized and owned):
            raise HistoryError(
                f"{name} in pg_wal of {head_dir.name} is not a file that Postgres writes",
                next_step="look at who put it there",
                head=head_dir.name,
                segment=name,
            )
        if segment is not None and not wal.begun(
            os.pread(descriptor, wal.PAGE_BYTES, 0), segment.number, WAL_SEGMENT_BYTES
        ):
            return False
        try:
            files.make_hard_link(source / name, target / name)
        except FileNotFoundError:
            return False
        except FileExistsError:  # by another round at the same moment
            pass
        # Between opening and linking the name may have been given to another file.
        if (target / name).lstat().st_ino == facts.st_ino:
            return True
        raise _another_file(head_dir, name)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ closing


def _close_complete(target: Path, timeline: int, names: set[str]) -> tuple[list[str], list[str]]:
    """Writes down what is known of each complete segment. Which were closed, and which are damaged."""
    segments = segments_among(names, timeline)
    closed: list[str] = []
    damaged: list[str] = []
    newest = max(segments, default=0)
    for number, segment in sorted(segments.items()):
        if number == newest or segment.name + _FACTS_SUFFIX in names:
            continue
        try:
            facts = _examine(target, segment)
        except HistoryDamaged:
            damaged.append(segment.name)
            continue
        if facts is not None:
            # Without fsync: what a power cut takes is computed again, from a segment that Postgres has synced.
            files.write_atomic(
                target / (segment.name + _FACTS_SUFFIX), json.dumps(asdict(facts)).encode(), durable=False
            )
            closed.append(segment.name)
    return closed, damaged


def _examine(directory: Path, segment: Segment) -> Facts | None:
    """Reads a complete segment; None when its last record still grows in a later one. Raises HistoryDamaged."""
    read = SegmentReader(directory, segment.timeline)
    content = read(segment.number)
    first = wal.first_record(read, segment.number, segment_bytes=WAL_SEGMENT_BYTES)
    if content is None or first is None:
        raise HistoryDamaged(f"{segment.name} is not readable", segment=segment.name)
    micros: list[int] = []
    if first < segment.end:
        scan = wal.Scan(read, first, segment_bytes=WAL_SEGMENT_BYTES, until=segment.end)
        micros = [transaction.micros for transaction in scan.transactions() if transaction.committed]
        if not scan.complete and scan.stopped_at < segment.end:
            raise HistoryDamaged(f"{segment.name} is not readable: {scan.reason}", segment=segment.name)
        if not scan.complete:
            return None
    return Facts(
        crc32=zlib.crc32(content),
        first_record=first,
        commits=len(micros),
        first_micros=micros[0] if micros else None,
        last_micros=micros[-1] if micros else None,
        max_micros=max(micros, default=None),
    )


# ------------------------------------------------------------------------------------------------ looking


def segments(head_dir: Path, timeline: int) -> dict[int, Segment]:
    """The head's kept segments by number; empty before the first round."""
    return segments_in(head_dir / "wal", timeline)


def histories(head_dir: Path) -> list[str]:
    """Names of the timeline history files that the head keeps."""
    return sorted(name for name in os.listdir(head_dir / "wal") if wal.history_timeline(name) is not None)  # noqa: PTH208


def facts(head_dir: Path, segment: Segment) -> Facts | None:
    """What is known of a segment; None while it is open, or when that was lost and must be found out again."""
    try:
        text = read_regular(head_dir / "wal", segment.name + _FACTS_SUFFIX, bytes_max=_FACTS_BYTES_MAX)
        return Facts(**cast("dict[str, int]", json.loads(text)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def gaps(numbers: Iterable[int], start: Lsn) -> list[Gap]:
    """What is missing between the segment with ``start`` and the newest. Pure."""
    found: list[Gap] = []
    expected = start // WAL_SEGMENT_BYTES
    for number in sorted(number for number in numbers if number >= expected):
        if number > expected:
            found.append(Gap(Lsn(expected * WAL_SEGMENT_BYTES), Lsn(number * WAL_SEGMENT_BYTES)))
        expected = number + 1
    return found


def read_verified(head_dir: Path, segment: Segment) -> bytes:
    """A segment's content, compared with its checksum where it is closed.

    Raises HistoryGap when the file is gone and HistoryDamaged when it is not what was written.
    """
    try:
        content = read_regular(head_dir / "wal", segment.name, bytes_max=WAL_SEGMENT_BYTES)
    except FileNotFoundError as error:
        raise HistoryGap(
            f"segment {segment.name} of {head_dir.name} is missing", head=head_dir.name, segment=segment.name
        ) from error
    known = facts(head_dir, segment)
    if len(content) != WAL_SEGMENT_BYTES or (known is not None and zlib.crc32(content) != known.crc32):
        raise HistoryDamaged(
            f"segment {segment.name} of {head_dir.name} is not what was written",
            next_step="look for disk errors in the kernel log; a new base makes later points reachable again",
            client_text=f"the history of this branch is damaged at {format_lsn(segment.start)}",
            head=head_dir.name,
            segment=segment.name,
        )
    return content


def delete(head_dir: Path, doomed: Iterable[Segment]) -> None:
    """Lets kept segments go, oldest first, for good: those that Postgres itself still has are not linked again.

    Blocking; harmless for segments that are gone already, and for none at all.
    """
    ordered = sorted(doomed, key=lambda each: each.number)
    if not ordered:
        return
    # Never the newest: should the head run again, Postgres goes on writing there.
    newest = max(segments(head_dir, ordered[-1].timeline), default=0)
    following = Segment(ordered[-1].timeline, min(ordered[-1].number + 1, newest))
    with files.explained("cannot delete from the log of", head_dir), inside(head_dir, "wal") as directory:
        released = let_go(directory)
        if following.start > released:
            files.write_atomic(directory / _RELEASED, following.name.encode())
        failpoint("archive.released")
        for segment in ordered:
            # What is known of it first: a segment that is left is let go again, and found out about again.
            files.unlink(directory / (segment.name + _FACTS_SUFFIX))
            failpoint("archive.unlinked")
            files.unlink(directory / segment.name)
        files.fsync_dir(head_dir / "wal")
