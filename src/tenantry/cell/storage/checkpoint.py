"""Where a data directory's recovery begins, and where its log ends: read from its files, nothing is started.

``ControlFileData`` and the head of ``CheckPoint`` in ``src/include/catalog/pg_control.h``, the same from 14 to 18.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from tenantry.cell.storage.directories import inside, opened_regular, read_regular
from tenantry.cell.storage.segments import Segment, SegmentReader, segments_in
from tenantry.errors import HistoryDamaged
from tenantry.postgres import pages, wal
from tenantry.postgres.lsn import Lsn
from tenantry.postgres.template import WAL_SEGMENT_BYTES

_CONTROL: Final = struct.Struct("=QIIi4xqQQI")
_CONTROL_BYTES_MAX: Final = 64 * 1024
_SHUT_DOWN: Final = (1, 2)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What pg_control says."""

    system_identifier: int
    clean: bool
    """Whether the instance was stopped cleanly, so that nothing has to be replayed."""
    time: datetime
    """When pg_control was last written, in whole seconds."""
    location: Lsn
    redo: Lsn
    """Recovery needs the log from here on."""
    timeline: int


def read_checkpoint(data: Path) -> Checkpoint:
    """Raises HistoryDamaged for a file that is none of Postgres', OSError when there is none."""
    with inside(data, "global") as directory:
        content = read_regular(directory, "pg_control", bytes_max=_CONTROL_BYTES_MAX)
    return parse_checkpoint(content)


def is_whole(data: Path) -> bool:
    """Whether pg_control matches its checksum: a copy made while it was written may not."""
    with inside(data, "global") as directory:
        return _crc_offset(read_regular(directory, "pg_control", bytes_max=_CONTROL_BYTES_MAX)) is not None


def parse_checkpoint(content: bytes) -> Checkpoint:
    """The same of the file's content. Pure."""
    if len(content) < _CONTROL.size:
        raise HistoryDamaged("pg_control is shorter than it can be")
    identifier, _version, _catalogue, state, seconds, location, redo, timeline = _CONTROL.unpack_from(content)
    return Checkpoint(
        system_identifier=identifier,
        clean=state in _SHUT_DOWN,
        time=datetime.fromtimestamp(seconds, UTC),
        location=Lsn(location),
        redo=Lsn(redo),
        timeline=timeline,
    )


def record_end(pg_wal: Path, begin: Checkpoint) -> Lsn | None:
    """The end of the checkpoint's own record in ``pg_wal``; None when it is not there."""
    scan = wal.Scan(
        SegmentReader(pg_wal, begin.timeline),
        begin.location,
        segment_bytes=WAL_SEGMENT_BYTES,
        verify_from=begin.location,
    )
    record = next(iter(scan), None)
    return None if record is None or record.start != begin.location else record.end


def log_end(directory: Path, timeline: int, *, after: Lsn | None = None) -> Lsn | None:
    """Where the log of a timeline in ``directory`` ends: behind its last whole record. None when it has none.

    ``after`` is where a record of it begins or ends: where that is near, what lies before is not looked at.

    As exact as Postgres' own recovery for a log that no power cut has torn since its instance was started. While the
    instance runs it is a position that the log had during the call.
    """
    numbers = sorted(segments_in(directory, timeline), reverse=True)
    last = _last_page(directory, timeline, numbers)
    if last is None:
        return None
    # Only now: pages are written in order, so all before ``last`` are complete in what is read from here on. The last
    # page may hold records that are still being copied into it; those are compared with their checksums.
    behind = Lsn(last + wal.PAGE_BYTES)
    if after is not None and last - WAL_SEGMENT_BYTES < after <= behind:
        read = SegmentReader(directory, timeline, begin=after, end=behind)
        scan = wal.Scan(read, after, segment_bytes=WAL_SEGMENT_BYTES, verify_from=last)
        deque(scan, maxlen=0)
        if scan.position >= last:
            return scan.position
    read = SegmentReader(directory, timeline, end=behind)
    end: Lsn | None = None
    for number in numbers:
        first = wal.first_record(read, number, segment_bytes=WAL_SEGMENT_BYTES)
        if first is None:
            continue
        scan = wal.Scan(read, first, segment_bytes=WAL_SEGMENT_BYTES, verify_from=last)
        if sum(1 for _ in scan):
            end = scan.position
            # Otherwise a record of the segment before ends in the last page, and is checked by reading from there.
            if first <= last + wal.HEADER_BYTES_MAX:
                break
    return end


def _last_page(directory: Path, timeline: int, numbers: list[int]) -> Lsn | None:
    for number in numbers:
        name = Segment(timeline, number).name
        try:
            with opened_regular(directory, name, bytes_max=WAL_SEGMENT_BYTES) as descriptor:
                if wal.begun(os.pread(descriptor, wal.HEADER_BYTES_MAX, 0), number, WAL_SEGMENT_BYTES):
                    return wal.last_page(partial(_header, descriptor), number, WAL_SEGMENT_BYTES)
        except FileNotFoundError:
            continue
    return None


def _header(descriptor: int, offset: int) -> wal.PageHeader | None:
    return wal.page_header(os.pread(descriptor, wal.HEADER_BYTES_MAX, offset))


# ------------------------------------------------------------------------------------------------ pg_resetwal

_AFTER_RESETWAL: Final = struct.pack("=iiiiiii", 0, 0, 100, 8, 10, 0, 64)
"""wal_level (minimal), wal_log_hints, max_connections, max_worker_processes, max_wal_senders, max_prepared_transactions
and max_locks_per_transaction, as ``pg_resetwal`` writes them one after the other whatever they were."""
_LEVEL_REPLICA: Final = struct.pack("=i", 1)
_NEVER_RESET: Final = _LEVEL_REPLICA + _AFTER_RESETWAL[len(_LEVEL_REPLICA) :]
"""The same where no ``pg_resetwal`` was at hand: what initdb's own settings are."""
_CRC_BYTES: Final = 4


def replayable(control: bytes) -> bytes:
    """The pg_control of a template as archive recovery accepts it.

    A template's log was reset, which says ``wal_level=minimal`` of the log that follows; what follows was written by
    an instance that runs with ``replica`` and says so in its first record. One that was made without ``pg_resetwal``
    is accepted as it is. Raises HistoryDamaged for other files.
    """
    at = control.find(_AFTER_RESETWAL)
    crc_at = _crc_offset(control)
    if at < 0 and crc_at is not None and control.count(_NEVER_RESET) == 1:
        return control
    if at < 0 or crc_at is None or control.find(_AFTER_RESETWAL, at + 1) >= 0:
        raise HistoryDamaged("this pg_control is not that of a template")
    changed = control[:at] + _LEVEL_REPLICA + control[at + len(_LEVEL_REPLICA) : crc_at]
    return changed + struct.pack("=I", pages.crc32c(changed)) + control[crc_at + _CRC_BYTES :]


def _crc_offset(control: bytes) -> int | None:
    """Where the checksum is: behind everything that it is the checksum of. The place differs between majors."""
    crc = pages.RunningCrc()
    for offset in range(0, 512, _CRC_BYTES):
        if offset >= _CONTROL.size and struct.unpack_from("=I", control, offset)[0] == crc.value:
            return offset
        crc.feed(control[offset : offset + _CRC_BYTES])
    return None
