"""Positions in the write-ahead log, and the names of the segment files that hold them. Pure."""

from __future__ import annotations

import re
from typing import Final, NewType

from tenantry.errors import InvalidInput

Lsn = NewType("Lsn", int)
"""A byte position in the log; 64 bits."""

_TEXT: Final = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_SEGMENT: Final = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")


def parse_lsn(text: str) -> Lsn:
    """``16/B374D848``. Raises InvalidInput."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text[:40]!r} is not an LSN (two hexadecimal numbers with a slash between)", field="lsn")
    return Lsn(int(found[1], 16) << 32 | int(found[2], 16))


def format_lsn(lsn: Lsn) -> str:
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def segment_name(timeline: int, lsn: Lsn, segment_bytes: int) -> str:
    """The file that holds the byte at ``lsn``."""
    per_id = (1 << 32) // segment_bytes
    number = lsn // segment_bytes
    return f"{timeline:08X}{number // per_id:08X}{number % per_id:08X}"


def segment_start(name: str, segment_bytes: int) -> tuple[int, Lsn]:
    """Timeline and first position of a segment file. Raises InvalidInput."""
    found = _SEGMENT.fullmatch(name)
    if found is None:
        raise InvalidInput(f"{name[:40]!r} is not the name of a WAL segment", field="segment")
    per_id = (1 << 32) // segment_bytes
    return int(found[1], 16), Lsn((int(found[2], 16) * per_id + int(found[3], 16)) * segment_bytes)
