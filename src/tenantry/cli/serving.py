"""A cell and the fleet over it, served together: the one place that knows both.

Clients find it by ``ready.json``, which is there only while everything answers.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import structlog

from tenantry.cell.config import CellConfig
from tenantry.cell.main import Addresses, RunningCell
from tenantry.cli.resident import ResidentWorker
from tenantry.errors import TenantryError
from tenantry.fleet.config import READY_FILE, verification
from tenantry.fleet.prepare import prepare_catalog, prepare_foreign_catalog
from tenantry.neon.client import NeonClient
from tenantry.runtime.files import write_atomic

_log = structlog.get_logger("fleet")


async def serve(
    config: CellConfig,
    *,
    ready_file: Path | None,
    with_fleet: bool,
    worker: ResidentWorker | None,
    catalog_url: str | None = None,
) -> None:
    """Runs both until SIGTERM or SIGINT, and once they answer a worker, where there is a fleet for it to work for.

    ``catalog_url`` says that the catalog is elsewhere than in the cell. Raises what starting them raises, having
    stopped what was started.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    asked_for = [ready_file] if ready_file else []
    written = [config.data / READY_FILE, *asked_for]
    # Whoever waits for this file must not find a predecessor's. The data directory's own may belong to a cell that
    # runs there: it is touched only once the directory is ours.
    await asyncio.to_thread(_remove, asked_for)
    cell = RunningCell(config)
    addresses = await cell.start()
    finishing: asyncio.Task[None] | None = None
    try:
        await asyncio.to_thread(_remove, written)
        catalog_url = await asyncio.to_thread(_catalog, addresses, config.data, catalog_url) if with_fleet else None
        ready = {
            "api_url": addresses.api_url,
            "api_key": addresses.api_key,
            "postgres_host": addresses.postgres_host,
            "postgres_port": addresses.postgres_port,
            "catalog_url": catalog_url,
            "console_url": None,
            "pid": os.getpid(),
            "api_ca": None if addresses.api_ca is None else str(addresses.api_ca),
        }
        for path in written:
            await asyncio.to_thread(write_atomic, path, json.dumps(ready, indent=1).encode(), mode=0o600)
        print(
            f"tenantry answers: API {addresses.api_url}, Postgres {addresses.postgres_host}:{addresses.postgres_port}, "
            f"data {config.data}",
            file=sys.stderr,
            flush=True,
        )
        if catalog_url is not None:
            finishing = asyncio.create_task(asyncio.to_thread(_finish, addresses, catalog_url), name="finish")
            if worker is not None:
                worker.start()
        await stopping.wait()
    finally:
        await asyncio.to_thread(_remove, written)
        if worker is not None:
            await worker.stop()
        if finishing is not None:
            await finishing
        await cell.stop()


def _catalog(addresses: Addresses, data: Path, elsewhere: str | None) -> str:
    if elsewhere is not None:
        return prepare_foreign_catalog(elsewhere)
    with NeonClient(addresses.api_url, addresses.api_key, tls_verify=verification(addresses.api_ca)) as client:
        return prepare_catalog(client, data)


def _finish(addresses: Addresses, catalog_url: str) -> None:
    """Completes what was interrupted; what cannot be completed is said and left for the next time."""
    from tenantry.fleet.main import open_fleet  # noqa: PLC0415 - nobody who waits for `up` waits for SQLAlchemy

    try:
        with open_fleet(addresses.api_url, addresses.api_key, catalog_url, api_ca=addresses.api_ca) as fleet:
            for sentence in fleet.finish_unfinished():
                _log.info(sentence)
    except TenantryError as error:
        _log.warning("interrupted creations and deletions were not looked at", reason=str(error))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
