"""Opens the fleet that a command is meant for."""

from __future__ import annotations

from pathlib import Path

from tenantry.fleet.config import find_target
from tenantry.fleet.main import Fleet, open_fleet


def the_fleet(data: Path | None) -> Fleet:
    """By ``--data``, the environment, or the platform's data directory. Raises Unavailable when nothing runs there."""
    target = find_target(data)
    return open_fleet(target.api_url, target.api_key, target.catalog_url, api_ca=target.api_ca)
