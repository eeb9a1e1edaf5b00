"""The write-ahead log as bytes: pages, records across pages and segments, and when transactions ended. Pure.

A ``Scan`` asks for segments by number and yields records until the log ends, which it does wherever the next record
is not whole: zeros, a torn page, a broken link to the previous record. The formats are those of Postgres 14 to 18
(``src/include/access/xlog_internal.h``, ``xlogrecord.h`` and ``xact.h``), which differ only in the pages' magic number.

Must never read a file, and never take for a record what Postgres' own recovery would not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from tenantry.errors import InvalidInput
from tenantry.postgres import pages
from tenantry.postgres.lsn import Lsn, parse_lsn

Buffer = bytes | bytearray | memoryview
ReadSegment = Callable[[int], Buffer | None]
"""The bytes of segment number N (its first position divided by the segment size), or None when there is none."""

PAGE_BYTES: Final = 8192
"""XLOG_BLCKSZ of every build we run; a page that says otherwise ends the log."""
MAGICS: Final = {0xD10D: 14, 0xD110: 15, 0xD113: 16, 0xD116: 17, 0xD118: 18}
"""``xlp_magic`` and the major whose pages carry it."""

_PAGE: Final = struct.Struct("<HHIQI")
_LONG: Final = struct.Struct("<QII")
_SHORT_BYTES: Final = 24
HEADER_BYTES_MAX: Final = 40
"""The header of a segment's first page; other pages have 24 bytes."""
_CONTINUES: Final = 0x0001
_IS_LONG: Final = 0x0002
_OVERWRITES: Final = 0x0008
"""The record that ran into this page was given up in a crash; a new one begins here instead."""

_RECORD: Final = struct.Struct("<IIQBBxxI")
_RECORD_BYTES: Final = 24
_CRC_COVERS: Final = 20
"""The header's bytes that the record's checksum covers, after everything behind the header."""
RECORD_BYTES_MAX: Final = 1020 * 1024 * 1024
_NEVER: Final = 1 << 64
"""Behind every position."""

RM_XLOG: Final = 0
RM_XACT: Final = 1
_SWITCH: Final = 0x40
_XACT_OPCODE: Final = 0x70
_COMMITS: Final = (0x00, 0x30)
_ABORTS: Final = (0x20, 0x40)
_XACT_PREFIX_BYTES: Final = 64
"""Holds a record header, every block header a transaction's record can have, and the time."""
_DATA_SHORT: Final = 255
_DATA_LONG: Final = 254
_ORIGIN: Final = 253
_TOPLEVEL_XID: Final = 252

_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


# ------------------------------------------------------------------------------------------------ times


def to_micros(moment: datetime) -> int:
    """Microseconds since 2000-01-01 UTC, as commit records carry time. ``moment`` is aware."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def from_micros(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


# ------------------------------------------------------------------------------------------------ pages


@dataclass(frozen=True, slots=True)
class PageHeader:
    major: int
    timeline: int
    address: Lsn
    continues: bool
    """It begins with the rest of a record that started earlier."""
    overwrites: bool
    remaining: int
    """Bytes of that record from here on, also on later pages."""
    bytes: int
    """The header's own length."""
    system_identifier: int | None
    """Only in the first page of a segment, as is the next."""
    segment_bytes: int | None


def page_header(buffer: Buffer, offset: int = 0) -> PageHeader | None:
    """The header at ``offset``, or None where there is no page of a log that we can read."""
    if len(buffer) < offset + HEADER_BYTES_MAX:
        return None
    magic, info, timeline, address, remaining = _PAGE.unpack_from(buffer, offset)
    major = MAGICS.get(magic)
    if major is None:
        return None
    identifier: int | None = None
    segment_bytes: int | None = None
    if info & _IS_LONG:
        identifier, segment_bytes, page_bytes = _LONG.unpack_from(buffer, offset + _SHORT_BYTES)
        if page_bytes != PAGE_BYTES:
            return None
    return PageHeader(
        major=major,
        timeline=timeline,
        address=Lsn(address),
        continues=bool(info & _CONTINUES),
        overwrites=bool(info & _OVERWRITES),
        remaining=remaining,
        bytes=HEADER_BYTES_MAX if info & _IS_LONG else _SHORT_BYTES,
        system_identifier=identifier,
        segment_bytes=segment_bytes,
    )


