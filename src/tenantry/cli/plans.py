"""``tenantry plan list|show|set|edit|add|remove|drift``: what tenants may use."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.failures import FAILED, SOME_FAILED
from tenantry.cli.options import Data, Json, TenantName, Yes
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.catalog.records import Plan
    from tenantry.fleet.tenants.drift import Difference, Drifted
    from tenantry.fleet.tenants.mend import Unseen

plan = typer.Typer(name="plan", help="What tenants may use, and whether they are held to it.", no_args_is_help=True)

PlanName = Annotated[str, typer.Argument(metavar="PLAN", help="See `tenantry plan list`.", show_default=False)]
Words = Annotated[
    list[str],
    typer.Argument(
        metavar="KEY=VALUE...",
        help="cu_max=2 history_seconds=7d quota_logical_bytes=10GiB, or none.",
        show_default=False,
    ),
]


@plan.command("list")
def list_command(data: Data = None, json: Json = False) -> None:
    """List the plans, how many tenants each has, and how many its price includes."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.plan_settings import written
    from tenantry.fleet.tenants.plans import list_plans

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = list_plans(fleet.catalog)
    output.document({"plans": found})
    output.table(
        ["PLAN", "NAME", "USD/MONTH", "TENANTS", "INCLUDED", "COMPUTE", "HISTORY", "SIZE", "BRANCHES", "BACKUPS"],
        [
            (
                *(each.plan.slug, each.plan.name, f"{each.plan.price_usd_monthly:.2f}"),
                *(each.tenants, each.plan.projects_max, _compute(each.plan)),
                *(
                    _or_dash(written(key, getattr(each.plan, key)))
                    for key in ("history_seconds", "quota_logical_bytes")
                ),
                *(each.plan.branches_max, each.plan.backup_cron),
            )
            for each in found
        ],
    )


@plan.command("show")
def show_command(name: PlanName, data: Data = None, json: Json = False) -> None:
    """Show all that a plan says, as `tenantry plan edit` takes it."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.plan_settings import KEYS, written
    from tenantry.fleet.tenants.plans import show_plan

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = show_plan(fleet.catalog, name)
    output.document({"plan": found.plan, "tenants": found.tenants})
    output.facts(
        [
            ("plan", found.plan.slug),
            *((key, written(key, getattr(found.plan, key))) for key in KEYS),
            ("tenants", found.tenants),
        ]
    )


@plan.command("set")
def set_command(
    tenant: TenantName,
    name: PlanName,
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Put a tenant on another plan: its limits hold at once. Asks where some of its history would go for ever."""
    from tenantry.cli.confirm import confirm
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        change = fleet.plan_change(tenant, name)
        slug = change.tenant.slug
        what = f"{slug}: {change.tenant.plan} -> {change.plan.slug} ({_told(change.differences)})"
        if dry_run:
            output.document({"changed": False, "tenant": change.tenant, "differences": change.differences})
            output.say(f"would change {what}")
            return
        if change.destroys and not yes:
            lost = f"what of {slug}'s history the plan {change.plan.slug} does not keep goes for ever"
            confirm(f"{what}: {lost}. Go on?", refusal=f"nothing was changed: {lost}", json_wanted=json)
        done = fleet.change_plan(change)
    output.document({"changed": True, "tenant": done, "differences": change.differences})
    output.say(f"{done.slug} is on plan {done.plan} ({_told(change.differences)})")


