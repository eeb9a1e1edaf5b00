"""``tenantry branch create|list|reset|delete|url|psql``: places to develop and test."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.confirm import confirm
from tenantry.cli.moments import in_words, parse_time
from tenantry.cli.options import Data, Expires, Json, Pooled, Yes
from tenantry.cli.output import Output, shown
from tenantry.runtime.spans import parse_span

if TYPE_CHECKING:
    from tenantry.fleet.environments.records import Branch

branch = typer.Typer(
    name="branch",
    help="Branches for development and tests: of the non-production project, or of a tenant with --tenant.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The branch's name.", show_default=False)]
Tenant = Annotated[
    str | None,
    typer.Option("--tenant", metavar="T", help="A tenant's branches instead.", show_default=False),
]


@branch.command("create")
def create_command(
    name: Name,
    tenant: Tenant = None,
    parent: Annotated[
        str | None,
        typer.Option("--from", metavar="BRANCH", help="Its parent; by default the default branch.", show_default=False),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="As the parent was then: 10:41, '5m ago'.", show_default=False),
    ] = None,
    lsn: Annotated[
        str | None, typer.Option("--lsn", metavar="LSN", help="As the parent was at this position.", show_default=False)
    ] = None,
    expires: Expires = None,
    anonymized: Annotated[
        bool, typer.Option("--anonymized", help="Replace personal data, as [anonymize] of tenantry.toml says.")
    ] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Create a branch with an endpoint. Safe to repeat, which also renews --expires."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.environments.anonymize import create_anonymized
    from tenantry.fleet.environments.create import create_branch
    from tenantry.fleet.environments.masks import Rules
    from tenantry.fleet.settings import load_settings

    output, now, said = Output(json_wanted=json), datetime.now(UTC), load_settings()
    point = None if at is None else parse_time(at, now)
    until = expires or said.branches.expires
    expires_at = None if until is None else now + parse_span(until)
    if anonymized and (at or lsn):
        raise InvalidInput("an anonymized branch begins now", next_step="leave --at and --lsn away")
    with the_fleet(data) as fleet:
        place = fleet.place(tenant)
        if anonymized:
            rules = Rules(said.anonymize.columns, said.anonymize.personal)
            done = create_anonymized(
                place, name, rules, parent=parent, expires_at=expires_at, branches_max=said.branches.max,
                on_masked=lambda masked: output.remark(f"{masked.database}: {masked.table}, {masked.rows} rows masked"),
            )  # fmt: skip
        else:
            done = create_branch(
                place, name, parent=parent, at=None if point is None else point.at, lsn=lsn, expires_at=expires_at,
                branches_max=said.branches.max,
            )  # fmt: skip
    made = done.branch
    output.document({"created": done.new, "branch": made})
    output.say(
        f"{made.name} {'is ready' if done.new else 'was there already'}: "
        f"a branch of {made.parent or 'nothing'}{'' if point is None else ' as of ' + in_words(point, now)}"
        f"{'' if made.expires_at is None else ', goes at ' + shown(made.expires_at)}"
    )
    if not json:
        output.remark(f"connect with: {place.command('psql', made.name).strip('`')}")


@branch.command("list")
def list_command(tenant: Tenant = None, data: Data = None, json: Json = False) -> None:
    """List the branches. Wakes nobody."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.environments.list import list_branches

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        place = fleet.find_place(tenant)
        branches = [] if place is None else list_branches(place)
    output.document({"branches": branches})
    if place is None and not json:
        output.remark("there is no non-production project yet: `tenantry branch url main` makes it")
    output.table(
        ["BRANCH", "PARENT", "STATE", "SIZE", "CREATED", "EXPIRES"],
        [(b.name, b.parent, _state(b), _size(b.size_bytes), b.created_at, b.expires_at) for b in branches],
    )


@branch.command("reset")
def reset_command(name: Name, tenant: Tenant = None, data: Data = None, json: Json = False) -> None:
    """Make a branch what its parent is now. Its connection string stays, its own writes are gone."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import NotFound
    from tenantry.fleet.environments.reset import reset_branch

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        place = fleet.find_place(tenant)
        if place is None:
            raise NotFound(f"there is no branch {name!r}", next_step=f"`tenantry branch create {name}` makes it")
        done = reset_branch(place, name)
    output.document({"branch": done})
    output.say(f"{done.name} is what {done.parent} is now; its connection string is the same")


@branch.command("delete")
def delete_command(
    name: Name,
    yes: Yes = False,
    missing_ok: Annotated[bool, typer.Option("--missing-ok", help="One that is not there is no error.")] = False,
    tenant: Tenant = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Delete a branch with its endpoint and its data. Shows what it would delete first."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import NotFound
    from tenantry.fleet.environments.delete import delete_branch, plan_branch_deletion

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        place = fleet.find_place(tenant)
        try:
            if place is None:
                raise NotFound(f"there is no branch {name!r}", next_step="there is no non-production project yet")
            planned = plan_branch_deletion(place, name)
        except NotFound as error:
            if not missing_ok:
                raise
            output.document({"deleted": False, "branch": None})
            output.say(f"nothing to delete: {error.message}")
            return
        endpoint = "no endpoint" if planned.endpoint_id is None else f"endpoint {planned.endpoint_id}"
        what = (
            f"branch {planned.name} of {place.owner} (from {planned.parent}, {_size(planned.size_bytes)}, "
            f"{_state(planned)}) with {endpoint} and all data in it"
        )
        if not yes:
            confirm(f"Delete {what}?", refusal=f"nothing was deleted: this would delete {what}", json_wanted=json)
        deleted = delete_branch(place, planned)
    output.document({"deleted": deleted, "branch": planned})
    output.say(f"deleted {what}" if deleted else f"{planned.name} was gone already")


@branch.command("url")
def url_command(
    name: Name, tenant: Tenant = None, pooled: Pooled = False, data: Data = None, json: Json = False
) -> None:
    """Print a branch's connection URI, with its password."""
    output = Output(json_wanted=json)
    uri = _uri(name, tenant, pooled=pooled, data=data)
    output.document({"url": uri})
    if not json:
        output.say(uri)


@branch.command("psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql_command(
    context: typer.Context, name: Name, tenant: Tenant = None, pooled: Pooled = False, data: Data = None
) -> None:
    """Open psql on a branch. What follows goes to psql."""
    from tenantry.cli.psql import become, find_psql, plan_session

    uri = _uri(name, tenant, pooled=pooled, data=data)
    psql = find_psql(os.environ)
    become(psql, plan_session(uri, psql, os.environ), context.args)


def _uri(name: str, tenant: str | None, *, pooled: bool, data: Data) -> str:
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.environments.url import branch_url

    with the_fleet(data) as fleet:
        return branch_url(fleet.place(tenant), name, pooled=pooled)


def _state(branch: Branch) -> str:
    if branch.state != "ready":
        return branch.state
    if branch.endpoint_id is None:
        return "no endpoint"
    return "awake" if branch.awake else "asleep"


def _size(size_bytes: int | None) -> str:
    return "size not known" if size_bytes is None else f"{size_bytes / 2**20:.1f} MiB"


def register(app: typer.Typer) -> None:
    app.add_typer(branch)
