"""``tenantry create|list|show|url|suspend|resume|rename|delete|undelete``: a tenant's life."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from tenantry.cli.configured import said_of_tenants
from tenantry.cli.options import Data, Json, Pooled, TenantName
from tenantry.cli.output import Output, shown

if TYPE_CHECKING:
    from tenantry.fleet.catalog.records import Tenant, TenantState


DELETIONS_MAX: Final = 1_000
"""The newest that are listed."""


def create(
    name: Annotated[str | None, typer.Argument(help='The customer\'s name: "ACME Corp".', show_default=False)] = None,
    csv: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Many, from a file; - is standard input.", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", metavar="N", min=1, max=64, help="Of many, how many at a time.", show_default="8"),
    ] = None,
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
    """Create a tenant: a customer and its own database. Safe to repeat.

    A FILE's first line names its columns: name, and any of slug, email, plan, region, residency, pg_version. Rows that
    cannot be done are named, the others are done, and the exit code is 3 then.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput

    output = Output(json_wanted=json)
    if csv is not None:
        if any(said is not None for said in (name, slug, email, plan, region, residency, pg)):
            raise InvalidInput("--csv says what to create", next_step="write it into the file's columns")
        from tenantry.cli.sign_ups import create_from_csv

        create_from_csv(csv, jobs=jobs, data=data, output=output)
        return
    if name is None:
        raise InvalidInput("a tenant needs a name", next_step='tenantry create "ACME Corp", or --csv FILE')
    if jobs is not None:
        raise InvalidInput("--jobs goes with --csv")
    usual = said_of_tenants()
    if usual is not None:
        plan, region, pg = plan or usual.plan, region or usual.region, pg or usual.pg_version
        residency = residency or usual.residency
    with the_fleet(data) as fleet:
        done = fleet.create(name, slug=slug, email=email, plan=plan, region=region, residency=residency, pg_version=pg)
    tenant = done.tenant
    output.document({"created": done.new, "tenant": tenant, "note": done.note})
    output.say(
        f"{tenant.slug} {'is ready' if done.new else 'was there already'}: "
        f"project {tenant.project_id}, Postgres {tenant.pg_version}, region {tenant.region}"
    )
    if done.note is not None:
        output.remark(done.note)
    if not json:
        output.remark(f"connect with: tenantry psql {tenant.slug}")


