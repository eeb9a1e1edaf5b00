"""``tenantry migrate history``: runs, one run, or everything that was ever done to one tenant."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.options import Data, Directory, Json
from tenantry.cli.output import Output
from tenantry.cli.status import show_waves
from tenantry.cli.summary import Markdown

if TYPE_CHECKING:
    from tenantry.fleet.catalog.records import Run
    from tenantry.fleet.main import Fleet
    from tenantry.fleet.migrations.history import Story

ROWS_MAX: Final = 50


def history_command(
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="One run: its id, or the begin of it.", show_default=False),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="T", help="Everything that runs did to one tenant.", show_default=False),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --tenant: beside what its ledger says; wakes it.")
    ] = False,
    directory: Directory = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=100, help="The newest N.")] = 20,
    markdown: Markdown = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show what was rolled out when, by whom, and to whom. Wakes nobody without --check."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput

    output = Output(json_wanted=json)
    if run is not None and tenant is not None:
        raise InvalidInput("a run and a tenant were given", next_step="give one of them")
    if check and tenant is None:
        raise InvalidInput("--check is about the ledger of one tenant", next_step="name it with --tenant")
    if markdown and run is None:
        raise InvalidInput("--markdown is about one run", next_step="name it with --run")
    with the_fleet(data) as fleet:
        if tenant is not None:
            from tenantry.cli.history_of_tenant import show_tenant

            show_tenant(output, fleet, tenant, directory, check=check)
        elif run is not None:
            _one_run(output, fleet, run, markdown=markdown)
        else:
            _runs(output, fleet, limit)


def _runs(output: Output, fleet: Fleet, limit: int) -> None:
    from tenantry.fleet.migrations.history import read_runs
    from tenantry.fleet.migrations.results import counts_of, run_document

    found = read_runs(fleet.catalog, limit=limit)
    output.document({"runs": [run_document(each) for each in found]})
    output.table(
        ["RUN", "STATE", "BY", "STARTED", "TOOK", "TO", "MIGRATED", "FAILED", "NOT WOKEN"],
        [
            (
                *(each.id, each.state, each.created_by, each.started_at, _took(each), each.target),
                *(counts_of(each)[name] for name in ("applied", "failed", "skipped")),
            )
            for each in found
        ],
    )


def _took(run: Run) -> str | None:
    return None if run.finished_at is None else f"{(run.finished_at - run.started_at).total_seconds():.1f} s"


def _one_run(output: Output, fleet: Fleet, name: str, *, markdown: bool) -> None:
    from tenantry.fleet.migrations.history import read_story
    from tenantry.fleet.migrations.run import find_run
    from tenantry.fleet.migrations.summary import run_summary

    story = read_story(fleet.catalog, find_run(fleet.catalog, name))
    output.document(story.as_dict())
    if output.json_wanted:
        return
    if markdown:
        output.say(run_summary(story).rstrip("\n"))
        return
    _show_story(output, story)


def _show_story(output: Output, story: Story) -> None:
    from tenantry.fleet.migrations.results import failure_of

    run, counts = story.run, story.counts
    output.facts(
        [
            ("run", run.id),
            ("state", f"{run.state}: {run.reason}" if run.reason else run.state),
            ("by", run.created_by),
            ("started", run.started_at),
            ("ended", run.finished_at),
            ("took", _took(run)),
            ("folder", f"{run.format} {run.directory}"),
            ("to", run.target),
            ("tenants", ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"),
        ]
    )
    if story.waves:
        output.say("")
        show_waves(output, story)
    if story.failed:
        output.say("")
        output.table(
            ["FAILED", "WHY", "NEXT STEP"],
            [
                (each.slug, failure, failure.next_step)
                for each in story.failed[:ROWS_MAX]
                if (failure := failure_of(each)) is not None
            ],
        )
        if counts["failed"] > ROWS_MAX:
            output.say(f"and {counts['failed'] - ROWS_MAX} more: --json")


def register(migrate: typer.Typer) -> None:
    migrate.command("history")(history_command)
