"""WAL segments as files: what a name says, and how their content is read from a directory that may be hostile."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tenantry.cell.storage.directories import read_regular
from tenantry.errors import InvalidInput
from tenantry.postgres.lsn import Lsn, segment_name, segment_start
from tenantry.postgres.template import WAL_SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a log."""

    timeline: int
    number: int
    """Its first position divided by the segment size."""

    @property
    def name(self) -> str:
        return segment_name(self.timeline, self.start, WAL_SEGMENT_BYTES)

    @property
    def start(self) -> Lsn:
        return Lsn(self.number * WAL_SEGMENT_BYTES)

    @property
    def end(self) -> Lsn:
        return Lsn((self.number + 1) * WAL_SEGMENT_BYTES)


def number_of(lsn: Lsn) -> int:
    """The segment that holds the byte at ``lsn``."""
    return lsn // WAL_SEGMENT_BYTES


def parse_segment(name: str) -> Segment | None:
    """None for the names of other files."""
    try:
        timeline, start = segment_start(name, WAL_SEGMENT_BYTES)
    except InvalidInput:
        return None
    return Segment(timeline, number_of(start))


def segments_among(names: Iterable[str], timeline: int) -> dict[int, Segment]:
    """The segments of one timeline by number."""
    parsed = (parse_segment(name) for name in names)
    return {segment.number: segment for segment in parsed if segment is not None and segment.timeline == timeline}


def segments_in(directory: Path, timeline: int) -> dict[int, Segment]:
    """The same of the files in a directory; empty when there is none."""
    try:
        return segments_among(os.listdir(directory), timeline)  # noqa: PTH208 - names, not paths
    except FileNotFoundError:
        return {}


def last_written(directory: Path) -> tuple[str, int] | None:
    """The file of a log's directory that was written last, and when: while it is the same, so is the log."""
    with os.scandir(directory) as entries:
        found = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in entries]
    moment, name = max(found, default=(0, ""))
    return (name, moment) if name else None


class SegmentReader:
    """Reads segments of one timeline from a directory, for ``wal.Scan``.

    The last two are kept: a record crosses from one to the next, and is looked at from both.
    """

    def __init__(self, directory: Path, timeline: int) -> None:
        self._directory = directory
        self._timeline = timeline
        self._recent: dict[int, bytes] = {}

    def __call__(self, number: int) -> bytes | None:
        content = self._recent.get(number)
        if content is None:
            name = Segment(self._timeline, number).name
            try:
                content = read_regular(self._directory, name, bytes_max=WAL_SEGMENT_BYTES)
            except FileNotFoundError:
                return None
            if len(self._recent) == 2:
                del self._recent[next(iter(self._recent))]
            self._recent[number] = content
        return content
