"""``tenantry window``: when a tenant's database may be changed."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from typing import Annotated

import typer

from tenantry.cli.options import Data, Json, TenantName
from tenantry.cli.output import Output
from tenantry.errors import InvalidInput


def window(
    tenant: TenantName,
    when: Annotated[
        str | None,
        typer.Argument(metavar="[WINDOW]", help="Such as `sat,sun 02:00-05:00 Europe/Berlin`.", show_default=False),
    ] = None,
    any_time: Annotated[bool, typer.Option("--any-time", help="It may be changed at any time again.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show or set when a tenant may be migrated. Runs wait for it; `migrate run --ignore-windows` does not."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.find import find_tenant
    from tenantry.fleet.tenants.window import set_window

    if when is not None and any_time:
        raise InvalidInput("a window and --any-time are two different things", next_step="give one of them")
    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = (
            find_tenant(fleet.catalog, tenant)
            if when is None and not any_time
            else set_window(fleet.catalog, tenant, when)
        )
    output.document({"tenant": found.slug, "maintenance_window": found.maintenance_window})
    output.say(f"{found.slug}: {found.maintenance_window or 'at any time'}")


def register(app: typer.Typer) -> None:
    app.command("window")(window)
