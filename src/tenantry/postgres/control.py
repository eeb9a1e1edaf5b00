"""What pg_control says without starting anything (``src/include/catalog/pg_control.h``).

Offsets up to the state are the same from Postgres 9.3 to 18: system identifier (8 bytes), control version (4),
catalog version (4), state (4).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("=QIII")
_SHUTDOWNED: Final = 1
_SHUTDOWNED_IN_RECOVERY: Final = 2


def read_head(data: Path) -> tuple[int, int]:
    """System identifier and state number of a data directory."""
    with (data / "global" / "pg_control").open("rb") as file:
        identifier, _version, _catalog, state = _HEAD.unpack(file.read(_HEAD.size))
    return identifier, state


def clean_shutdown(data: Path) -> bool:
    """Whether the last postmaster of this directory stopped cleanly (or none ever ran on this clone)."""
    return read_head(data)[1] in (_SHUTDOWNED, _SHUTDOWNED_IN_RECOVERY)
