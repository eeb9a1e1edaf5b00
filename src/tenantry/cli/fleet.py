"""Opens the fleet that a command is meant for: by its flag, the environment, tenantry.toml, or where a cell runs."""

# ruff: noqa: PLC0415 - settings are loaded only where there are some: most commands take less time without
from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.fleet.config import Target, data_directory, find_settings, find_target
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.runtime.telemetry import tell_of_retries

_SECRET_BYTES_MAX: Final = 10_000


def the_fleet(data: Path | None, *, at_a_time: int = 1) -> Fleet:
    """For ``at_a_time`` threads that change tenants.

    Raises Unavailable when nothing runs where it was looked for, InvalidInput when what says so is wrong.
    """
    tell_of_retries()
    target = the_target(data)
    return open_fleet(target.api_url, target.api_key, target.catalog_url, api_ca=target.api_ca, at_a_time=at_a_time)


def the_target(data: Path | None) -> Target:
    """``--data``, TENANTRY_API_URL, TENANTRY_DATA, ``[cell]`` of tenantry.toml, then the platform's directory."""
    if data is None and not os.environ.get("TENANTRY_API_URL") and not os.environ.get("TENANTRY_DATA"):
        path = find_settings(Path.cwd())
        if path is not None:
            from tenantry.fleet.settings import read_settings

            cell = read_settings(path).cell
            catalog = cell.catalog_url_file
            if cell.api_url is not None:
                if cell.api_key_file is None:
                    raise InvalidInput(f"{path}: cell.api_url is set and cell.api_key_file is not")
                return Target(
                    api_url=cell.api_url.rstrip("/"),
                    api_key=secret_of_file(cell.api_key_file, "the API key"),
                    catalog_url=None if catalog is None else secret_of_file(catalog, "the catalog's URL"),
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


def secret_of_file(path: Path, what: str) -> str:
    """The first line of a file that nobody else may read. Raises InvalidInput naming it and ``what`` it should hold."""
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.readline(_SECRET_BYTES_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{what} is in {path}, which cannot be read ({error.__class__.__name__})") from error
    if mode & 0o077:
        raise InvalidInput(f"{what} is in {path}, and others may read it", next_step=f"chmod 600 {path}")
    if not secret:
        raise InvalidInput(f"{what} is not in {path}: it is empty")
    return secret
