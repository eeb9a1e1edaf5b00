"""What ``[tenants]`` of tenantry.toml says of new and deleted tenants; loaded only where somebody has said it."""

# ruff: noqa: PLC0415 - reading settings takes longer than most commands that do without
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenantry.fleet.settings import Tenants

_PREFIX = "TENANTRY_TENANTS__"


def said_of_tenants() -> Tenants | None:
    """None: nothing is said anywhere, and the program's own defaults hold. Raises InvalidInput."""
    from tenantry.fleet.config import find_settings

    if find_settings(Path.cwd()) is None and not any(name.startswith(_PREFIX) for name in os.environ):
        return None
    from tenantry.fleet.settings import load_settings

    return load_settings().tenants
