"""``tenantry migrate``: moves the fleet from one schema version to the next, in waves, and says where it stands."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.failures import FAILED
from tenantry.cli.options import Allow, Data, Directory, Json, Tenants, slugs_of
from tenantry.cli.output import Output
from tenantry.cli.summary import Markdown, Summary, summarize

if TYPE_CHECKING:
    from tenantry.cli.rollout import Listener
    from tenantry.fleet.catalog.catalog import Catalog
    from tenantry.fleet.catalog.records import Run
    from tenantry.fleet.main import Fleet
    from tenantry.fleet.migrations.formats.base import Format
    from tenantry.fleet.migrations.plan import Plan
    from tenantry.fleet.migrations.run import RunOptions
    from tenantry.fleet.migrations.throwaway import EmptyDatabase

ROWS_MAX: Final = 50
"""Tenants that a table names; a fleet has many more, and --json has all of them."""

migrate = typer.Typer(name="migrate", help="Move all tenants to the newest schema.", no_args_is_help=True)

PlanSlug = Annotated[
    str | None, typer.Option("--plan", metavar="PLAN", help="Only tenants of this plan.", show_default=False)
]
Region = Annotated[
    str | None, typer.Option("--region", metavar="REGION", help="Only tenants in this region.", show_default=False)
]
RingName = Annotated[
    str | None,
    typer.Option("--ring", metavar="RING", help="Only tenants of this ring of tenantry.toml.", show_default=False),
]
Percent = Annotated[
    float | None,
    typer.Option(
        metavar="P", min=0.01, max=100, help="Only so many of a hundred, always the same.", show_default=False
    ),
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Only the first N that are behind.", show_default=False)
]
Through = Annotated[
    str | None, typer.Option("--through", metavar="VERSION", help="Stop at this migration.", show_default=False)
]
AcceptEdited = Annotated[
    bool, typer.Option("--accept-edited", help="Take applied migrations as they are, though their files changed.")
]
Canaries = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Tenants that go first.", show_default="1 of 10 or more")
]
RunName = Annotated[
    str | None,
    typer.Argument(
        metavar="[RUN]", help="Its id, or the begin of it; default: the one that is open.", show_default=False
    ),
]


@migrate.command("plan")
def plan_command(
    directory: Directory = None,
    tenants: Tenants = None,
    plan: PlanSlug = None,
    region: Region = None,
    ring: RingName = None,
    percent: Percent = None,
    limit: Limit = None,
    through: Through = None,
    accept_edited: AcceptEdited = False,
    canaries: Canaries = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep it for `migrate run --plan-file FILE`.", show_default=False),
    ] = None,
    allow: Allow = None,
    markdown: Markdown = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show who is behind, by what, in which wave it comes, and what the lint says. Wakes and changes nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.cli.lint import show_verdict
    from tenantry.fleet.migrations.configured import run_options
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.lint.verdict import lint_verdict, parse_allowed
    from tenantry.fleet.migrations.plan import make_plan
    from tenantry.fleet.migrations.saved_plan import SavedPlan
    from tenantry.fleet.migrations.selection import Selection
    from tenantry.fleet.migrations.summary import plan_summary
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    said = load_settings().migrations
    folder = open_folder(directory or said.dir, through=through)
    chosen = Selection(tenants=slugs_of(tenants), plan=plan, region=region, ring=ring, percent=percent, limit=limit)
    options = run_options(said)
    if canaries is not None:
        options = replace(options, rules=replace(options.rules, canaries=canaries))
    with the_fleet(data) as fleet:
        made = make_plan(folder, fleet.select(chosen, folder), accept_edited=accept_edited, rules=options.rules)
        seconds = fleet.expected_seconds(made, options)
        rehearsed = fleet.rehearsed(made, folder)
        stuck = fleet.without_way_back(made)
    pending = {version for each in made.tenants for version in each.pending}
    verdict = lint_verdict(folder, said.lint, versions=pending, allowed=parse_allowed(allow or []))
    output.document(
        made.as_dict()
        | {
            "expected_seconds": seconds,
            "rehearsal": rehearsed.as_dict(),
            "without_restore_point": list(stuck),
            "lint": verdict.as_dict(),
        }
    )
    rehearsal = None
    if made.to_visit:
        rehearsal = f"passed: {', '.join(rehearsed.rehearsals)}" if rehearsed.passed else rehearsed.findings[0].message
    if markdown and not json:
        output.say(plan_summary(made, seconds=seconds, rehearsal=rehearsal, verdict=verdict).rstrip("\n"))
    else:
        _show_plan(output, made, seconds)
        if rehearsal is not None and not json:
            output.say(f"rehearsal: {rehearsal}")
        if stuck and not json:
            output.say(
                f"{len(stuck)} of them cannot be undone, their provider keeps no history: {', '.join(stuck[:5])}"
            )
        if verdict.judged:
            show_verdict(output, verdict)
    if save is not None and not made.refused:
        SavedPlan.of(made, folder, chosen, through=through).write(save)
        output.remark(f"saved: tenantry migrate run --plan-file {save}")
    if made.refused or verdict.blocking:
        raise typer.Exit(FAILED)


@migrate.command("run")
def run_command(
    directory: Directory = None,
    plan_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Do what `migrate plan --save FILE` has saved.", show_default=False),
    ] = None,
    tenants: Tenants = None,
    plan: PlanSlug = None,
    region: Region = None,
    ring: RingName = None,
    percent: Percent = None,
    limit: Limit = None,
    through: Through = None,
    accept_edited: AcceptEdited = False,
    canaries: Canaries = None,
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
    require_rehearsal: Annotated[
        bool, typer.Option("--require-rehearsal", help="Refuse what `migrate rehearse` has not passed as it is.")
    ] = False,
    unrehearsed: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Run it all the same; the reason is written down.", show_default=False),
    ] = None,
    failures: Annotated[
        float | None,
        typer.Option(
            metavar="P", min=0, max=100, help="Of a hundred tenants of a wave so many may fail.", show_default="10"
        ),
    ] = None,
    ignore_windows: Annotated[
        bool, typer.Option("--ignore-windows", help="Migrate also outside of maintenance windows.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=64, help="Leave it to N workers (`tenantry worker`).", show_default=False),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="With --workers: do not wait for the end.")] = False,
    allow: Allow = None,
    summary: Summary = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Apply what is pending, wave after wave, each tenant in a transaction of its own."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.cli.lint import checked
    from tenantry.errors import InvalidInput
    from tenantry.fleet.migrations.configured import run_options
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.saved_plan import read_plan
    from tenantry.fleet.migrations.selection import Selection
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    said = load_settings().migrations
    chosen = Selection(tenants=slugs_of(tenants), plan=plan, region=region, ring=ring, percent=percent, limit=limit)
    saved = None
    if plan_file is not None:
        if chosen != Selection() or through is not None or accept_edited or canaries is not None:
            raise InvalidInput(
                "the plan says already which tenants are meant, how far, and who goes first",
                next_step="leave those options out, or make another plan with them",
            )
        saved = read_plan(plan_file)
        chosen, through, accept_edited, canaries = (saved.selected, saved.through, saved.accept_edited, saved.canaries)
        directory = directory or saved.directory
    folder = open_folder(directory or said.dir, through=through)
    options: RunOptions = run_options(said)
    bounds = replace(
        options.bounds,
        lock_seconds=options.bounds.lock_seconds if lock_timeout is None else lock_timeout,
        statement_seconds=options.bounds.statement_seconds if statement_timeout is None else statement_timeout,
    )
    options = replace(
        options,
        jobs=options.jobs if jobs is None else jobs,
        bounds=bounds,
        accept_edited=accept_edited,
        rules=options.rules if canaries is None else replace(options.rules, canaries=canaries),
        gates=options.gates if failures is None else replace(options.gates, failures_percent=failures),
        ignore_windows=ignore_windows,
        restore_point="none" if no_restore_point else options.restore_point,
    )
    with the_fleet(data) as fleet, fleet.empty_database() as empty:

        def approve(pending: Collection[str]) -> None:
            if pending:
                checked(output, fleet, folder, said.lint, pending, allow)
            mode = "require" if require_rehearsal else said.rehearse
            for finding in fleet.check_rehearsed(folder, chosen, options, mode=mode, unrehearsed=unrehearsed):
                output.remark(f"warning: {finding}")

        begun = fleet.begin_run(
            folder,
            chosen,
            options,
            expected=saved,
            approve=approve,
            on_begun=empty.begin if workers is None else lambda: None,
        )
        _carry_out(output, fleet, begun.run, folder, empty, workers=workers, detach=detach, summary=summary)


@migrate.command("resume")
def resume_command(
    run: RunName = None,
    skip_failed: Annotated[bool, typer.Option("--skip-failed", help="Leave tenants that failed alone.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=64, help="Leave it to N workers (`tenantry worker`).", show_default=False),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="With --workers: do not wait for the end.")] = False,
    summary: Summary = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Go on with a run that was paused, stopped by a gate or killed; tenants that failed are tried again."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.migrations.run import find_run, resume_run

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        resumed = resume_run(fleet.catalog, find_run(fleet.catalog, run, failed_too=True), retry=not skip_failed)
        _carry_out(output, fleet, resumed, None, None, workers=workers, detach=detach, summary=summary)


@migrate.command("pause")
def pause_command(run: RunName = None, data: Data = None, json: Json = False) -> None:
    """Let a run end what is under way, and begin nothing more. `resume` goes on."""
    from tenantry.fleet.migrations.run import pause_run

    _hold(pause_run, run, data, json=json)


@migrate.command("abort")
def abort_command(run: RunName = None, data: Data = None, json: Json = False) -> None:
    """The same for good. What is done stays done; see `undo`."""
    from tenantry.fleet.migrations.run import abort_run

    _hold(abort_run, run, data, json=json)


def _hold(hold: Callable[[Catalog, Run], Run], name: str | None, data: Path | None, *, json: bool) -> None:
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.migrations.results import run_document
    from tenantry.fleet.migrations.run import find_run

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        held = hold(fleet.catalog, find_run(fleet.catalog, name))
    output.document(run_document(held))
    output.say(f"{held.id} is {held.state}")


def _carry_out(
    output: Output,
    fleet: Fleet,
    run: Run,
    folder: Format | None,
    empty: EmptyDatabase | None,
    *,
    workers: int | None,
    detach: bool,
    summary: Path | None,
) -> None:
    from tenantry.cli.rollout import listener
    from tenantry.fleet.migrations.results import exit_code, failure_of, run_document, tenant_document

    if workers is not None:
        fleet.hand_out(run, workers)
        if detach:
            output.document(run_document(run))
            output.say(f"{run.id} is left to workers: tenantry migrate status")
            return
    listening: Listener = listener(output, terminal=sys.stderr.isatty())
    with listening:
        if workers is None:
            done = fleet.carry_out(run, folder=folder, empty=empty, on_event=listening.on_event)
        else:
            done = fleet.follow(run, on_event=listening.on_event)
    code = exit_code(done)
    summarize(output, fleet, done, summary)
    if output.json_wanted:
        tenants = [tenant_document(tenant) for tenant in fleet.run_tenants(done)]
        output.document(run_document(done) | {"exit_code": code, "tenants": tenants})
    else:
        failed = [
            (tenant.slug, failure, failure.next_step)
            for tenant in fleet.run_tenants(done, outcomes=["failed"], limit=ROWS_MAX)
            if (failure := failure_of(tenant)) is not None
        ]
        output.table(["FAILED", "WHY", "NEXT STEP"], failed) if failed else None
        _show_end(output, done)
    if code:
        raise typer.Exit(code)


def _show_plan(output: Output, plan: Plan, seconds: float | None) -> None:
    behind = plan.to_visit
    output.table(
        ["TENANT", "SCHEMA", "STANDING", "WAVE", "PENDING"],
        [
            (
                each.tenant.slug,
                each.tenant.known.version if each.tenant.known else None,
                each.standing,
                plan.wave_of(each),
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
    target = plan.target or "the newest of each"
    output.say(f"{plan.format} {plan.directory} to {target}: {len(behind)} to visit, {current} current")
    if behind:
        output.say("waves: " + ", ".join(f"{name} ({count})" for name, count in plan.waves.items()))
        if seconds is not None:
            output.say(f"by earlier runs this takes about {seconds:.0f} s")
    if plan.stepwise:
        files = ", ".join(plan.stepwise[:ROWS_MAX])
        output.say(f"statement by statement, since no transaction can hold all of it: {files}")
    for refused in plan.refused:
        output.say(f"refused: {refused.file}, statement {refused.statement}: {refused.reason}: {refused.excerpt}")


def _show_end(output: Output, run: Run) -> None:
    from tenantry.fleet.migrations.results import counts_of

    counts = counts_of(run)
    parts = [
        f"{counts[name]} {what}"
        for name, what in (
            ("applied", "migrated"),
            ("current", "current already"),
            ("skipped", "current by the catalog, not woken"),
            ("failed", "failed"),
            ("gone", "deleted meanwhile"),
            ("waiting", "not started"),
        )
        if counts[name]
    ]
    took = f" in {(run.finished_at - run.started_at).total_seconds():.2f} s" if run.finished_at else ""
    output.say(f"{', '.join(parts) or 'no tenants'}{took}")
    if run.state in {"paused", "stopped"}:
        output.say(f"{run.id} is {run.state}: {run.reason}")
    if run.state in {"running", "paused", "stopped"} or counts["failed"]:
        output.remark(f"to go on, and try again what failed: tenantry migrate resume {run.id}")


def register(app: typer.Typer) -> None:
    app.add_typer(migrate)
