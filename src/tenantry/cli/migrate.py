"""``tenantry migrate plan|run|status``: moves the whole fleet from one schema version to the next."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.failures import FAILED, SOME_FAILED
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.cli.rollout import Listener
    from tenantry.fleet.migrations.plan import Plan
    from tenantry.fleet.migrations.results import RunResult

ROWS_MAX: Final = 50
"""Tenants that a table names; a fleet has many more, and --json has all of them."""

migrate = typer.Typer(name="migrate", help="Move all tenants to the newest schema.", no_args_is_help=True)

Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="A folder of migrations, or a project of Alembic or Django.", show_default="."
    ),
]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenants", metavar="T,...", help="Only these tenants; may be repeated.", show_default=False),
]
Through = Annotated[
    str | None, typer.Option("--through", metavar="VERSION", help="Stop at this migration.", show_default=False)
]
AcceptEdited = Annotated[
    bool, typer.Option("--accept-edited", help="Take applied migrations as they are, though their files changed.")
]


def _slugs(tenants: list[str] | None) -> list[str] | None:
    return [slug for item in tenants for slug in item.split(",") if slug] if tenants else None


@migrate.command("plan")
def plan_command(
    directory: Directory = None,
    tenants: Tenants = None,
    through: Through = None,
    accept_edited: AcceptEdited = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show who is behind, and by what. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.plan import make_plan
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    folder = open_folder(directory or load_settings().migrations.dir, through=through)
    with the_fleet(data) as fleet:
        plan = make_plan(folder, fleet.migrating.select(_slugs(tenants)), accept_edited=accept_edited)
    output.document(plan.as_dict())
    _show_plan(output, plan)
    if plan.refused:
        raise typer.Exit(FAILED)


@migrate.command("run")
def run_command(
    directory: Directory = None,
    tenants: Tenants = None,
    through: Through = None,
    accept_edited: AcceptEdited = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Tenants at a time.", show_default="8")
    ] = None,
    lock_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long to wait for a lock.", show_default="5")
    ] = None,
    statement_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long a statement may take; 0: any time.", show_default="0"),
    ] = None,
    no_restore_point: Annotated[
        bool, typer.Option("--no-restore-point", help="Keep no state that `migrate undo` could go back to.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Apply what is pending, each tenant in a transaction of its own. Rerunning is resuming."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.cli.rollout import listener
    from tenantry.fleet.migrations.apply import Bounds
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.plan import make_plan
    from tenantry.fleet.migrations.run import Run, RunOptions
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    said = load_settings().migrations
    folder = open_folder(directory or said.dir, through=through)
    bounds = Bounds(
        lock_seconds=said.lock_timeout if lock_timeout is None else lock_timeout,
        statement_seconds=said.statement_timeout if statement_timeout is None else statement_timeout,
        tool_seconds=said.tool_timeout,
    )
    options = RunOptions(jobs=said.jobs if jobs is None else jobs, bounds=bounds)
    with the_fleet(data) as fleet:
        plan = make_plan(folder, fleet.migrating.select(_slugs(tenants)), accept_edited=accept_edited)
        listening: Listener = listener(output, terminal=sys.stderr.isatty())
        with listening:
            run = Run(
                plan,
                folder,
                fleet.migrating,
                options=options,
                on_event=listening.on_event,
                log=fleet.run_log,
                points=fleet.migrating.points("none" if no_restore_point else said.restore_point),
            )
            result = run.execute()
    output.document(result.as_dict())
    _show_result(output, result)
    if result.exit_code:
        raise typer.Exit(result.exit_code)


@migrate.command("status")
def status_command(
    directory: Directory = None,
    tenants: Tenants = None,
    check: Annotated[bool, typer.Option("--check", help="Ask every tenant's ledger; wakes them.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Tenants at a time, with --check.")] = 8,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show where the fleet stands, and what failed in the last run."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.status import check_ledgers, read_status
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    folder = open_folder(directory or load_settings().migrations.dir)
    with the_fleet(data) as fleet:
        selected = list(fleet.migrating.select(_slugs(tenants)))
        status = read_status(folder, selected, fleet.run_log)
        checks = list(check_ledgers(folder, selected, fleet.migrating, jobs=jobs)) if check else []
    document = status.as_dict()
    if check:
        document["ledgers"] = [each.as_dict() for each in checks]
    output.document(document)
    output.table(["SCHEMA", "TENANTS"], [(row.version, row.tenants) for row in status.versions])
    if status.last_run is not None and not json:
        run = status.last_run
        ended = f"ended {run.finished_at:%Y-%m-%d %H:%M:%SZ}" if run.finished_at else "never ended"
        output.say(f"last run: {run.started_at:%Y-%m-%d %H:%M:%SZ} to {run.target}, {ended}")
        output.table(["FAILED", "WHY"], [(failed.slug, failed.failure) for failed in status.last_failures[:ROWS_MAX]])
    if check:
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
        if any(each.failure for each in checks):
            raise typer.Exit(SOME_FAILED)


def _show_plan(output: Output, plan: Plan) -> None:
    behind = plan.to_visit
    output.table(
        ["TENANT", "SCHEMA", "STANDING", "PENDING"],
        [
            (
                each.tenant.slug,
                each.tenant.known.version if each.tenant.known else None,
                each.standing,
                ", ".join(each.pending),
            )
            for each in behind[:ROWS_MAX]
        ],
    )
    if output.json_wanted:
        return
    if len(behind) > ROWS_MAX:
        output.say(f"and {len(behind) - ROWS_MAX} more")
    current = len(plan.tenants) - len(behind)
    output.say(f"{plan.format} {plan.directory} to {plan.target}: {len(behind)} to visit, {current} current")
    for refused in plan.refused:
        output.say(f"refused: {refused.file}, statement {refused.statement}: {refused.reason}: {refused.excerpt}")


def _show_result(output: Output, result: RunResult) -> None:
    if output.json_wanted:
        return
    if result.failed:
        output.table(
            ["FAILED", "WHY", "NEXT STEP"],
            [
                (each.slug, each.failure, each.failure.next_step if each.failure else "")
                for each in result.failed[:ROWS_MAX]
            ],
        )
        if len(result.failed) > ROWS_MAX:
            output.say(f"and {len(result.failed) - ROWS_MAX} more: tenantry migrate status --json")
    counts = result.run.counts
    parts = [
        f"{count} {what}"
        for count, what in (
            (counts.applied, "migrated"),
            (counts.current, "current already"),
            (counts.skipped, "current by the catalog, not woken"),
            (counts.failed, "failed"),
            (counts.not_started, "not started"),
        )
        if count
    ]
    output.say(f"{', '.join(parts) or 'no tenants'} in {result.seconds:.2f} s")
    if result.failed or counts.not_started:
        output.remark("run it again to resume: tenants that are done are not touched")


def register(app: typer.Typer) -> None:
    app.add_typer(migrate)
