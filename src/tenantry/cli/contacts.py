"""``tenantry contact add|list|remove``: the people of a customer."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from typing import Annotated

import typer

from tenantry.cli.options import Data, Json, TenantName
from tenantry.cli.output import Output

contact = typer.Typer(
    name="contact", help="The people of a customer: whom to write to about what.", no_args_is_help=True
)

Email = Annotated[str, typer.Argument(metavar="EMAIL", show_default=False)]


@contact.command("add")
def add_command(
    tenant: TenantName,
    email: Email,
    kind: Annotated[str, typer.Option(metavar="KIND", help="owner, billing, technical or security.")] = "owner",
    name: Annotated[str | None, typer.Option(help="What the person is called.", show_default=False)] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Add a person. Added again it is the same, with the new name."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.contacts import add_contact

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = add_contact(fleet.catalog, tenant, email, kind=kind, person=name)
    output.document({"tenant": found.slug, "kind": kind, "email": email, "name": name})
    output.say(f"{email} is a {kind} contact of {found.slug}")


@contact.command("list")
def list_command(tenant: TenantName, data: Data = None, json: Json = False) -> None:
    """List a customer's people."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.contacts import list_contacts

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found, contacts = list_contacts(fleet.catalog, tenant)
    output.document({"tenant": found.slug, "email": found.email, "contacts": contacts})
    if not contacts and not json:
        output.remark(f"{found.slug} has no contacts: tenantry contact add {found.slug} EMAIL")
    output.table(["KIND", "EMAIL", "NAME", "SINCE"], [(c.kind, c.email, c.name, c.created_at) for c in contacts])


@contact.command("remove")
def remove_command(
    tenant: TenantName,
    email: Email,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only as this.", show_default=False)] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Remove a person."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.contacts import remove_contact

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = remove_contact(fleet.catalog, tenant, email, kind=kind)
    output.document({"tenant": found.slug, "email": email, "kind": kind})
    output.say(f"{email} is no {f'{kind} ' if kind else ''}contact of {found.slug} any more")


def register(app: typer.Typer) -> None:
    app.add_typer(contact)
