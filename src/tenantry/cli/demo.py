"""``tenantry demo``: the story of a fleet, on a throwaway cell."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from typing import Annotated

import typer


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running, and say how to connect.")] = False,
) -> None:
    """Four tenants on a throwaway cell: created, asleep, awake, migrated, branched, back in time. With times."""
    from tenantry.demo.story import tell

    tell(keep=keep)


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)
