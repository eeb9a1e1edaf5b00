"""How large heads and their histories are, by their files. Walks directories: for loops, not for a user's path."""

from __future__ import annotations

from pathlib import Path

from tenantry.cell.storage.clone import regular_files


def logical_bytes(data: Path) -> int:
    """What all databases of a data directory occupy: the sum of ``pg_database_size``. Blocking.

    Works on running and sleeping heads; files that go meanwhile count or not.
    """
    return _bytes_below(data / "base", leave_out="pgsql_tmp")


def head_bytes(head_dir: Path) -> int:
    """The data directory of a head with everything in it, its log included. Blocking."""
    return _bytes_below(head_dir / "data")


def history_bytes(head_dir: Path) -> int:
    """Bases and log that a head keeps, also where they share blocks or names with ``data``. Blocking."""
    return _bytes_below(head_dir / "wal") + _bytes_below(head_dir / "bases")


def _bytes_below(tree: Path, *, leave_out: str | None = None) -> int:
    try:
        return sum(size for name, size in regular_files(tree) if leave_out is None or not name.startswith(leave_out))
    except FileNotFoundError:
        return 0
