"""``tenantry provider add|list|check|remove|region|residency|rotate``: who owns projects, and where data may be."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.confirm import confirm
from tenantry.cli.options import Data, Json, Yes
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.catalog.records import Serving
    from tenantry.fleet.providers.ports import Health

provider = typer.Typer(
    name="provider",
    help="Who owns projects (cells, Neon accounts, plain Postgres servers), the regions they serve, and residency.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The provider's name: eu-2.", show_default=False)]


@provider.command("add")
def add_command(
    name: Name,
    kind: Annotated[str, typer.Option("--kind", metavar="KIND", help="cell, neon or postgres.", show_default=False)],
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="A cell's API, with /api/v2. Neon's is known.", show_default=False),
    ] = None,
    key_env: Annotated[
        str | None,
        typer.Option("--key-env", metavar="VAR", help="The variable that holds its key.", show_default=False),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help="The file that holds its key (mode 0600).", show_default=False),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="A certificate to trust beside the system's.", show_default=False),
    ] = None,
    change: Annotated[bool, typer.Option("--change", help="Change how one that is there is reached.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Add a provider. Its key stays in the variable or file, where every process that works with it reads it.

    The key of a plain Postgres is two lines: the URI of an admin who may create databases and roles, and at least 32
    characters from which tenants' passwords are derived.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.providers.manage import add_provider, reach
    from tenantry.fleet.providers.secrets import secret_place

    output = Output(json_wanted=json)
    wanted = reach(name, kind, url=url, ca=ca, secret_from=secret_place(env=key_env, file=key_file))
    with the_fleet(data) as fleet:
        done = add_provider(fleet.catalog, wanted, change=change)
    output.document({"change": done.change, "provider": done.provider})
    output.say(f"provider {name} ({kind}) {'was there already' if done.change is None else f'is {done.change}'}")
    if not json and done.change == "added":
        output.remark(f"next: tenantry provider check {name}; tenantry provider region {name} REGION")


@provider.command("list")
def list_command(data: Data = None, json: Json = False) -> None:
    """List providers, the regions they serve and how full they are, and residencies. Asks nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.providers.manage import overview

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        seen = overview(fleet.catalog)
    output.document({"providers": seen.providers, "regions": seen.servings, "residencies": seen.residencies})
    output.table(
        ["PROVIDER", "KIND", "URL", "KEY FROM", "SINCE"],
        [(p.name, p.kind, p.api_url, p.secret_from, p.created_at) for p in seen.providers],
    )
    if seen.servings and not json:
        output.say("")
    output.table(
        ["REGION", "PROVIDER", "CALLED THERE", "TENANTS", "READY", "MAX", "NEW TENANTS"],
        [
            (s.region, s.provider, s.provider_region, s.projects, s.ready, s.projects_max, _welcome(s))
            for s in sorted(seen.servings, key=lambda each: (each.region, each.provider))
        ],
    )
    if seen.residencies and not json:
        output.say("")
    output.table(
        ["RESIDENCY", "REGIONS"],
        [(r.slug, ", ".join(r.region_patterns)) for r in seen.residencies],
    )


def _welcome(serving: Serving) -> str:
    if not serving.accepts_new:
        return "closed"
    full = serving.projects_max is not None and serving.projects >= serving.projects_max
    return "full" if full else "open"


@provider.command("check")
def check_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="By default all.", show_default=False)] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Ask providers how they are: reachable, key, version, regions, clock. Exit status 1 when one is not well."""
    from tenantry.cli.failures import FAILED
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.providers.check import check_providers
    from tenantry.fleet.providers.manage import find_provider, overview

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        seen = overview(fleet.catalog)
        records = seen.providers if name is None else [find_provider(fleet.catalog, name)]
        checked = check_providers(records, seen.servings, fleet.providers.opened)
    output.document(
        {
            "ok": all(each.ok for each in checked),
            "providers": [
                {
                    "name": each.provider.name,
                    "kind": each.provider.kind,
                    "ok": each.ok,
                    "health": each.health,
                    "wrong": each.wrong,
                    "next_step": each.next_step,
                }
                for each in checked
            ],
        }
    )
    output.table(
        ["PROVIDER", "KIND", "", "VERSION", "REGIONS", "CLOCK"],
        [
            (
                each.provider.name,
                each.provider.kind,
                "ok" if each.ok else "wrong",
                None if each.health is None else each.health.version,
                None if each.health is None else ", ".join(each.health.regions) or None,
                _clock(each.health),
            )
            for each in checked
        ],
    )
    if not json:
        for each in checked:
            for sentence in each.wrong:
                output.remark(f"{each.provider.name}: {sentence}")
            if each.next_step:
                output.remark(f"  -> {each.next_step}")
            for note in each.health.notes if each.health else ():
                output.remark(f"{each.provider.name}: {note}")
    if not all(each.ok for each in checked):
        raise typer.Exit(FAILED)


def _clock(health: Health | None) -> str | None:
    return None if health is None or health.clock_seconds is None else f"{health.clock_seconds:+.1f} s"


@provider.command("remove")
def remove_command(name: Name, yes: Yes = False, data: Data = None, json: Json = False) -> None:
    """Remove a provider that has no tenants. Nothing is deleted there."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.providers.manage import plan_removal, remove_provider

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        planned = plan_removal(fleet.catalog, name)
        regions = ", ".join(each.region for each in planned.servings)
        what = f"provider {name} ({planned.provider.kind}){f', which serves {regions}' if regions else ''}"
        if not yes:
            confirm(f"Remove {what}?", refusal=f"nothing was removed: this would remove {what}", json_wanted=json)
        remove_provider(fleet.catalog, planned)
    output.document({"removed": True, "provider": planned.provider, "regions": planned.servings})
    output.say(f"removed {what}")


