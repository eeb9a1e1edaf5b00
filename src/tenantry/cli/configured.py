"""What tenantry.toml and its variables say to commands that do without: loaded only where something is said.

Reading settings takes longer than most commands, and than much of what `tenantry up` waits for.
"""

# ruff: noqa: PLC0415 - that is the point
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tenantry.fleet.config import find_settings

if TYPE_CHECKING:
    from tenantry.fleet.settings import Cell, Settings, Tenants


def said_of_cell() -> Cell | None:
    """Of which cell is meant. None: nothing is said anywhere. Raises InvalidInput, as the other one does."""
    return None if (said := _said("TENANTRY_CELL__")) is None else said.cell


def said_of_tenants() -> Tenants | None:
    """Of new and deleted tenants. None: nothing is said anywhere, and the program's own defaults hold."""
    return None if (said := _said("TENANTRY_TENANTS__")) is None else said.tenants


def _said(prefix: str) -> Settings | None:
    if find_settings(Path.cwd()) is None and not any(name.startswith(prefix) for name in os.environ):
        return None
    from tenantry.fleet.settings import load_settings

    return load_settings()
