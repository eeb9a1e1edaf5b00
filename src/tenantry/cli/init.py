"""``tenantry init``: a commented tenantry.toml for this repository."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tenantry.cli.options import Json
from tenantry.cli.output import Output


def init(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to write it.", show_default="the working directory")
    ] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Write a commented tenantry.toml, and its JSON schema for your editor. Changes nothing until you edit it."""
    from tenantry.errors import Conflict, InvalidInput
    from tenantry.fleet.config import SETTINGS_FILE
    from tenantry.fleet.settings_file import SCHEMA_NAME, commented_file, json_schema
    from tenantry.runtime.files import write_atomic

    output = Output(json_wanted=json)
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is not a directory", next_step="make it first")
    path, schema = directory / SETTINGS_FILE, directory / SCHEMA_NAME
    if path.exists() and not force:
        raise Conflict(f"{path} is there already", next_step="edit it, or overwrite it with --force")
    # The schema is ours to renew; what people edit comes last, so that a file that is there is complete.
    write_atomic(schema, json_schema().encode(), mode=0o644)
    write_atomic(path, commented_file().encode(), mode=0o644)
    output.document({"settings": path.absolute(), "schema": schema.absolute()})
    output.say(f"{path} is written: each line of it shows a default")


def register(app: typer.Typer) -> None:
    app.command("init")(init)
