"""What pg_control says without starting anything (``src/include/catalog/pg_control.h``).

Offsets up to the state are the same from Postgres 9.3 to 18: system identifier (8 bytes), control version (4),
catalog version (4), state (4). The end is found by its checksum, and what stands before that counted back from there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.postgres import pages
from tenantry.postgres.lsn import Lsn

NONCE_BYTES: Final = 32

_HEAD: Final = struct.Struct("=QIII")
_CHECKPOINT: Final = struct.Struct("=32xQQ")
_SHUTDOWNED: Final = 1
_SHUTDOWNED_IN_RECOVERY: Final = 2
_CHECKED_BYTES_MIN: Final = 64
_CHECKED_BYTES_MAX: Final = 512
_BEFORE_CRC: Final = {1300: (36, 32), 1700: (36, 32), 1800: (40, 35)}
"""For each ``pg_control_version`` (1300 is 13 to 16) how far before the checksum ``data_checksum_version`` and
``mock_authentication_nonce`` begin; 18 has a flag between them, and padding behind."""


@dataclass(frozen=True, slots=True)
class Control:
    """A stopped cluster's pg_control, and where in it a clone differs."""

    system_identifier: int
    clean: bool
    """Whether it was shut down cleanly."""
    checksums: bool
    """Whether data pages carry checksums."""
    location: Lsn
    """Where the last checkpoint's record is; recovery needs the log from ``redo`` on."""
    redo: Lsn
    crc_offset: int
    nonce_offset: int


def parse(content: bytes) -> Control | None:
    """What the file says; None for a layout that is not one of Postgres 14 to 18, or a damaged file. Pure."""
    if len(content) < _CHECKED_BYTES_MAX:
        return None
    identifier, version, _catalog, state = _HEAD.unpack_from(content)
    places = crc_places(content)
    before = _BEFORE_CRC.get(version)
    if before is None or len(places) != 1:
        return None
    crc_offset = places[0]
    (checksums,) = struct.unpack_from("=I", content, crc_offset - before[0])
    if checksums not in (0, 1):
        return None
    location, redo = _CHECKPOINT.unpack_from(content)
    return Control(
        system_identifier=identifier,
        clean=state in (_SHUTDOWNED, _SHUTDOWNED_IN_RECOVERY),
        checksums=checksums == 1,
        location=Lsn(location),
        redo=Lsn(redo),
        crc_offset=crc_offset,
        nonce_offset=crc_offset - before[1],
    )


def crc_places(content: bytes) -> list[int]:
    """Offsets whose value is the CRC-32C of everything before them: one in a whole pg_control. Pure."""
    crc = pages.RunningCrc()
    found: list[int] = []
    for offset in range(0, _CHECKED_BYTES_MAX, 4):
        if offset >= _CHECKED_BYTES_MIN and struct.unpack_from("=I", content, offset)[0] == crc.value:
            found.append(offset)
        crc.feed(content[offset : offset + 4])
    return found


def read_head(data: Path) -> tuple[int, int]:
    """System identifier and state number of a data directory."""
    with (data / "global" / "pg_control").open("rb") as file:
        identifier, _version, _catalog, state = _HEAD.unpack(file.read(_HEAD.size))
    return identifier, state


def clean_shutdown(data: Path) -> bool:
    """Whether the last postmaster of this directory stopped cleanly (or none ever ran on this clone)."""
    return read_head(data)[1] in (_SHUTDOWNED, _SHUTDOWNED_IN_RECOVERY)
