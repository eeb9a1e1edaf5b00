"""``tenantry engine``: the builds of Postgres on this machine."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.options import Data, Json

if TYPE_CHECKING:
    from tenantry.postgres.engines import Engine
    from tenantry.postgres.npm.registry import Progress

engine = typer.Typer(name="engine", help="Builds of Postgres on this machine.", no_args_is_help=True)


@engine.command("list")
def list_engines(
    data: Data = None,
    show_extensions: Annotated[
        bool, typer.Option("--extensions", help="Also list what CREATE EXTENSION can make with each.")
    ] = False,
    json: Json = False,
) -> None:
    """List the builds that were found, newest first, and how many heads of the cell run on each."""
    from tenantry.cell.config import CellConfig
    from tenantry.cell.engine_directories import engines_directory, project_uids
    from tenantry.cell.model import BuildId
    from tenantry.cell.state.census import heads_by_build
    from tenantry.cli.output import Output
    from tenantry.cli.target import the_data_directory
    from tenantry.postgres.engines import discover, extensions

    output = Output(json_wanted=json)
    place = the_data_directory(data)
    found = discover(
        extra_dirs=[engines_directory(place.absolute(), project_uids(CellConfig(data=place)))],
        on_problem=lambda problem: output.remark(f"passed over: {problem}"),
    )
    counted = heads_by_build(place / "cell.db")
    heads = {build.build_id: None if counted is None else counted.get(BuildId(build.build_id), 0) for build in found}
    running = _runs(place)
    made = {build.build_id: extensions(build) for build in found}
    today = datetime.now(UTC).date()
    output.document(
        {
            "cell_running": running,
            "engines": [
                {
                    **_facts(build, today),
                    "heads": heads[build.build_id],
                    "in_use": running and bool(heads[build.build_id]),
                    "extensions": made[build.build_id],
                }
                for build in found
            ],
        }
    )
    output.table(
        ["MAJOR", "VERSION", "SOURCE", "AGE", "TLS", "EXTENSIONS", "HEADS", "BUILD"],
        [
            (
                build.major,
                build.version,
                build.source,
                _age(build.released, today),
                build.tls,
                len(build.extensions),
                heads[build.build_id],
                build.build_id,
            )
            for build in found
        ],
    )
    if show_extensions:
        for build in found:
            output.table(
                [f"{build.build_id}: EXTENSION", "VERSION", "WHO MAY MAKE IT"],
                [(one.name, one.version, "tenants" if one.trusted else "nobody here") for one in made[build.build_id]],
            )


@engine.command("install")
def install_engine(
    major: Annotated[int, typer.Argument(metavar="MAJOR", help="14 to 18.", show_default=False)],
    data: Data = None,
    json: Json = False,
) -> None:
    """Bring the newest build of a major from the npm registry. A running cell takes it up at once.

    The registry is the one that npm is configured for here (npm_config_registry, .npmrc); node is not needed.
    Harmless when it is there already.
    """
    from tenantry.cell.config import CellConfig
    from tenantry.cell.engine_directories import engines_directory, project_uids
    from tenantry.cell.storage.layout import Layout, prepare, run_directory
    from tenantry.cli.output import Output
    from tenantry.cli.target import the_data_directory
    from tenantry.postgres.engines import choose, discover, extensions
    from tenantry.postgres.npm import configuration
    from tenantry.postgres.npm.install import Machine, install_major
    from tenantry.postgres.template import build_template

    output = Output(json_wanted=json)
    root = os.geteuid() == 0
    place = the_data_directory(data).absolute()
    layout = Layout(data=place, run=run_directory(place, root=root))
    npm = configuration.read(os.environ, cwd=Path.cwd(), home=Path.home(), on_passed_over=output.remark)
    prepare(layout, root=root)
    into = engines_directory(place, project_uids(CellConfig(data=place)))
    with _bar(shown=not json and sys.stderr.isatty()) as on_progress:
        outcome = install_major(
            major,
            into,
            configuration=npm,
            machine=Machine.this(),
            prove=lambda build: build_template(build, layout.templates),
            on_release=lambda release, registry: output.remark(
                f"fetching {release.package} from {registry} ({npm.registry_source(release.scope)})"
            ),
            on_progress=on_progress,
        )
    build = outcome.engine
    chosen = choose(discover(extra_dirs=[into]), major)
    output.document(
        {
            "installed": outcome.new,
            "checked": outcome.unchecked is None,
            "registry": outcome.registry,
            "engine": {**_facts(build, datetime.now(UTC).date()), "extensions": extensions(build)},
            "new_projects_use": chosen.build_id,
        }
    )
    if outcome.new:
        output.say(
            f"Postgres {build.version} is installed as {build.build_id}, with {len(build.extensions)} extensions"
        )
    elif outcome.unchecked is None:
        output.say(f"nothing to do: Postgres {build.version} is here as {build.build_id}, and is the newest there is")
    else:
        output.say(f"nothing was done: Postgres {build.version} is here as {build.build_id}")
        output.remark(f"whether there is a newer one is not known: {outcome.unchecked}")
    if chosen.build_id == build.build_id:
        output.remark(f"new projects with pg_version {major} use it")
    else:
        output.remark(
            f"new projects with pg_version {major} use {chosen.build_id} ({chosen.source});"
            f" to prefer the new one: tenantry up --engine-source {build.source}"
        )


@contextmanager
def _bar(*, shown: bool) -> Generator[Progress | None, None, None]:
    """A bar on stderr that moves with the download; None where nobody watches."""
    if not shown:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bars(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("download", total=None, visible=False)

        def moved(received: int, total: int | None) -> None:
            whole = total is not None and received >= total
            what = "trying it" if whole else "download"
            bars.update(task, completed=received, total=total, description=what, visible=True)

        yield moved


def _facts(build: Engine, today: date) -> dict[str, object]:
    return {
        "build_id": build.build_id,
        "major": build.major,
        "version": build.version,
        "source": build.source,
        "package": build.package,
        "released": build.released.isoformat() if build.released else None,
        "age_days": (today - build.released).days if build.released else None,
        "tls": build.tls,
        "path": build.bin_dir,
    }


def _runs(place: Path) -> bool:
    from tenantry.errors import OperatorError, Unavailable
    from tenantry.fleet.config import read_ready_file

    try:
        read_ready_file(place)
    except (Unavailable, OperatorError):
        return False
    return True


def _age(released: date | None, today: date) -> str:
    return "unknown" if released is None else f"{(today - released).days} days"


def register(app: typer.Typer) -> None:
    app.add_typer(engine)
