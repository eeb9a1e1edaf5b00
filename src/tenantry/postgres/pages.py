"""Checksums as Postgres computes them on disk: CRC-32C of pg_control, FNV-1a of data pages. Pure."""

from __future__ import annotations

import struct
from typing import Final

PAGE_BYTES: Final = 8192
_CHECKSUM_OFFSET: Final = 8
"""``pd_checksum`` in the page header, behind the 8 bytes of ``pd_lsn``."""

# src/include/storage/checksum_impl.h: 32 interleaved FNV-1a sums, so that a compiler can vectorise them.
_SUMS: Final = 32
_PRIME: Final = 16777619
_MASK: Final = 0xFFFFFFFF
# fmt: off
_BASE_OFFSETS: Final = (
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
)
# fmt: on


def page_checksum(page: bytes | bytearray | memoryview, block_number: int) -> int:
    """``pg_checksum_page``: 16 bits, never 0, over the page with its own checksum field taken as 0.

    ``block_number`` counts from the start of the relation, across its 1 GB segment files.
    """
    assert len(page) == PAGE_BYTES
    body = bytearray(page)
    body[_CHECKSUM_OFFSET : _CHECKSUM_OFFSET + 2] = b"\0\0"
    words = struct.unpack("<2048I", body)
    result = 0
    for lane, offset in enumerate(_BASE_OFFSETS):
        value = offset
        for word in (*words[lane::_SUMS], 0, 0):
            mixed = value ^ word
            value = ((mixed * _PRIME) & _MASK) ^ (mixed >> 17)
        result ^= value
    return ((result ^ block_number) % 65535) + 1


def set_checksum(page: bytearray, block_number: int) -> None:
    """Stores the page's checksum in its header."""
    struct.pack_into("<H", page, _CHECKSUM_OFFSET, page_checksum(page, block_number))


def stored_checksum(page: bytes | bytearray | memoryview) -> int:
    (value,) = struct.unpack_from("<H", page, _CHECKSUM_OFFSET)
    return int(value)


def _crc_table() -> tuple[int, ...]:
    table: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ 0x82F63B78 if value & 1 else value >> 1  # noqa: PLW2901 - the textbook loop
        table.append(value)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


class RunningCrc:
    """CRC-32C (Castagnoli) of all that was fed so far. For hundreds of bytes, not for megabytes."""

    def __init__(self) -> None:
        self._state = _MASK

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        state = self._state
        for byte in data:
            state = _CRC_TABLE[(state ^ byte) & 0xFF] ^ (state >> 8)
        self._state = state

    @property
    def value(self) -> int:
        return self._state ^ _MASK


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """CRC-32C as pg_control and WAL records carry it."""
    crc = RunningCrc()
    crc.feed(data)
    return crc.value
