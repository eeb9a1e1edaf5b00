"""``tenantry doctor``: what is right and what is wrong here and in the fleet, without touching anything."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.confirm import confirm
from tenantry.cli.failures import FAILED
from tenantry.cli.options import Data, Json, Yes
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.config import Target
    from tenantry.runtime.findings import Finding


def doctor(
    everything: Annotated[
        bool, typer.Option("--all", help="Compare every project of every provider, however many there are.")
    ] = False,
    remove: Annotated[
        str | None,
        typer.Option(
            "--remove", metavar="PROVIDER/PROJECT", help="Delete a project that no tenant has.", show_default=False
        ),
    ] = None,
    yes: Yes = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Examine the data directory, the machine, the running cell and the fleet. Changes nothing, wakes nobody.

    Exit status 1 when something is wrong. Only --remove changes anything, and asks first.
    """
    from tenantry.cell import doctor as of_the_cell
    from tenantry.cli.target import the_data_directory
    from tenantry.fleet.health import listeners

    output = Output(json_wanted=json)
    if remove is not None:
        _remove(output, data, remove, yes=yes)
        return
    directory = the_data_directory(data)
    here = of_the_cell.examine(directory)
    findings = [
        *here,
        *listeners.examine(directory),
        *_of_the_whole_fleet(data, directory, here, everything=everything),
    ]
    wrong = [each for each in findings if each.level == "wrong"]
    output.document({"data": directory.absolute(), "ok": not wrong, "findings": findings})
    output.table(["", "WHAT", "FOUND"], [(each.level, each.name, each.found) for each in findings])
    for each in findings:
        if each.next_step and not json:
            output.remark(f"{each.name}: {each.found}\n  -> {each.next_step}")
    if wrong:
        raise typer.Exit(FAILED)


def _of_the_whole_fleet(
    data: Path | None, directory: Path, here: Iterable[Finding], *, everything: bool
) -> list[Finding]:
    """Nothing where no cell runs: that is said already."""
    from tenantry.cli.target import the_target
    from tenantry.errors import NotFound, OperatorError, TenantryError, Unavailable
    from tenantry.runtime.findings import Finding

    try:
        target = the_target(data)
    except (Unavailable, OperatorError):
        return []
    from tenantry.fleet.main import open_fleet

    at_home = _majors(here) if _runs_here(target, directory) else None
    try:
        with open_fleet(target.api_url, target.api_key, target.catalog_url, api_ca=target.api_ca) as fleet:
            return fleet.examine(everything=everything, at_home=at_home)
    except NotFound as error:
        return [Finding("catalog", "note", error.message, error.next_step)]
    except TenantryError as error:
        return [Finding("catalog", "wrong", error.message, error.next_step)]


def _runs_here(target: Target, directory: Path) -> bool:
    """Whether the fleet's home is the cell of this data directory, whose engines are those of this machine."""
    from tenantry.errors import TenantryError
    from tenantry.fleet.config import read_ready_file

    try:
        return read_ready_file(directory).api_url == target.api_url
    except TenantryError:
        return False


def _majors(here: Iterable[Finding]) -> set[int]:
    versions = (str(each.facts["version"]) for each in here if each.name == "engine" and "version" in each.facts)
    return {int(version.partition(".")[0]) for version in versions}


def _remove(output: Output, data: Path | None, place: str, *, yes: bool) -> None:
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.health.remove import find_stray, remove_stray

    with the_fleet(data) as fleet:
        stray = find_stray(fleet.catalog, fleet.providers, place)
        what = f"project {place} ({stray.project.name}) with all data in it"
        if not yes:
            confirm(
                f"Delete {what}?",
                refusal=f"nothing was deleted: this would delete {what}",
                json_wanted=output.json_wanted,
            )
        remove_stray(fleet.catalog, fleet.providers, place)
    output.document({"removed": True, "project": stray.project.id, "name": stray.project.name, "why": stray.why})
    output.say(f"deleted {what}")


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)