def begun(segment: Buffer, number: int, segment_bytes: int) -> bool:
    """Whether anything was written to the segment that begins so: one made ahead of its time holds only zeros.

    Postgres begins a segment after it wrote and synced the one before, so that one is complete then.
    """
    header = page_header(segment)
    return header is not None and header.address == number * segment_bytes and header.segment_bytes == segment_bytes


def last_page(header_at: Callable[[int], PageHeader | None], number: int, segment_bytes: int) -> Lsn | None:
    """Where the last written page of a segment begins, by the headers at some offsets; None when none is.

    Pages are written in order, each after all before it, and only the last may hold records that were still being
    copied into it.
    """
    first = number * segment_bytes
    low, high = 0, segment_bytes // PAGE_BYTES
    while low < high:
        middle = (low + high) // 2
        header = header_at(middle * PAGE_BYTES)
        if header is not None and header.address == first + middle * PAGE_BYTES:
            low = middle + 1
        else:
            high = middle
    return Lsn(first + (low - 1) * PAGE_BYTES) if low else None


# ------------------------------------------------------------------------------------------------ records


class Record(NamedTuple):
    """One record. ``end`` is where the next may begin: aligned, and past the padding of a segment switch."""

    start: Lsn
    end: Lsn
    length: int
    xid: int
    previous: Lsn
    rmgr: int
    info: int


class Transaction(NamedTuple):
    """The end of a transaction, two-phase ones included."""

    start: Lsn
    end: Lsn
    xid: int
    committed: bool
    micros: int
    """When the server's clock said it ended, in microseconds since 2000-01-01 UTC. Not monotonic along the log:
    backends read the clock before they take their place in it, and clocks are set."""


