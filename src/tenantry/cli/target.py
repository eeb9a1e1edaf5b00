"""Where the cell is that a command is meant for: by a flag, the environment, tenantry.toml, or where one runs."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
import stat
from pathlib import Path

from tenantry.cli.configured import said_of_cell
from tenantry.errors import InvalidInput, OperatorError
from tenantry.fleet.config import Target, data_directory, find_target


def the_target(data: Path | None) -> Target:
    """``--data``, TENANTRY_API_URL, TENANTRY_DATA, ``[cell]`` of the settings, then the platform's directory.

    Raises Unavailable when nothing runs there, InvalidInput when what says so is wrong.
    """
    if data is None and not os.environ.get("TENANTRY_API_URL") and not os.environ.get("TENANTRY_DATA"):
        cell = said_of_cell()
        if cell is not None and cell.api_url is not None:
            if cell.api_key_file is None:
                raise InvalidInput("cell.api_url is set and cell.api_key_file is not", next_step="see `tenantry init`")
            catalog = cell.catalog_url_file
            return Target(
                api_url=cell.api_url.rstrip("/"),
                api_key=secret_of_file(cell.api_key_file, "the API key"),
                catalog_url=None if catalog is None else secret_of_file(catalog, "the catalog's URL"),
            )
        data = None if cell is None else cell.data
    return find_target(data)


def the_data_directory(data: Path | None) -> Path:
    """The same for commands that work on the directory itself."""
    if data is None and not os.environ.get("TENANTRY_DATA") and (cell := said_of_cell()) is not None:
        data = cell.data
    return data_directory(data)


def secret_of_file(path: Path, what: str) -> str:
    """What the file of an operator's own secret holds. Raises InvalidInput where it does not, or others may read it."""
    from tenantry.fleet.providers.secrets import read_secret_file

    try:
        return read_secret_file(path, what, kept_from=stat.S_IRWXG | stat.S_IRWXO)
    except OperatorError as error:
        raise InvalidInput(error.message, next_step=error.next_step) from error
