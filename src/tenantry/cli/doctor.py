"""``tenantry doctor``: what is right and what is wrong here, without touching anything."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import typer

from tenantry.cli.failures import FAILED
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output


def doctor(data: Data = None, json: Json = False) -> None:
    """Examine the data directory, the machine and the running cell. Changes nothing, wakes nobody.

    Exit status 1 when something is wrong.
    """
    from tenantry.cell import doctor as of_the_cell
    from tenantry.cli.fleet import the_data_directory
    from tenantry.fleet import doctor as of_the_fleet

    output, directory = Output(json_wanted=json), the_data_directory(data)
    findings = [*of_the_cell.examine(directory), *of_the_fleet.examine(directory)]
    wrong = [each for each in findings if each.level == "wrong"]
    output.document({"data": directory.absolute(), "ok": not wrong, "findings": findings})
    output.table(["", "WHAT", "FOUND"], [(each.level, each.name, each.found) for each in findings])
    for each in findings:
        if each.next_step and not json:
            output.remark(f"{each.name}: {each.found}\n  -> {each.next_step}")
    if wrong:
        raise typer.Exit(FAILED)


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)
