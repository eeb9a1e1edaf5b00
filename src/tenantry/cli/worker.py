"""``tenantry worker``: takes jobs from the fleet's catalog, on this machine, until told to stop."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.options import Data
from tenantry.runtime.telemetry import LogFormat, LogLevel

if TYPE_CHECKING:
    import asyncio

    from tenantry.fleet.jobs.worker import Worker, Workplace

_BESIDE_NICENESS: Final = 5
"""Of a worker that `up` has started: the cell beside it goes first."""


def worker(
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", "-c", metavar="N", min=1, max=64, help="Tenants at a time.", show_default="4"),
    ] = None,
    queues: Annotated[
        str | None,
        typer.Option("--queues", metavar="A,B", help="Take work from these queues only.", show_default="all"),
    ] = None,
    data: Data = None,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="TENANTRY_LOG_LEVEL", help="The least that is written to stderr.")
    ] = "info",
    log_format: Annotated[
        LogFormat, typer.Option(envvar="TENANTRY_LOG_FORMAT", help="Lines for people, or an object a line.")
    ] = "logfmt",
    with_parent: Annotated[bool, typer.Option("--with-parent", hidden=True, help="End when stdin does.")] = False,
) -> None:
    """Work on the fleet's jobs and passes until interrupted. Any number of workers, on any machines.

    SIGTERM lets what is under way end, for 20 seconds, and leaves the rest to others; a second one waits for nothing.
    """
    import asyncio

    from tenantry.errors import InvalidInput
    from tenantry.fleet.settings import load_settings
    from tenantry.runtime.telemetry import configure_logs

    said = load_settings().worker
    concurrency = said.concurrency if concurrency is None else concurrency
    if queues is None and said.queues:
        queues = ",".join(said.queues)
    named = None if queues is None else [name.strip() for name in queues.split(",") if name.strip()]
    if named == []:
        raise InvalidInput("--queues names no queue", next_step="for instance --queues tenants,passes")
    configure_logs(level=log_level, form=log_format)
    if with_parent:
        os.nice(_BESIDE_NICENESS)
    asyncio.run(_work(data, concurrency, named, with_parent=with_parent))


async def _work(data: Path | None, concurrency: int, queues: list[str] | None, *, with_parent: bool) -> None:
    import asyncio

    from tenantry.fleet.jobs.worker import Bounds, Worker

    worker = Worker(lambda: _workplace(data), queues=queues, bounds=Bounds(concurrency=concurrency))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    if with_parent:
        _end_with_stdin(loop, worker)
    await worker.run()


def _workplace(data: Path | None) -> Workplace:
    """Asked for at each session: another `up` may have begun with another address."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.jobs.kinds import kinds, passes
    from tenantry.fleet.jobs.worker import Workplace

    fleet = the_fleet(data)
    return Workplace(catalog_url=fleet.catalog.url, kinds=kinds(fleet), passes=passes(fleet), close=fleet.close)


def _end_with_stdin(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    """Whoever started it holds the other end of the pipe, which the kernel closes however that process ends."""
    stdin = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(stdin, 1024):
            loop.remove_reader(stdin)
            worker.stop()

    loop.add_reader(stdin, readable)


def register(app: typer.Typer) -> None:
    app.command("worker")(worker)
