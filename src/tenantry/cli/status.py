"""``tenantry migrate status``: versions and tenants, how far they are apart, and who was left behind and why."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.failures import SOME_FAILED
from tenantry.cli.options import Data, Directory, Json, Tenants
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.migrations.history import Story
    from tenantry.fleet.migrations.results import Failure
    from tenantry.fleet.migrations.status import LedgerCheck, Status

ROWS_MAX: Final = 50
_OPEN: Final = frozenset({"planned", "running", "paused", "stopped"})


def status_command(
    directory: Directory = None,
    tenants: Tenants = None,
    check: Annotated[bool, typer.Option("--check", help="Ask every tenant's ledger; wakes them.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Tenants at a time, with --check.")] = 8,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show where the fleet stands: versions, how far apart, who failed and why. Wakes nobody without --check."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.history import read_story
    from tenantry.fleet.migrations.status import check_ledgers, read_status
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    folder = open_folder(directory or load_settings().migrations.dir)
    with the_fleet(data) as fleet:
        named = [slug for item in tenants for slug in item.split(",") if slug] if tenants else None
        selected = list(fleet.migrating.select(named))
        status = read_status(folder, selected, fleet.catalog)
        story = read_story(fleet.catalog, status.last_run) if status.last_run else None
        checks = list(check_ledgers(folder, selected, fleet.migrating, jobs=jobs)) if check else []
    document = status.as_dict()
    if check:
        document["ledgers"] = [each.as_dict() for each in checks]
    output.document(document)
    _show(output, status, story)
    if check:
        _show_checks(output, checks)
        if any(each.failure for each in checks):
            raise typer.Exit(SOME_FAILED)


def _show(output: Output, status: Status, story: Story | None) -> None:
    if output.json_wanted:
        return
    output.table(
        ["SCHEMA", "TENANTS", "BEHIND BY", "WHO"],
        [(row.version, row.tenants, row.behind, _some(row.examples, row.tenants)) for row in status.versions],
    )
    if status.skew is not None and status.skew.migrations:
        skew = status.skew
        apart = "1 migration" if skew.migrations == 1 else f"{skew.migrations} migrations"
        output.say(f"skew: {apart} between the tenants, from {skew.oldest} to {skew.newest}")
    if story is not None:
        _show_run(output, story)
    if status.quarantined:
        from pydantic import TypeAdapter

        from tenantry.fleet.migrations.results import Failure

        read = TypeAdapter(Failure)
        output.table(
            ["FAILED", "ERROR", "WHERE", "WHY", "RUN", "SINCE"],
            [
                (each.slug, *_error(read.validate_python(each.failure)), each.run_id, each.failed_at)
                for each in status.quarantined[:ROWS_MAX]
            ],
        )
        output.say(f"{len(status.quarantined)} tenants were not migrated by the last run that visited them")
    if status.drifted:
        names = _some([each.slug for each in status.drifted], len(status.drifted))
        output.say(f"drift, when somebody last looked: {names} (tenantry migrate drift)")


def _show_run(output: Output, story: Story) -> None:
    run = story.run
    ended = f"ended {run.finished_at:%Y-%m-%d %H:%M:%SZ}" if run.finished_at else run.state
    why = f" ({run.reason})" if run.reason else ""
    output.say(f"last run: {run.id} of {run.started_at:%Y-%m-%d %H:%M:%SZ} to {run.target}, {ended}{why}")
    if run.state in _OPEN:
        show_waves(output, story)


def show_waves(output: Output, story: Story) -> None:
    """The waves of a run, for people."""
    from tenantry.fleet.migrations.history import objections_of

    output.table(
        ["WAVE", "TENANTS", "MIGRATED", "FAILED", "WAITING", "MEDIAN", "95 %", "STATE"],
        [
            (
                *(each.name, each.tenants, each.applied, each.failed, each.waiting),
                *(_seconds(each.seconds_p50), _seconds(each.seconds_p95)),
                "; ".join([each.state, *objections_of(each)]),
            )
            for each in story.waves
        ],
    )


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.2f} s"


def _error(failure: Failure) -> tuple[str, str | None, str]:
    """SQLSTATE or kind, the place, and the message."""
    where = failure.file
    if where is not None and failure.line is not None:
        where += f":{failure.line}" + (f":{failure.column}" if failure.column is not None else "")
    if failure.statement is not None:
        where = f"{where or ''}, statement {failure.statement}".removeprefix(", ")
    return failure.sqlstate or failure.kind, where, failure.message


def _some(names: Sequence[str], total: int) -> str:
    more = total - len(names[:3])
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")


def _show_checks(output: Output, checks: Sequence[LedgerCheck]) -> None:
    differing = [each for each in checks if not each.agrees]
    output.table(
        ["TENANT", "CATALOG", "LEDGER", "WHY"],
        [
            (
                each.slug,
                each.catalog.version if each.catalog else None,
                each.ledger.version if each.ledger else None,
                each.failure or "; ".join(each.objections) or "the catalog is behind; the next run mends it",
            )
            for each in differing[:ROWS_MAX]
        ],
    )
    output.say(f"{len(checks) - len(differing)} of {len(checks)} ledgers agree with the catalog")


def register(migrate: typer.Typer) -> None:
    migrate.command("status")(status_command)
