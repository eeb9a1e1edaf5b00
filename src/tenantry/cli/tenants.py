"""``tenantry create|list|show|url|suspend|resume|delete``: a tenant's life."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.options import Data, Json, Pooled, TenantName
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.catalog.records import Tenant


def create(
    name: Annotated[str, typer.Argument(help='The customer\'s name: "ACME Corp".', show_default=False)],
    slug: Annotated[
        str | None, typer.Option(help="Its slug, where the name's own is taken.", show_default=False)
    ] = None,
    email: Annotated[str | None, typer.Option(help="Whom to write to.", show_default=False)] = None,
    plan: Annotated[
        str | None, typer.Option(help="launch (the default), scale or business.", show_default=False)
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="R", help="Where it is to be; by default where there is most room.", show_default=False),
    ] = None,
    residency: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where its data must stay.", show_default=False)
    ] = None,
    pg: Annotated[
        int | None, typer.Option("--pg", metavar="MAJOR", help="Postgres version.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Create a tenant: a customer and its own database. Safe to repeat."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        done = fleet.create(name, slug=slug, email=email, plan=plan, region=region, residency=residency, pg_version=pg)
    tenant = done.tenant
    output.document({"created": done.new, "tenant": tenant})
    output.say(
        f"{tenant.slug} {'is ready' if done.new else 'was there already'}: "
        f"project {tenant.project_id}, Postgres {tenant.pg_version}, region {tenant.region}"
    )
    if not json:
        output.remark(f"connect with: tenantry psql {tenant.slug}")


def list_(
    data: Data = None,
    json: Json = False,
) -> None:
    """List all tenants. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        tenants = list(fleet.list())
    output.document({"tenants": tenants})
    if not tenants and not json:
        output.remark('there are no tenants yet: tenantry create "ACME Corp"')
        return
    output.table(
        ["TENANT", "NAME", "STATE", "PLAN", "REGION", "PG", "SCHEMA", "CREATED"],
        [(t.slug, t.name, t.state, t.plan, t.region, t.pg_version, t.schema_version, t.created_at) for t in tenants],
    )


def show(tenant: TenantName, data: Data = None, json: Json = False) -> None:
    """Show one tenant, and whether it is awake. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        shown = fleet.show(tenant)
    output.document({"tenant": shown.tenant, "provider": shown.provider, "endpoints": shown.endpoints})
    output.facts([*_facts(shown.tenant), ("provider", shown.provider)])
    output.facts(
        fact
        for endpoint in shown.endpoints
        for fact in (
            ("endpoint", f"{endpoint.id} ({'awake' if endpoint.state == 'active' else 'asleep'})"),
            ("host", endpoint.host),
            ("compute", None if endpoint.cu_min is None else f"{endpoint.cu_min:g} to {endpoint.cu_max:g} CU"),
            ("last active", endpoint.last_active),
        )
    )


def _facts(tenant: Tenant) -> list[tuple[str, object]]:
    return [
        ("tenant", tenant.slug),
        ("name", tenant.name),
        ("email", tenant.email),
        ("state", tenant.state),
        ("plan", tenant.plan),
        ("residency", tenant.residency),
        ("region", tenant.region),
        ("project", tenant.project_id),
        ("postgres", tenant.pg_version),
        ("database", tenant.database_name),
        ("role", tenant.role_name),
        ("schema", tenant.schema_version),
        ("created", tenant.created_at),
    ]


def url(tenant: TenantName, pooled: Pooled = False, data: Data = None, json: Json = False) -> None:
    """Print a tenant's connection URI, with its password."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        uri = fleet.url(tenant, pooled=pooled)
    output.document({"url": uri})
    if not json:
        output.say(uri)


def suspend(tenant: TenantName, data: Data = None, json: Json = False) -> None:
    """Put a tenant to sleep now. It wakes when somebody connects."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        done = fleet.suspend(tenant)
    output.document({"tenant": done.slug, "state": "asleep"})
    output.say(f"{done.slug} is asleep")


def resume(tenant: TenantName, data: Data = None, json: Json = False) -> None:
    """Wake a tenant before anybody connects."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        done = fleet.resume(tenant)
    output.document({"tenant": done.slug, "state": "awake"})
    output.say(f"{done.slug} is awake")


def delete(
    tenant: TenantName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Delete a tenant with all its data. Shows what it would delete first."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        planned = fleet.plan_deletion(tenant)
        slug, projects = planned.tenant.slug, planned.projects
        what = f"tenant {slug} ({planned.tenant.name}) with {_counted(projects)} and all data in it"
        if dry_run:
            output.document({"deleted": False, "tenant": planned.tenant, "projects": projects})
            output.say(f"would delete {what}")
            return
        if not yes:
            if json or not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise InvalidInput(f"nothing was deleted: this would delete {what}", next_step="say so with --yes")
            typer.confirm(f"Delete {what}?", abort=True, err=True)
        fleet.delete(slug)
    output.document({"deleted": True, "tenant": planned.tenant, "projects": projects})
    output.say(f"deleted {what}")


def _counted(projects: Sequence[str]) -> str:
    return f"project {', '.join(projects)}" if projects else "no project"


def register(app: typer.Typer) -> None:
    app.command("create")(create)
    app.command("list")(list_)
    app.command("show")(show)
    app.command("url")(url)
    app.command("suspend")(suspend)
    app.command("resume")(resume)
    app.command("delete")(delete)
