"""``tenantry restore T --to TIME|LSN``: a tenant goes back in time, in place."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.confirm import confirm
from tenantry.cli.moments import Point, in_words, parse_point
from tenantry.cli.options import Data, Json, TenantName, Yes
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.tenants.restore import Restored, Restoring


def restore(
    tenant: TenantName,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="TIME|LSN", help="10:41 (today), '5m ago', ISO 8601, or an LSN.", show_default=False
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="BRANCH",
            help="Take the state of this branch, e.g. to undo a restore.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Bring a tenant back to an earlier state. Its connection string stays, and its present is kept as a branch."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput

    output, now = Output(json_wanted=json), datetime.now(UTC)
    if to is None and source is None:
        raise InvalidInput("restore to which state?", next_step="say it with --to, for instance --to 10:41")
    point = None if to is None else parse_point(to, now)
    with the_fleet(data) as fleet:
        plan = fleet.plan_restore(
            tenant,
            at=None if point is None else point.at,
            lsn=None if point is None else point.lsn,
            source=source,
        )
        what = _sentence(plan, point, now)
        if dry_run or not yes:
            output.remark(f"restore {what}")
            if source is None and plan.source_id != plan.branch_id:
                output.remark(f"{plan.branch} was restored since; what it showed then is in the past of {plan.source}")
            output.remark(f"the present is kept as branch {plan.preserved_as}; open connections are cut")
            output.remark(
                f"the history begins about {in_words(Point(at=plan.history_from.replace(microsecond=0)), now)}"
            )
        if dry_run:
            output.document({"restored": False, "plan": _document(plan)})
            return
        if not yes:
            confirm("Do that?", refusal=f"nothing was changed: this would restore {what}", json_wanted=json)
        done = fleet.restore(plan)
    output.document({"restored": True, "plan": _document(plan), "result": result_document(done)})
    output.say(f"restored {what}")
    say_what_follows(output, done)


def _sentence(plan: Restoring, point: Point | None, now: datetime) -> str:
    source = f"to branch {plan.source}" if plan.source_id != plan.branch_id else "to"
    when = "as it is now" if point is None else in_words(point, now)
    return f"{plan.tenant.slug} {source} {when}"


def _document(plan: Restoring) -> dict[str, object]:
    return {
        "tenant": plan.tenant.slug,
        "branch": plan.branch,
        "source": plan.source,
        "at": plan.at,
        "lsn": plan.lsn,
        "history_from": plan.history_from,
        "preserved_as": plan.preserved_as,
    }


def result_document(done: Restored) -> dict[str, object]:
    return {
        "tenant": done.tenant.slug,
        "branch": done.branch,
        "preserved_as": done.preserved_as,
        "roles_of_the_past": done.roles_of_the_past,
    }


def say_what_follows(output: Output, done: Restored) -> None:
    """What is to know after a restore; shared with that of snapshots."""
    slug = done.tenant.slug
    output.say(f"the connection string of {slug} is the same; the next migration asks its ledger again")
    if done.preserved_as is not None:
        kept = shlex.quote(done.preserved_as)
        output.say(f"what was there until now is kept as branch {done.preserved_as}")
        output.say(f"  to undo:      tenantry restore {slug} --from {kept}")
        output.say(f"  to look at:   tenantry branch psql {kept} --tenant {slug}")
        output.say(f"  to forget:    tenantry branch delete {kept} --tenant {slug}")
    if done.roles_of_the_past:
        output.say(
            f"as they were then, passwords included: {', '.join(done.roles_of_the_past)} "
            "(SQL set them, or the roles were deleted since)"
        )


def register(app: typer.Typer) -> None:
    app.command("restore")(restore)
