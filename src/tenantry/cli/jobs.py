"""``tenantry jobs start|list|show|wait|retry|cancel``: work over many tenants, done by workers."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.failures import FAILED, SOME_FAILED
from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.catalog.jobs import Item, Job
    from tenantry.fleet.jobs.jobs import PassShown

ROWS_MAX: Final = 50
"""Items that a table names; --json has more."""
_POLL_SECONDS: Final = 0.3

jobs = typer.Typer(
    name="jobs", help="Work over many tenants, done by `tenantry worker` and by `tenantry up`.", no_args_is_help=True
)

JobName = Annotated[
    str,
    typer.Argument(metavar="JOB", help="Its id, or the beginning of it: see `tenantry jobs list`.", show_default=False),
]


@jobs.command("start")
def start_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="suspend or resume.", show_default=False)],
    tenants: Annotated[
        list[str] | None, typer.Argument(metavar="TENANT...", help="On which tenants.", show_default=False)
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="On all tenants that are ready.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Let the workers do something to many tenants. Returns at once."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.jobs.jobs import short

    output = Output(json_wanted=json)
    if bool(tenants) == everybody:
        raise InvalidInput("name tenants, or say --all")
    with the_fleet(data) as fleet:
        offered = [name for name, known in fleet.jobs.kinds.items() if known.of_tenants]
        if kind not in offered:
            raise InvalidInput(f"{kind!r} cannot be started here", next_step=f"choose one of: {', '.join(offered)}")
        slugs = tenants or [tenant.slug for tenant in fleet.list(states=["ready"])]
        if not slugs:
            raise InvalidInput("there are no tenants that are ready")
        job = fleet.jobs.find(str(fleet.jobs.start(kind, {slug: {} for slug in slugs})))
    output.document({"job": job})
    output.say(f"job {short(job.id)} will {kind} {job.total} tenant{'' if job.total == 1 else 's'}")
    if not json:
        output.remark(f"see how far it is with: tenantry jobs wait {short(job.id)}")


@jobs.command("list")
def list_command(
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=1_000, help="The newest N.")] = 20,
    data: Data = None,
    json: Json = False,
) -> None:
    """List jobs, the newest first, and what is done by itself."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.jobs.jobs import short

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found, passes = fleet.jobs.list(limit=limit), fleet.jobs.passes()
    output.document({"jobs": found, "passes": passes})
    now = datetime.now(UTC)
    output.table(
        ["JOB", "KIND", "STATE", "DONE", "FAILED", "TOTAL", "BY", "AGE", "WORKER"],
        [
            (
                *(short(job.id), job.kind, job.state, job.done, job.failed, job.total),
                *(job.created_by, _age(now - job.created_at), ", ".join(job.workers) or None),
            )
            for job in found
        ],
    )
    if found and not json:
        output.say("")
    output.table(
        ["BY ITSELF", "WHEN (UTC)", "NEXT", "LAST", "OUTCOME"],
        [
            (each.name, each.cron, each.next_at, each.last.created_at if each.last else None, _outcome(each))
            for each in passes
        ],
    )


@jobs.command("show")
def show_command(
    job: JobName,
    everything: Annotated[bool, typer.Option("--all", help="Also what is done.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show one job, and what failed in it and why."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        shown = fleet.jobs.show(job, everything=everything)
    output.document({"job": shown.job, "items": shown.items})
    output.facts(_facts(shown.job))
    if shown.items and not json:
        output.say("")
    output.table(
        ["ITEM", "STATE", "ATTEMPTS", "WHAT CAME OF IT"],
        [(item.subject, item.state, item.attempts, _came_of(item)) for item in shown.items[:ROWS_MAX]],
    )
    if len(shown.items) > ROWS_MAX and not json:
        output.say(f"and more: tenantry jobs show {job} --json")


@jobs.command("wait")
def wait_command(job: JobName, data: Data = None, json: Json = False) -> None:
    """Wait until a job has ended. Exit status 3 when some of it failed, 1 when it was cancelled."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.jobs.jobs import short

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = fleet.jobs.find(job)
        name = str(found.id)
        found = _watched(found, lambda: fleet.jobs.find(name), terminal=sys.stderr.isatty() and not json)
    output.document({"job": found})
    output.say(f"job {short(found.id)} is {found.state}: {found.done} of {found.total} done, {found.failed} failed")
    if found.failed and not json:
        output.remark(f"see why with: tenantry jobs show {short(found.id)}")
    if found.state != "done":
        raise typer.Exit(SOME_FAILED if found.state == "failed" else FAILED)


@jobs.command("retry")
def retry_command(job: JobName, data: Data = None, json: Json = False) -> None:
    """Work again on what failed, and on what a cancelled job never began. What is done stays so."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.jobs.jobs import short

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found, waiting = fleet.jobs.retry(job)
    output.document({"job": found, "waiting": waiting})
    output.say(
        f"job {short(found.id)}: {waiting} of {found.total} wait for a worker"
        if waiting
        else f"job {short(found.id)}: nothing of it failed"
    )


@jobs.command("cancel")
def cancel_command(job: JobName, data: Data = None, json: Json = False) -> None:
    """Begin nothing more of a job. What is under way ends, and what is done stays so."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.jobs.jobs import short

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = fleet.jobs.cancel(job)
    output.document({"job": found})
    output.say(f"job {short(found.id)} is {found.state}: {found.done} of {found.total} are done")


def _watched(job: Job, look: Callable[[], Job], *, terminal: bool) -> Job:
    """The job as it is when it has ended, with a bar meanwhile where somebody sees it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as bar:
        task = bar.add_task(job.kind, total=job.total)
        while job.finished_at is None:
            failed = f", {job.failed} failed" if job.failed else ""
            bar.update(task, completed=job.done + job.failed, description=f"{job.kind}{failed}")
            time.sleep(_POLL_SECONDS)
            job = look()
    return job


def _facts(job: Job) -> list[tuple[str, object]]:
    return [
        ("job", job.id),
        ("kind", job.kind),
        ("state", job.state),
        ("items", f"{job.done} done, {job.failed} failed, {job.waiting} not done, of {job.total}"),
        ("started by", job.created_by),
        ("started", job.created_at),
        ("cancelled", job.cancelled_at),
        ("ended", job.finished_at),
        ("workers", ", ".join(job.workers) or None),
    ]


def _came_of(item: Item) -> str | None:
    if item.error is not None:
        return item.error
    return None if item.result is None else ", ".join(f"{name} {value}" for name, value in item.result.items())


def _outcome(each: PassShown) -> str | None:
    if each.error is not None:
        return f"failed: {each.error}"
    if each.last is None or each.last.finished_at is None:
        return None if each.last is None else each.last.state
    if not each.said:
        return "nothing to do"
    return each.said[0] + (f" (and {len(each.said) - 1} more)" if len(each.said) > 1 else "")


def _age(span: timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def register(app: typer.Typer) -> None:
    app.add_typer(jobs)
