"""WAL segments as files: what a name says, and how their content is read from a directory that may be hostile."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tenantry.cell.storage.directories import opened_regular, read_regular
from tenantry.errors import InvalidInput
from tenantry.postgres.lsn import Lsn, segment_name, segment_start
from tenantry.postgres.template import WAL_SEGMENT_BYTES
from tenantry.postgres.wal import PAGE_BYTES, Buffer


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

    The last two are kept: a record crosses from one to the next, and is looked at from both. Where not all is wanted,
    only the pages from that of ``begin`` up to ``end`` are read, and zeros stand for the others.
    """

    def __init__(self, directory: Path, timeline: int, *, begin: Lsn | None = None, end: Lsn | None = None) -> None:
        self._directory = directory
        self._timeline = timeline
        self._begin = begin
        self._end = end
        self._recent: dict[int, Buffer] = {}

    def __call__(self, number: int) -> Buffer | None:
        content = self._recent.get(number)
        if content is None:
            try:
                content = self._read(Segment(self._timeline, number))
            except FileNotFoundError:
                return None
            if len(self._recent) == 2:
                del self._recent[next(iter(self._recent))]
            self._recent[number] = content
        return content

    def _read(self, segment: Segment) -> Buffer:
        begin = 0 if self._begin is None else max(0, self._begin - self._begin % PAGE_BYTES - segment.start)
        end = WAL_SEGMENT_BYTES if self._end is None else min(WAL_SEGMENT_BYTES, self._end - segment.start)
        if end - begin == WAL_SEGMENT_BYTES:
            return read_regular(self._directory, segment.name, bytes_max=WAL_SEGMENT_BYTES)
        content = bytearray(WAL_SEGMENT_BYTES)  # costs nothing where nobody writes
        with opened_regular(self._directory, segment.name, bytes_max=WAL_SEGMENT_BYTES) as descriptor:
            while begin < end and (count := os.preadv(descriptor, [memoryview(content)[begin:end]], begin)):
                begin += count
        return content
