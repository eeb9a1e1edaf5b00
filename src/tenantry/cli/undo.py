"""``tenantry migrate undo``: tenants go back to what they were before a run changed them."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.confirm import confirm
from tenantry.cli.failures import FAILED, SOME_FAILED
from tenantry.cli.migrate import ROWS_MAX, migrate
from tenantry.cli.options import Data, Json, Yes, slugs_of
from tenantry.cli.output import Output, size_in_words

if TYPE_CHECKING:
    from tenantry.fleet.migrations.undo import Undone
    from tenantry.fleet.migrations.undo_plan import Step, UndoPlan


def undo(
    run: Annotated[
        str | None,
        typer.Option(
            "--run", metavar="RUN", help="The run to undo, as `migrate history` names it.", show_default=False
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option("--tenant", metavar="T", help="Undo the last run that changed this tenant.", show_default=False),
    ] = None,
    tenants: Annotated[
        list[str] | None,
        typer.Option("--tenants", metavar="T,...", help="Only these tenants of the run.", show_default=False),
    ] = None,
    by: Annotated[str, typer.Option("--by", metavar="restore|down", help="How they go back.")] = "restore",
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Tenants at a time.")] = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    yes: Yes = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Bring tenants back to the state before a run. What they are now is kept as a branch of each.

    Shows first who goes back where, and how much was written since. With --by down the migrations' own .down.sql files
    take them back, and what was written since stays. Running it again ends what was interrupted.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput

    output = Output(json_wanted=json)
    if by not in ("restore", "down"):
        raise InvalidInput(f"--by is restore or down, not {by!r}")
    if (run is None) == (tenant is None):
        raise InvalidInput("undo which run?", next_step="say --run RUN, or --tenant T for the last one that changed T")
    named = slugs_of(tenants)
    with the_fleet(data, at_a_time=jobs) as fleet, fleet.undoing(run, tenant=tenant, jobs=jobs) as undoing:
        plan = undoing.plan([tenant] if tenant is not None else named, how="down" if by == "down" else "restore")
        steps = plan.of("to_undo")
        if dry_run or not yes:
            _show(output, plan)
        if dry_run or not steps:
            output.document({"undone": False, "plan": plan.as_dict(), "tenants": []})
            if not dry_run:
                _say_nothing(output, plan)
            return
        if not yes:
            refusal = f"nothing was changed: this would bring {_tenants(len(steps))} back to before {plan.run_id}"
            confirm(f"Bring {_tenants(len(steps))} back?", refusal=refusal, json_wanted=json)
        done = undoing.execute(plan, on_done=_teller(output, len(steps)))
    output.document({"undone": True, "plan": plan.as_dict(), "tenants": [each.as_dict() for each in done]})
    _say_what_follows(output, plan, done)


def _show(output: Output, plan: UndoPlan) -> None:
    shown = [step for step in plan.steps if step.standing != "nothing"]
    if output.json_wanted:
        return
    output.remark(f"undo {plan.run_id} " + ("by its own way down" if plan.how == "down" else "by going back in time"))
    output.table(
        ["TENANT", "FROM", "TO", "POINT", "WRITTEN SINCE", "WHAT"],
        [
            (
                step.slug,
                step.from_version,
                step.to_version,
                step.point.value if step.point else None,
                None if step.written_bytes is None else size_in_words(step.written_bytes),
                _what(step),
            )
            for step in shown[:ROWS_MAX]
        ],
    )
    if len(shown) > ROWS_MAX:
        output.remark(f"and {len(shown) - ROWS_MAX} more: --json has all of them")
    if plan.how == "restore" and plan.of("to_undo"):
        output.remark("what was written since goes with it; the present of each is kept as a branch, sessions are cut")


def _what(step: Step) -> str:
    match step.standing:
        case "to_undo":
            kept = f", its present kept as {step.preserved_as}" if step.preserved_as else ""
            return f"goes back{kept}" + (f" ({step.reason})" if step.reason else "")
        case "undone":
            return step.reason
        case _:
            return f"REFUSED: {step.reason}" + (f"; {step.next_step}" if step.next_step else "")


def _teller(output: Output, total: int):
    count = 0

    def tell(done: Undone) -> None:
        nonlocal count
        count += 1
        if output.json_wanted:
            output.event({"event": "tenant_undone", "done": count, "of": total, **done.as_dict()})
            return
        what = f"FAILED: {done.failure}" if done.failure else f"is at {done.version or 'no version'} again"
        note = f"; {done.note}" if done.note else ""
        output.remark(f"[{count}/{total}] {done.step.slug}: {what} ({done.seconds:.2f} s){note}")

    return tell


def _say_nothing(output: Output, plan: UndoPlan) -> None:
    if plan.of("refused"):
        output.say("nothing was undone: every tenant that could be was refused")
        raise typer.Exit(FAILED)
    output.say(f"there is nothing to undo of {plan.run_id}")


def _say_what_follows(output: Output, plan: UndoPlan, done: Sequence[Undone]) -> None:
    failed = [each for each in done if each.failure is not None]
    back = [each for each in done if each.failure is None]
    refused, already = plan.of("refused"), plan.of("undone")
    parts = [f"{_tenants(len(back))} back to before {plan.run_id}"]
    parts += [f"{len(already)} undone before"] if already else []
    parts += [f"{len(refused)} refused"] if refused else []
    parts += [f"{len(failed)} failed"] if failed else []
    output.say(", ".join(parts))
    if not output.json_wanted:
        output.table(["FAILED", "WHY", "NEXT STEP"], [(e.step.slug, e.failure, e.next_step) for e in failed[:ROWS_MAX]])
        if back and plan.how == "restore":
            one = back[0].step
            assert one.preserved_as is not None, "a restore keeps the present under a name"
            output.say("what they were is kept as a branch of each, for instance:")
            output.say(f"  to look at:  tenantry branch psql {shlex.quote(one.preserved_as)} --tenant {one.slug}")
            output.say(f"  to forget:   tenantry branch delete {shlex.quote(one.preserved_as)} --tenant {one.slug}")
    if failed:
        output.remark("run it again to end it: tenants that are back are not touched")
    if failed or refused:
        raise typer.Exit(SOME_FAILED)


def _tenants(count: int) -> str:
    return f"{count} tenant" if count == 1 else f"{count} tenants"


def register(app: typer.Typer) -> None:
    del app  # the group has its place there already
    migrate.command("undo")(undo)
