"""Opens the fleet that a command is meant for."""

from __future__ import annotations

from pathlib import Path

from tenantry.cli.target import the_target
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.runtime.telemetry import tell_of_retries


def the_fleet(data: Path | None, *, at_a_time: int = 1) -> Fleet:
    """For ``at_a_time`` threads that change tenants.

    Raises Unavailable when nothing runs where it was looked for, InvalidInput when what says so is wrong.
    """
    tell_of_retries()
    target = the_target(data)
    return open_fleet(target.api_url, target.api_key, target.catalog_url, api_ca=target.api_ca, at_a_time=at_a_time)