@plan.command("edit")
def edit_command(name: PlanName, words: Words, data: Data = None, json: Json = False) -> None:
    """Change what a plan says. Its tenants follow: at once with `tenantry plan drift --apply`, else within the hour."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.plan_settings import parse_settings
    from tenantry.fleet.tenants.plans import edit_plan, show_plan

    output = Output(json_wanted=json)
    said = parse_settings(words)
    with the_fleet(data) as fleet:
        was, now = edit_plan(fleet.catalog, name, said)
        tenants = show_plan(fleet.catalog, name).tenants
    changed = [key for key in dataclasses.asdict(now) if getattr(was, key) != getattr(now, key)]
    output.document({"changed": changed, "plan": now, "was": was, "tenants": tenants})
    output.say(f"plan {name}: {_changes(was, now, changed)}" if changed else f"plan {name} says so already")
    if changed and tenants and not json:
        output.remark(f"{tenants} tenants follow within the hour, or with: tenantry plan drift --apply")


@plan.command("add")
def add_command(
    name: PlanName,
    words: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", show_default=False)] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Add a plan. What it does not say is the provider's default, and for quotas no limit."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.plan_settings import parse_settings
    from tenantry.fleet.tenants.plans import add_plan

    output = Output(json_wanted=json)
    said = parse_settings(words or [])
    with the_fleet(data) as fleet:
        made = add_plan(fleet.catalog, name, said)
    output.document({"plan": made})
    output.say(f"there is a plan {made.slug} ({made.name})")


@plan.command("remove")
def remove_command(name: PlanName, data: Data = None, json: Json = False) -> None:
    """Remove a plan that nobody has or had."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.plans import remove_plan

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        remove_plan(fleet.catalog, name)
    output.document({"removed": name})
    output.say(f"there is no plan {name} any more")


@plan.command("drift")
def drift_command(
    apply: Annotated[bool, typer.Option("--apply", help="Mend what is shown.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Ask for each tenant's endpoint too: some requests for each of them.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show where tenants are held to something else than their plan says. Wakes nobody.

    Exit code 0 where nothing differs or all was mended, 1 where something differs, 3 where some could not be mended.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import TenantryError

    output = Output(json_wanted=json)
    failed: dict[str, str] = {}
    with the_fleet(data) as fleet:
        drifted, unseen = _sorted(fleet.drift(deep=deep))
        for each in drifted if apply else ():
            try:
                fleet.mend(each)
            except TenantryError as error:
                failed[each.tenant.slug] = str(error)
    output.document(
        {
            "tenants": [
                {
                    "tenant": each.tenant.slug,
                    "differences": each.differences,
                    "mended": apply and each.tenant.slug not in failed,
                    "error": failed.get(each.tenant.slug),
                }
                for each in drifted
            ],
            "unseen": [{"provider": each.provider, "error": str(each.error)} for each in unseen],
        }
    )
    output.table(
        ["TENANT", "WHAT", "PLAN SAYS", "FOUND", *(["MENDED"] if apply else [])],
        [
            (
                *(each.tenant.slug, one.what, *_values(one)),
                *([failed.get(each.tenant.slug, "yes")] if apply else []),
            )
            for each in drifted
            for one in each.differences
        ],
    )
    for each in unseen:
        output.remark(f"provider {each.provider} was not looked at: {each.error}")
    if not drifted and not unseen:
        output.say("every tenant is held to what its plan says")
    elif drifted and not apply and not json:
        output.remark(f"{len(drifted)} tenants differ; mend them with: tenantry plan drift --apply")
    if failed or (apply and unseen):
        raise typer.Exit(SOME_FAILED)
    if (drifted and not apply) or unseen:
        raise typer.Exit(FAILED)


def _sorted(found: Iterable[Drifted | Unseen]) -> tuple[list[Drifted], list[Unseen]]:
    from tenantry.fleet.tenants.mend import Unseen

    drifted: list[Drifted] = []
    unseen: list[Unseen] = []
    for each in found:
        if isinstance(each, Unseen):
            unseen.append(each)
        else:
            drifted.append(each)
    return drifted, unseen


def _compute(found: Plan) -> str | None:
    if found.cu_min is None or found.cu_max is None:
        return None
    low, high = f"{found.cu_min.normalize():f}", f"{found.cu_max.normalize():f}"
    return f"{low} CU" if low == high else f"{low} to {high} CU"


def _or_dash(text: str) -> str | None:
    return None if text == "none" else text


def _values(one: Difference) -> tuple[str, str]:
    from tenantry.fleet.tenants.plan_settings import written

    return written(one.what, one.wanted), written(one.what, one.found)


def _told(differences: Iterable[Difference]) -> str:
    told = [f"{one.what} {found} -> {wanted}" for one in differences for wanted, found in [_values(one)]]
    return ", ".join(told) or "its limits are the same"


def _changes(was: Plan, now: Plan, changed: Iterable[str]) -> str:
    from tenantry.fleet.tenants.plan_settings import written

    return ", ".join(f"{key} {written(key, getattr(was, key))} -> {written(key, getattr(now, key))}" for key in changed)


def register(app: typer.Typer) -> None:
    app.add_typer(plan)
