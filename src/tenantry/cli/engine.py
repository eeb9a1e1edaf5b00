"""``tenantry engine``: the builds of Postgres on this machine."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from datetime import UTC, date, datetime

import typer

from tenantry.cli.options import Data, Json

engine = typer.Typer(name="engine", help="Builds of Postgres on this machine.", no_args_is_help=True)


@engine.command("list")
def list_engines(data: Data = None, json: Json = False) -> None:
    """List the builds that were found, newest first."""
    from tenantry.cli.output import Output
    from tenantry.fleet.config import data_directory
    from tenantry.postgres.engines import discover

    output = Output(json_wanted=json)
    found = discover(
        extra_dirs=[data_directory(data) / "engines"],
        on_problem=lambda problem: output.remark(f"passed over: {problem}"),
    )
    today = datetime.now(UTC).date()
    output.document(
        {
            "engines": [
                {
                    "build_id": build.build_id,
                    "major": build.major,
                    "version": build.version,
                    "source": build.source,
                    "released": build.released.isoformat() if build.released else None,
                    "age_days": (today - build.released).days if build.released else None,
                    "tls": build.tls,
                    "extensions": build.extensions,
                    "path": build.bin_dir,
                }
                for build in found
            ]
        }
    )
    output.table(
        ["MAJOR", "VERSION", "SOURCE", "AGE", "TLS", "EXTENSIONS", "BUILD"],
        [
            (
                build.major,
                build.version,
                build.source,
                _age(build.released, today),
                build.tls,
                len(build.extensions),
                build.build_id,
            )
            for build in found
        ],
    )


def _age(released: date | None, today: date) -> str:
    return "unknown" if released is None else f"{(today - released).days} days"


def register(app: typer.Typer) -> None:
    app.add_typer(engine)
