"""``tenantry up``: a cell and its fleet on this machine, until told to stop."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from tenantry.cli.options import Data
from tenantry.errors import InvalidInput
from tenantry.runtime.telemetry import LogFormat, LogLevel

DEFAULT_HTTP: Final = "127.0.0.1:7700"
DEFAULT_POSTGRES: Final = "127.0.0.1:7701"


def host_and_port(text: str, option: str) -> tuple[str, int]:
    """``127.0.0.1:7700``, ``[::1]:7700``. Raises InvalidInput naming the option."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not host or not port.isascii() or not port.isdigit() or not 0 <= int(port) < 65_536:
        raise InvalidInput(f"{option} {text!r} is not HOST:PORT", next_step=f"for instance {option} 127.0.0.1:7700")
    return host, int(port)


def up(
    data: Data = None,
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the API listens.")] = DEFAULT_HTTP,
    postgres: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where Postgres listens.")] = DEFAULT_POSTGRES,
    ready_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Written (0600) once everything answers.", show_default=False),
    ] = None,
    no_fleet: Annotated[bool, typer.Option("--no-fleet", help="Only the cell: no catalog, no tenants.")] = False,
    catalog_url_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the URL of a Postgres database that is the catalog, instead of a project of the cell.",
            show_default=False,
        ),
    ] = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Leave jobs and passes to other workers of the fleet.")
    ] = False,
    region: Annotated[str, typer.Option(metavar="R", help="What this cell calls its region.")] = "local",
    domain: Annotated[
        str | None,
        typer.Option(metavar="D", help="A wildcard domain whose names all lead here.", show_default=False),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate of the domain (PEM).", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).", show_default=False)
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen beyond this machine without requiring TLS.")
    ] = False,
    suspend_after: Annotated[
        int, typer.Option(metavar="SECONDS", help="Idle time before a tenant sleeps, by default.")
    ] = 300,
    engine_source: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Preferred engines, e.g. system.", show_default=False),
    ] = None,
    recover_for: Annotated[
        str, typer.Option(metavar="SPAN", help="How long what is deleted can be recovered; 0 deletes at once.")
    ] = "7d",
    spares: Annotated[int, typer.Option(metavar="N", min=0, help="Ready clones kept for new projects.")] = 4,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="TENANTRY_LOG_LEVEL", help="The least that is written to stderr.")
    ] = "info",
    log_format: Annotated[
        LogFormat, typer.Option(envvar="TENANTRY_LOG_FORMAT", help="Lines for people, or an object a line.")
    ] = "logfmt",
) -> None:
    """Run a cell and its fleet on this machine until interrupted."""
    import uvloop

    from tenantry.cell.config import CellConfig
    from tenantry.cli.resident import ResidentWorker
    from tenantry.cli.serving import serve
    from tenantry.cli.target import secret_of_file, the_data_directory
    from tenantry.fleet.config import SETTINGS_VARIABLE, find_settings
    from tenantry.runtime.spans import parse_span
    from tenantry.runtime.telemetry import configure_logs

    if (tls_cert is None) != (tls_key is None):
        raise InvalidInput("--tls-cert and --tls-key belong together", next_step="give both, or neither")
    config = CellConfig(
        data=the_data_directory(data),
        http=host_and_port(http, "--http"),
        postgres=host_and_port(postgres, "--postgres"),
        region=region,
        domain=domain,
        insecure=insecure,
        tls_certificate=tls_cert,
        tls_key=tls_key,
        engine_source=engine_source,
        suspend_seconds_default=suspend_after,
        recover_seconds=0 if recover_for == "0" else int(parse_span(recover_for).total_seconds()),
        spares_max=spares,
    )
    configure_logs(level=log_level, form=log_format)
    catalog_url = None if catalog_url_file is None else secret_of_file(catalog_url_file, "the catalog's URL")
    worker = None
    if not (no_fleet or no_worker):
        environment = {"TENANTRY_LOG_LEVEL": log_level, "TENANTRY_LOG_FORMAT": log_format}
        if (settings := find_settings(Path.cwd())) is not None:
            # It works in the data directory, and is to do as is said where `up` was started.
            environment[SETTINGS_VARIABLE] = str(settings.absolute())
        worker = ResidentWorker(config.data, environment)
    uvloop.run(serve(config, ready_file=ready_file, with_fleet=not no_fleet, worker=worker, catalog_url=catalog_url))


def register(app: typer.Typer) -> None:
    app.command("up")(up)
