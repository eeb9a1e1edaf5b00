"""Options that many commands share, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Data directory of the cell (default: $TENANTRY_DATA, then the platform's).",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, all else to stderr.")]
TenantName = Annotated[
    str,
    typer.Argument(metavar="TENANT", help='Slug or name of the tenant: acme-corp or "ACME Corp".', show_default=False),
]
Pooled = Annotated[bool, typer.Option("--pooled", help="Through the connection pooler.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="SPAN", help="When it goes by itself: 12h, 7d.", show_default=False)
]


def slugs_of(tenants: list[str] | None) -> list[str] | None:
    """Of an option that may be repeated, and takes several names with commas between them; None: all."""
    return [slug for item in tenants for slug in item.split(",") if slug] if tenants else None


Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="RULE=REASON",
        help="Let a rule's findings pass; a run keeps the reason in the log of events. May be repeated.",
        show_default=False,
    ),
]
Directory = Annotated[
    Path | None,
    typer.Option(
        "--dir", metavar="DIR", help="A folder of migrations, or a project of Alembic or Django.", show_default="."
    ),
]
Tenants = Annotated[
    list[str] | None,
    typer.Option("--tenants", metavar="T,...", help="Only these tenants; may be repeated.", show_default=False),
]
