"""A worker of the real fleet in a hurry: it notices the dead within seconds, and begins its passes every second.

``hasty_worker.py PASSES`` with the names of passes, joined by commas; else as ``tenantry worker``. What it is to die of
says TENANTRY_FAILPOINTS.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import replace
from typing import Any, Final, cast

from tenantry.cli.fleet import the_fleet
from tenantry.fleet.backups import many
from tenantry.fleet.backups.proofs import Proofs
from tenantry.fleet.backups.sweep import sweep
from tenantry.fleet.jobs.kinds import kinds, passes
from tenantry.fleet.jobs.worker import Bounds, Worker, Workplace
from tenantry.runtime.telemetry import configure_logs

SILENT_SECONDS: Final = 3.0
"""After so long without a word whoever verified or backed up is dead; it takes two minutes elsewhere."""
BOUNDS: Final = Bounds(
    concurrency=2,
    heartbeat_seconds=0.3,
    stalled_seconds=2.0,
    look_seconds=0.3,
    poll_seconds=0.5,
    stop_seconds=10.0,
    again_seconds=0.1,
)


def hurry() -> None:
    cast("Any", many).BEAT_SECONDS = 0.3
    for function in (Proofs.sweep, sweep):
        defaults = function.__kwdefaults__
        assert defaults is not None
        defaults["silent_seconds"] = SILENT_SECONDS


def workplace(wanted: list[str]) -> Workplace:
    fleet = the_fleet(None)
    every_second = [replace(each, cron="* * * * * *") for each in passes(fleet) if each.name in wanted]
    return Workplace(catalog_url=fleet.catalog.url, kinds=kinds(fleet), passes=every_second, close=fleet.close)


async def work(wanted: list[str]) -> None:
    worker = Worker(lambda: workplace(wanted), bounds=BOUNDS)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


if __name__ == "__main__":
    configure_logs(level="info")
    hurry()
    asyncio.run(work(sys.argv[1].split(",") if len(sys.argv) > 1 else []))
