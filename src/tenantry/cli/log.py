"""``tenantry log``: who did what to whom."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, cast

import typer

from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output


def log(
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="[TENANT]", help="Of one tenant, also of one that is deleted.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=10_000, help="The newest N.")] = 50,
    verb: Annotated[
        str | None, typer.Option(metavar="VERB", help="Only this: 'change plan', for instance.", show_default=False)
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Only of the last 12h, 7d.", show_default=False)
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show who did what to whom, the newest first."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.log import read_log
    from tenantry.runtime.spans import parse_span

    output = Output(json_wanted=json)
    moment = None if since is None else datetime.now(UTC) - parse_span(since)
    with the_fleet(data) as fleet:
        events = read_log(fleet.catalog, tenant, verb=verb, since=moment, limit=limit)
    output.document({"events": events})
    output.table(
        ["WHEN", "WHO", "WHAT", "TENANT", "DETAIL"],
        [(each.at, each.actor, each.verb, each.slug, _told(each.detail)) for each in events],
    )


def _told(detail: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {in_words(value)}" for name, value in detail.items())


def in_words(value: object) -> str:
    """What JSON has, for people."""
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            pairs = cast("dict[str, object]", value).items()
            return " ".join(f"{name}={in_words(each)}" for name, each in pairs)
        case list():
            return " ".join(in_words(each) for each in cast("list[object]", value))
        case _:
            return str(value)


def register(app: typer.Typer) -> None:
    app.command("log")(log)