class Scan:
    """Iterates over the records from ``start`` on, which is a record's start or end, or a page boundary between two.

    Records that start at ``until`` or behind it are left out. When the iteration has ended, ``position`` is the end of
    the last whole record (``start`` if there was none). It is ``complete`` when it came to ``until``; otherwise
    ``reason`` says why there was no next, and ``stopped_at`` is the page or record that was to blame.
    Checksums are computed only for records that end behind ``verify_from``: each costs about 0.2 us a byte, and
    Postgres verifies all of them whenever it recovers.
    """

    def __init__(
        self,
        read: ReadSegment,
        start: Lsn,
        *,
        segment_bytes: int,
        until: Lsn | None = None,
        verify_from: Lsn | None = None,
        rmgr: int | None = None,
    ) -> None:
        self._read = read
        self._segment_bytes = segment_bytes
        self._until = _NEVER if until is None else until
        self._verify_from = _NEVER if verify_from is None else verify_from
        self._only = rmgr
        self.position = start
        self.complete = False
        self.reason = ""
        self.stopped_at = start
        self._previous: Lsn | None = None
        self._replaced_at = start
        self._number = -1
        self._buffer: Buffer = b""

    def __iter__(self) -> Iterator[Record]:
        """Yields whole records in order, only those of ``rmgr`` if one was given."""
        unpack, only = _RECORD.unpack_from, self._only
        verify_from = self._verify_from
        while not self._reached() and (start := self._begin()) is not None:
            buffer, base = self._buffer, self._number * self._segment_bytes
            offset = start - base
            limit = offset - offset % PAGE_BYTES + PAGE_BYTES
            until = self._until - base
            # Nearly all records lie within their page and are taken here; _irregular has the others, and the end.
            while offset + _RECORD_BYTES <= limit and offset < until:
                length, xid, previous, info, rmgr, _ = unpack(buffer, offset)
                after = (offset + length + 7) & ~7
                if (
                    length < _RECORD_BYTES
                    or after > limit
                    or base + after > verify_from
                    or (self._previous is not None and previous != self._previous)
                    or (rmgr == RM_XLOG and info & 0xF0 == _SWITCH)
                ):
                    break
                self._previous, self.position = Lsn(base + offset), Lsn(base + after)
                if only is None or rmgr == only:
                    yield Record(self._previous, self.position, length, xid, Lsn(previous), rmgr, info)
                offset = after
            if offset >= until:
                self.complete = True
                return
            if offset < limit:
                behind, previous = self.position, self._previous
                record = self._irregular(Lsn(base + offset))
                if record is None:
                    return
                if record.start >= self._until:  # it replaces one that was given up before
                    self.position, self._previous = behind, previous
                    self.complete = True
                    return
                if only is None or record.rmgr == only:
                    yield record

    def transactions(self) -> Iterator[Transaction]:
        """The ends of transactions among the records."""
        self._only = RM_XACT
        for record in self:
            opcode = record.info & _XACT_OPCODE
            if opcode in _COMMITS or opcode in _ABORTS:
                prefix = self._collect(record.start, min(record.length, _XACT_PREFIX_BYTES))
                micros = None if prefix is None else _ended_at(prefix)
                if micros is None:
                    self._stop(record.start, f"the transaction record at {record.start:#x} has no time")
                    self.position = record.start
                    return
                yield Transaction(record.start, record.end, record.xid, opcode in _COMMITS, micros)

    def _reached(self) -> bool:
        self.complete = self.position >= self._until
        return self.complete

    def _stop(self, at: int, reason: str) -> None:
        self.stopped_at, self.reason = Lsn(at), reason

    # -- what is not in one page ---------------------------------------------------------------------------

    def _begin(self) -> Lsn | None:
        """Where the record after ``position`` starts, its segment loaded and its page believed; None at the end."""
        position = Lsn((self.position + 7) & ~7)
        header = self._page(Lsn(position - position % PAGE_BYTES))
        if header is None:
            return None
        if position % PAGE_BYTES >= header.bytes:
            return position
        if header.continues and not header.overwrites:
            self._stop(header.address, f"the page at {header.address:#x} continues a record that was not begun")
            return None
        return Lsn(header.address + header.bytes)

    def _page(self, address: Lsn) -> PageHeader | None:
        """Loads the segment of a page and checks the page's header."""
        number = address // self._segment_bytes
        if number != self._number:
            buffer = self._read(number)
            if buffer is None:
                self._stop(address, f"there is no segment with {address:#x}")
                return None
            if len(buffer) != self._segment_bytes:
                self._stop(address, f"the segment with {address:#x} has {len(buffer)} bytes")
                return None
            self._number, self._buffer = number, buffer
        header = page_header(self._buffer, address - number * self._segment_bytes)
        first = address % self._segment_bytes == 0
        if header is None or header.address != address or (header.bytes == HEADER_BYTES_MAX) is not first:
            self._stop(address, f"there is no page at {address:#x}")
            return None
        if first and header.segment_bytes != self._segment_bytes:
            self._stop(address, f"the segment at {address:#x} says that it has {header.segment_bytes} bytes")
            return None
        return header

    def _irregular(self, start: Lsn) -> Record | None:
        """The record at ``start``, checked in every way; moves behind it. None at the end of the log."""
        if self._page(Lsn(start - start % PAGE_BYTES)) is None:
            return None
        (length,) = struct.unpack_from("<I", self._buffer, start - self._number * self._segment_bytes)
        if not _RECORD_BYTES <= length <= RECORD_BYTES_MAX:
            self._stop(start, f"there is no record at {start:#x}")
            return None
        end = self._walk(start, length)
        if end is None:
            return None
        if end == start:  # given up in a crash, and replaced
            before, self.position = self.position, self._replaced_at
            replacement = self._begin()
            record = None if replacement is None else self._irregular(replacement)
            if record is None:
                self.position = before
            return record
        verify = end > self._verify_from
        data = self._collect(start, length if verify else _RECORD_BYTES)
        assert data is not None, "its pages were walked a moment ago"
        _, xid, previous, info, rmgr, crc = _RECORD.unpack_from(data)
        if self._previous is not None and previous != self._previous:
            self._stop(start, f"the record at {start:#x} does not follow the one at {self._previous:#x}")
            return None
        if verify and not _sound(data, crc):
            self._stop(start, f"the record at {start:#x} does not match its checksum")
            return None
        if rmgr == RM_XLOG and info & 0xF0 == _SWITCH:
            end = Lsn(-(-end // self._segment_bytes) * self._segment_bytes)
        self._previous, self.position = start, end
        return Record(start, end, length, xid, Lsn(previous), rmgr, info)

    def _walk(self, start: Lsn, length: int) -> Lsn | None:
        """The aligned end of a record that begins at ``start``; None when it is not whole.

        Answers ``start`` when a later page says that the record was given up, with ``_replaced_at`` at that page.
        """
        here = PAGE_BYTES - start % PAGE_BYTES
        if length <= here:
            return Lsn((start + length + 7) & ~7)
        left = length - here
        address = Lsn(start + here)
        while True:
            header = self._page(address)
            if header is None:
                return None
            if header.overwrites:
                self._replaced_at = address
                return start
            if not header.continues or header.remaining != left:
                self._stop(address, f"the record at {start:#x} breaks off at {address:#x}")
                return None
            room = PAGE_BYTES - header.bytes
            if left <= room:
                return Lsn(address + header.bytes + ((left + 7) & ~7))
            left -= room
            address = Lsn(address + PAGE_BYTES)

    def _collect(self, start: Lsn, count: int) -> bytes | None:
        """``count`` bytes of the record at ``start``, without the page headers between."""
        collected = bytearray()
        address = Lsn(start - start % PAGE_BYTES)
        skip = start % PAGE_BYTES
        while True:
            header = self._page(address)
            if header is None:
                return None
            begin = address - self._number * self._segment_bytes
            take = min(count - len(collected), PAGE_BYTES - (skip or header.bytes))
            begin += skip or header.bytes
            collected += self._buffer[begin : begin + take]
            if len(collected) == count:
                return bytes(collected)
            address, skip = Lsn(address + PAGE_BYTES), 0


def first_record(read: ReadSegment, number: int, *, segment_bytes: int) -> Lsn | None:
    """Where the first record that starts in segment ``number`` begins, or would begin; None for an unwritten segment.

    May lie in a later segment, when one record fills this one.
    """
    address = Lsn(number * segment_bytes)
    while True:
        buffer = read(address // segment_bytes)
        header = None if buffer is None else page_header(buffer, address % segment_bytes)
        if header is None or header.address != address:
            return None
        if not header.continues or header.overwrites:
            return Lsn(address + header.bytes)
        room = PAGE_BYTES - header.bytes
        if header.remaining <= room:
            return Lsn(address + header.bytes + ((header.remaining + 7) & ~7))
        address = Lsn(address + PAGE_BYTES)


def _sound(record: bytes, expected: int) -> bool:
    crc = pages.RunningCrc()
    crc.feed(memoryview(record)[_RECORD_BYTES:])
    crc.feed(memoryview(record)[:_CRC_COVERS])
    return crc.value == expected


def _ended_at(record: bytes) -> int | None:
    """``xact_time`` of an xl_xact_commit or xl_xact_abort, the first field of the record's main data."""
    at = _RECORD_BYTES
    while at < len(record):
        block = record[at]
        if block == _DATA_SHORT:
            at += 2
        elif block == _DATA_LONG:
            at += 5
        elif block == _ORIGIN:
            at += 3
            continue
        elif block == _TOPLEVEL_XID:
            at += 5
            continue
        else:
            return None  # ends of transactions refer to no page
        if at + 8 > len(record):
            return None
        (micros,) = struct.unpack_from("<q", record, at)
        return int(micros)
    return None


# ------------------------------------------------------------------------------------------------ timelines


class Ancestor(NamedTuple):
    """One line of a timeline history file: up to ``end`` the log is that of ``timeline``."""

    timeline: int
    end: Lsn


_HISTORY_NAME: Final = re.compile(r"([0-9A-F]{8})\.history")


def history_name(timeline: int) -> str:
    return f"{timeline:08X}.history"


def history_timeline(name: str) -> int | None:
    """The timeline whose history a file of this name tells; None for other names."""
    found = _HISTORY_NAME.fullmatch(name)
    return None if found is None else int(found[1], 16)


def parse_history(text: str) -> list[Ancestor]:
    """The ancestors of a timeline, oldest first. Raises InvalidInput."""
    ancestors: list[Ancestor] = []
    for line in text.splitlines():
        fields = line.split(maxsplit=2)
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) < 2 or not fields[0].isdecimal():
            raise InvalidInput(f"{line[:80]!r} is no line of a timeline history", field="history")
        ancestors.append(Ancestor(int(fields[0]), parse_lsn(fields[1])))
    return ancestors
