"""``tenantry migrate drift``: which tenants have another schema than their version's."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.failures import SOME_FAILED
from tenantry.cli.options import Data, Directory, Json, Tenants
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.migrations.drift import DriftReport, Look, TenantDrift

TENANTS_SHOWN_MAX: Final = 50
LINES_SHOWN_MAX: Final = 8
"""Lines of one tenant, unless --sql asks for all."""
LINES_MAX: Final = 10_000

_FROM: Final = {
    "made": "made by applying the folder",
    "remembered": "made by applying the folder, earlier",
    "majority": "by the majority",
    "tenant": "",
}


def drift_command(
    directory: Directory = None,
    tenants: Tenants = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION|TENANT|majority",
            help="Compare all with this version, this tenant, or with what most have.",
            show_default="each tenant's own version",
        ),
    ] = None,
    sql: Annotated[bool, typer.Option("--sql", help="Every difference, as lines near to SQL.")] = False,
    comments: Annotated[bool, typer.Option("--comments", help="Comments on objects count too.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, max=256, help="At a time.", show_default="8")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Look at every tenant's schema, and name those that differ from their version's. Wakes tenants; changes nothing.

    Lines with - are expected and missing, lines with + are there and not expected. Exit status 3 when some differ.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.migrations.apply import Bounds
    from tenantry.fleet.migrations.drift import expectation
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    said = load_settings().migrations
    folder = open_folder(directory or said.dir)
    wanted = expectation(folder, expect)
    with the_fleet(data) as fleet:
        named = [slug for item in tenants for slug in item.split(",") if slug] if tenants else None
        named = [*dict.fromkeys([*named, wanted.tenant])] if named and wanted.tenant else named
        selected = list(fleet.migrating.select(named))
        if wanted.tenant is not None and wanted.tenant not in {each.slug for each in selected}:
            raise InvalidInput(
                f"--expect {expect}: neither a version of the folder nor a tenant", next_step="see `tenantry list`"
            )
        ledger = said.version_table if "." in said.version_table else f"public.{said.version_table}"
        looking = fleet.schema_look(
            folder,
            jobs=jobs or said.jobs,
            bounds=Bounds(lock_seconds=said.lock_timeout),
            comments=comments,
            ledgers=[ledger],
        )
        output.remark(f"looking at {len(selected)} tenants; those that sleep are woken")
        with _progress(output, len(selected)) as on_looked:
            report = looking.report(selected, wanted, on_looked=on_looked)
    output.document(report.as_dict())
    _show(output, report, sql=sql)
    if report.of("drifted") or report.of("failed"):
        raise typer.Exit(SOME_FAILED)


@contextmanager
def _progress(output: Output, total: int) -> Generator[Callable[[Look], None]]:
    """A bar where somebody sees it; elsewhere a line for each that could not be looked at."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    terminal = sys.stderr.isatty() and not output.json_wanted
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        task = bar.add_task("looking", total=total)

        def on_looked(look: Look) -> None:
            bar.advance(task)
            if look.failure is not None:
                output.remark(f"{look.tenant.slug}: {look.failure}")

        yield on_looked


def _show(output: Output, report: DriftReport, *, sql: bool) -> None:
    if output.json_wanted:
        return
    for note in report.notes:
        output.remark(note)
    drifted = report.of("drifted")
    for each in drifted[: None if sql else TENANTS_SHOWN_MAX]:
        _show_one(output, each, LINES_MAX if sql else LINES_SHOWN_MAX)
    if len(drifted) > TENANTS_SHOWN_MAX and not sql:
        output.say(f"and {len(drifted) - TENANTS_SHOWN_MAX} more tenants: --sql or --json has all of them")
    told: dict[str, int] = {}
    for each in [*report.of("unknown"), *report.of("failed")]:
        told[each.note or str(each.failure)] = told.get(each.note or str(each.failure), 0) + 1
    output.table(["TENANTS", "NOT COMPARED, SINCE"], [(count, why) for why, count in told.items()][:TENANTS_SHOWN_MAX])
    parts = [
        f"{len(report.of('same'))} as expected",
        f"{len(drifted)} drifted",
        *([f"{len(report.of('unknown'))} with nothing to compare with"] if report.of("unknown") else []),
        *([f"{len(report.of('failed'))} not looked at"] if report.of("failed") else []),
    ]
    output.say(", ".join(parts))


def _show_one(output: Output, drift: TenantDrift, lines_max: int) -> None:
    from tenantry.fleet.migrations.fingerprint import told

    reference = drift.reference
    assert reference is not None, "who has drifted was compared"
    source = ", ".join(part for part in (_FROM[reference.source], reference.note) if part)
    version = drift.version or "nothing applied"
    output.say(f"{drift.slug}: {version} on Postgres {drift.major}, {drift.count} differences; expected: {source}")
    if drift.note:
        output.say(f"  {drift.note}")
    for line in told(drift.differences, lines_max):
        output.say(f"  {line}")


def register(migrate: typer.Typer) -> None:
    migrate.command("drift")(drift_command)