def list_(
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Those that are gone for good: when, and who asked for it.")
    ] = False,
    state: Annotated[
        Literal["creating", "ready", "leaving", "deleting"] | None,
        typer.Option("--state", help="Only those in this state.", show_default=False),
    ] = None,
    plan: Annotated[str | None, typer.Option("--plan", help="Only those of this plan.", show_default=False)] = None,
    region: Annotated[
        str | None, typer.Option("--region", metavar="R", help="Only those in this region.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.", show_default=False)
    ] = None,
    after: Annotated[
        str, typer.Option("--after", metavar="SLUG", help="Only those behind this slug.", show_default=False)
    ] = "",
    data: Data = None,
    json: Json = False,
) -> None:
    """List tenants in the order of their slugs. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        gone = fleet.deletions(limit=DELETIONS_MAX) if deleted else []
        states: list[TenantState] = [] if state is None else [state]
        chosen = fleet.list(states=states, plan=plan, region=region, limit=limit, after=after)
        tenants = [] if deleted else list(chosen)
    if deleted:
        output.document({"deletions": gone})
        output.table(
            ["TENANT", "NAME", "ASKED FOR BY", "ON", "PURGED", "PROJECTS"],
            [
                (each.slug, each.name, each.requested_by, each.requested_at, each.purged_at, ", ".join(each.projects))
                for each in gone
            ],
        )
        return
    output.document({"tenants": tenants})
    if not tenants and not json:
        output.remark('there are no tenants yet: tenantry create "ACME Corp"')
        return
    output.table(
        ["TENANT", "NAME", "STATE", "PLAN", "REGION", "PG", "SCHEMA", "CREATED"],
        [(t.slug, t.name, _state(t), t.plan, t.region, t.pg_version, t.schema_version, t.created_at) for t in tenants],
    )


def _state(tenant: Tenant) -> str:
    return tenant.state if tenant.purge_at is None else f"{tenant.state} on {tenant.purge_at:%Y-%m-%d}"


def show(tenant: TenantName, data: Data = None, json: Json = False) -> None:
    """Show one tenant, and whether it is awake. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = fleet.show(tenant)
    output.document({"tenant": found.tenant, "provider": found.provider, "endpoints": found.endpoints})
    output.facts([*_facts(found.tenant), ("provider", found.provider)])
    output.facts(
        fact
        for endpoint in found.endpoints
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
        *([("purged on", tenant.purge_at), ("deleted by", tenant.leaving_by)] if tenant.state == "leaving" else []),
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
    grace: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN", help="How long it can be brought back: 12h, 30d. Default: 7d.", show_default=False
        ),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Delete all data at once and for good.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted, and when.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Delete a tenant: its clients are turned away now, its data is deleted when the grace ends. Shows it first."""
    from tenantry.cli.confirm import confirm
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.delete import GRACE
    from tenantry.runtime.spans import parse_span

    output = Output(json_wanted=json)
    wanted, said = _grace(grace, now=now), said_of_tenants()
    usual = GRACE if said is None else parse_span(said.grace)
    with the_fleet(data) as fleet:
        planned = fleet.plan_deletion(tenant, grace=wanted, usual=usual)
        slug, projects = planned.tenant.slug, planned.projects
        what = f"tenant {slug} ({planned.tenant.name}) with {_counted(projects)} and all data in it"
        when = "now and for good" if planned.purge_at is None else f"on {shown(planned.purge_at)}"
        if dry_run:
            output.document({"deleted": False, "tenant": planned.tenant, "projects": projects, "at": planned.purge_at})
            output.say(f"would delete {what}, {when}")
            return
        if not yes:
            confirm(
                f"Delete {what}, {when}?",
                refusal=f"nothing was deleted: this would delete {what}, {when}",
                json_wanted=json,
            )
        done = fleet.delete(slug, grace=wanted, usual=usual)
    output.document(
        {"deleted": True, "gone": done.gone, "tenant": done.tenant, "projects": projects, "note": done.note}
    )
    if done.gone:
        output.say(f"deleted {what}")
        return
    assert done.tenant.purge_at is not None
    output.say(f"{slug} is deleted: its clients are turned away, its data goes on {shown(done.tenant.purge_at)}")
    if done.note is not None:
        output.remark(done.note)
    if not json:
        output.remark(f"bring it back with: tenantry undelete {slug}")


def _grace(said: str | None, *, now: bool) -> timedelta | None:
    """From what was typed to what is meant; None is the usual one."""
    from tenantry.errors import InvalidInput
    from tenantry.runtime.spans import parse_span

    if now and said is not None:
        raise InvalidInput("--now leaves no grace", next_step="give --now or --grace")
    return timedelta() if now else (None if said is None else parse_span(said))


def _counted(projects: Sequence[str]) -> str:
    return f"project {', '.join(projects)}" if projects else "no project"


def undelete(tenant: TenantName, data: Data = None, json: Json = False) -> None:
    """Bring back a deleted tenant with everything it had, until its grace ends."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        done = fleet.undelete(tenant)
    output.document({"undeleted": done.new, "tenant": done.tenant})
    output.say(f"{done.tenant.slug} {'is back, with its data and passwords' if done.new else 'was not deleted'}")


def rename(
    tenant: TenantName,
    new_name: Annotated[str, typer.Argument(metavar="NAME", help="What it is called from now on.", show_default=False)],
    slug: Annotated[
        str | None, typer.Option(help="A new slug, too. Without it the slug stays.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Give a tenant another name. Its connection string stays. Safe to repeat."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        done = fleet.rename(tenant, new_name, slug=slug)
    output.document({"renamed": done.new, "tenant": done.tenant, "was": done.was, "note": done.note})
    now_called = f"{done.tenant.slug} ({done.tenant.name})"
    output.say(
        f"{done.was.slug} ({done.was.name}) is {now_called}" if done.new else f"{now_called} is called so already"
    )
    if done.note is not None:
        output.remark(done.note)


def register(app: typer.Typer) -> None:
    app.command("create")(create)
    app.command("list")(list_)
    app.command("show")(show)
    app.command("url")(url)
    app.command("suspend")(suspend)
    app.command("resume")(resume)
    app.command("rename")(rename)
    app.command("delete")(delete)
    app.command("undelete")(undelete)
