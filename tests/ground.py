"""Where a run of the tests puts its files: in memory where there is plenty, else on the disk.

A run writes some sixty gigabytes of tenants that are deleted a moment later. What a test kills is a process, never the
power, so nothing that it proves needs the disk; ``TENANTRY_TEST_ROOT=/tmp`` chooses the disk all the same.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import psutil

VARIABLE: Final = "TENANTRY_TEST_ROOT"
DISK: Final = Path("/tmp")
"""Short, because sockets lie below."""
MEMORY: Final = Path("/dev/shm")
ROOM_BYTES: Final = 12 * 2**30
"""Twice what lies there at most in a run on two cores."""
PROCESSES_BYTES: Final = 4 * 2**30
"""Left to what the tests start."""
_LIMITS: Final = ("memory.max", "memory/memory.limit_in_bytes")
_USED: Final = ("memory.current", "memory/memory.usage_in_bytes")
_CGROUP: Final = Path("/sys/fs/cgroup")


def choose() -> Path:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else MEMORY if _has_room(MEMORY) else DISK


def _has_room(directory: Path) -> bool:
    """Room in the file system and in the memory behind it; programs can be run from there."""
    try:
        runs = not os.statvfs(directory).f_flag & os.ST_NOEXEC
        free = min(shutil.disk_usage(directory).free, _unused())
    except OSError:
        return False
    return runs and os.access(directory, os.W_OK | os.X_OK) and free >= ROOM_BYTES


def _unused() -> int:
    """Memory that files may take, by the machine and by the container's own limit, where there is one."""
    unused = psutil.virtual_memory().available
    for limit, used in zip(_LIMITS, _USED, strict=True):
        try:
            unused = min(unused, int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text()))
        except (OSError, ValueError):
            continue
    return unused - PROCESSES_BYTES