@provider.command("region")
def region_command(
    name: Name,
    region: Annotated[str, typer.Argument(metavar="REGION", help="What the fleet calls it: eu-1.", show_default=False)],
    provider_region: Annotated[
        str | None,
        typer.Option(
            "--provider-region", metavar="R", help="What the provider calls it: aws-eu-central-1.", show_default=False
        ),
    ] = None,
    projects_max: Annotated[
        int | None, typer.Option("--max", metavar="N", help="Tenants that it may hold there.", show_default=False)
    ] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Take --max away.")] = False,
    closed: Annotated[
        bool | None, typer.Option("--closed/--open", help="Whether it takes new tenants.", show_default=False)
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="It serves the region no more.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Say that a provider serves a region. Safe to repeat; what is not said stays as it is.

    Once one region is defined, every new tenant is placed in one.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.providers.manage import leave_region, serve_region

    output = Output(json_wanted=json)
    if remove and (provider_region is not None or projects_max is not None or unlimited or closed is not None):
        raise InvalidInput("--remove stands alone", next_step="leave the other options out")
    with the_fleet(data) as fleet:
        if remove:
            gone = leave_region(fleet.catalog, name, region)
            output.document({"removed": gone})
            output.say(f"{name} {'serves region' if gone else 'did not serve region'} {region}{' no more' * gone}")
            return
        done = serve_region(
            fleet.catalog,
            name,
            region,
            provider_region=provider_region,
            projects_max=projects_max,
            unlimited=unlimited,
            accepts_new=None if closed is None else not closed,
        )
    output.document({"region": done})
    room = f"{done.projects} tenants" + ("" if done.projects_max is None else f" of {done.projects_max}")
    output.say(
        f"{name} serves region {region}{_called(done)}: {room}{'' if done.accepts_new else ', closed for new ones'}"
    )


def _called(serving: Serving) -> str:
    return "" if serving.provider_region == serving.region else f" (there {serving.provider_region})"


@provider.command("residency")
def residency_command(
    name: Annotated[str, typer.Argument(metavar="RESIDENCY", help="Its name: eu.", show_default=False)],
    regions: Annotated[
        list[str] | None,
        typer.Option("--regions", metavar="PATTERNS", help="Where data may be: 'eu-*,ch-1'.", show_default=False),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it; no customer may have it.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Define where the data of customers with this residency must stay. Safe to repeat."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.providers.manage import define_residency, drop_residency

    output = Output(json_wanted=json)
    if remove == bool(regions):
        raise InvalidInput(
            "which regions?", next_step=f"for instance: tenantry provider residency {name} --regions 'eu-*'"
        )
    with the_fleet(data) as fleet:
        if remove:
            gone = drop_residency(fleet.catalog, name)
            output.document({"removed": gone})
            output.say(f"residency {name} {'is removed' if gone else 'was not there'}")
            return
        done = define_residency(fleet.catalog, name, regions or [])
    output.document({"residency": done})
    output.say(f"residency {name}: data stays in {', '.join(done.region_patterns)}")


@provider.command("rotate")
def rotate_command(
    name: Name,
    yes: Yes = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Give every tenant of a provider a new password. Their old connection strings stop working."""
    from tenantry.cli.failures import SOME_FAILED
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import TenantryError
    from tenantry.fleet.providers.manage import find_provider

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        record = find_provider(fleet.catalog, name)
        tenants = [each.slug for each in fleet.list(states=["ready"]) if each.provider_id == record.id]
        if not yes:
            what = f"the passwords of {len(tenants)} tenants of {name}, whose applications need new connection strings"
            confirm(f"Change {what}?", refusal=f"nothing was changed: this would change {what}", json_wanted=json)
        failed: dict[str, str] = {}
        for slug in tenants:
            try:
                fleet.new_password(slug)
            except TenantryError as error:
                failed[slug] = str(error)
    output.document({"rotated": [each for each in tenants if each not in failed], "failed": failed})
    done = len(tenants) - len(failed)
    output.say(f"new passwords for {done} tenant{'' if done == 1 else 's'} of {name}: tenantry url TENANT")
    for slug, reason in failed.items():
        output.remark(f"{slug}: {reason}")
    if failed:
        raise typer.Exit(SOME_FAILED)


def register(app: typer.Typer) -> None:
    app.add_typer(provider)
