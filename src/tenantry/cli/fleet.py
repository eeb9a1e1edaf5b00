"""Opens the fleet that a command is meant for: by its flag, the environment, tenantry.toml, or where a cell runs."""

# ruff: noqa: PLC0415 - settings are loaded only where there are some: most commands take less time without
from __future__ import annotations

import os
from pathlib import Path

from tenantry.errors import InvalidInput
from tenantry.fleet.config import Target, data_directory, find_settings, find_target
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.fleet.providers.secrets import read_secret, secret_place
from tenantry.runtime.telemetry import tell_of_retries


def the_fleet(data: Path | None) -> Fleet:
    """Raises Unavailable when nothing runs where it was looked for, InvalidInput when what says so is wrong."""
    tell_of_retries()
    target = the_target(data)
    return open_fleet(target.api_url, target.api_key, target.catalog_url, api_ca=target.api_ca)


def the_target(data: Path | None) -> Target:
    """``--data``, TENANTRY_API_URL, TENANTRY_DATA, ``[cell]`` of tenantry.toml, then the platform's directory."""
    if data is None and not os.environ.get("TENANTRY_API_URL") and not os.environ.get("TENANTRY_DATA"):
        path = find_settings(Path.cwd())
        if path is not None:
            from tenantry.fleet.settings import read_settings

            cell = read_settings(path).cell
            if cell.api_url is not None:
                if cell.api_key_file is None:
                    raise InvalidInput(f"{path}: cell.api_url is set and cell.api_key_file is not")
                return Target(
                    api_url=cell.api_url.rstrip("/"),
                    api_key=_secret(cell.api_key_file),
                    catalog_url=None if cell.catalog_url_file is None else _secret(cell.catalog_url_file),
                )
            data = cell.data
    return find_target(data)


def the_data_directory(data: Path | None) -> Path:
    """The same for commands that work on the directory itself."""
    if data is None and not os.environ.get("TENANTRY_DATA"):
        path = find_settings(Path.cwd())
        if path is not None:
            from tenantry.fleet.settings import read_settings

            data = read_settings(path).cell.data
    return data_directory(data)


def _secret(path: Path) -> str:
    return read_secret(secret_place(env=None, file=path), "in tenantry.toml")
