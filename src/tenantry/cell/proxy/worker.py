"""One front door process: ``python -m tenantry.cell.proxy.worker``, started by the supervisor.

It is given listening sockets and the path of the control process's socket, and learns everything else there. It
outlives the control process: sessions go on, new clients wait, and the next control process is registered with.
Left alone for too long, it closes its listener and ends with its last session.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import structlog
import uvloop

from tenantry.cell.proxy import certificates
from tenantry.cell.proxy.cancel import Cancels, Key
from tenantry.cell.proxy.certificates import Pair, Tls
from tenantry.cell.proxy.door import Door
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.limits import Limits
from tenantry.cell.proxy.metering import Meter
from tenantry.cell.proxy.others import Others
from tenantry.cell.proxy.remote_cell import RemoteCell
from tenantry.cell.proxy.settings import HTTP, HTTPS, POSTGRES, Settings
from tenantry.cell.proxy.web import Web
from tenantry.runtime.tasks import Tasks
from tenantry.runtime.telemetry import configure_logs

ORPHANED_SECONDS: Final = 600.0
"""How long a worker waits for a control process before it stops to accept."""
_ORPHAN_LOOK_SECONDS: Final = 5.0
_GC_THRESHOLDS: Final = (50_000, 20, 50)
"""Sessions make few cycles and long-lived objects are many; looking often costs more than it finds."""
_SWITCH_SECONDS: Final = 0.0005
"""Large bodies and rows are worked off in threads. The loop gives the interpreter away at each call of the system, and
would wait ten times as long for it to come back."""
_DESCRIPTORS_PER_CONNECTION: Final = 2
"""A WebSocket has four and counts as two."""
_DESCRIPTORS_OTHER: Final = 64

_log = structlog.get_logger("proxy.worker")


class Worker:
    """The process's parts, from the first welcome to the last session."""

    def __init__(self, listeners: Mapping[str, socket.socket], rpc_path: Path, slot: int, version: str) -> None:
        self._listeners = listeners
        self._tasks = Tasks("worker")
        self._told_to_end = asyncio.Event()
        self._seconds: float | None = None
        """How long sessions may go on then; None: as long as they like."""
        self._house: House | None = None
        self._door: Door | None = None
        self._web: Web | None = None
        self._web_tls = certificates.web_context()
        """Shows whatever certificate it was given last."""
        self._remote = RemoteCell(
            rpc_path,
            slot,
            version,
            listeners,
            welcome=self._welcomed,
            handlers={"cancel": self._cancel, "drain": self._asked_to_drain},
        )

    async def run(self) -> None:
        """Serves until it is told to end, or left alone, and the sessions have ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        registering = self._tasks.start(self._remote.run(), "remote cell")
        self._tasks.start(self._watch_for_orphaning(), "orphaning")
        await self._told_to_end.wait()
        if self._door is not None and self._house is not None:
            await self._drain(self._seconds)
            await self._house.stop()
            await self._house.meter.report()
        registering.cancel()
        await self._remote.stop()
        await self._tasks.stop()

    def _stop_accepting(self) -> None:
        if self._door is not None:
            self._door.close()
        if self._web is not None:
            self._web.close()
        for listener in self._listeners.values():  # of a worker that never opened
            listener.close()

    async def _drain(self, seconds: float | None) -> None:
        assert self._door is not None
        drains = [self._door.drain(seconds)]
        if self._web is not None:
            drains.append(self._web.drain(seconds))
        await asyncio.gather(*drains)

    def _signalled(self) -> None:
        self._end(self._house.settings.drain_seconds if self._house is not None else 0.0)

    def _end(self, seconds: float | None) -> None:
        """Ends the worker after its sessions; a second call may shorten their time."""
        _log.info("told to end", sessions=self._door.sessions if self._door else 0, seconds=seconds)
        if not self._told_to_end.is_set():
            self._seconds = seconds
            self._told_to_end.set()
        elif self._door is not None:
            self._tasks.start(self._drain(seconds), "sooner")

    async def _welcomed(self, welcome: dict[str, Any]) -> None:
        """Takes what the control process says; at the first time, opens."""
        if welcome["retire"]:
            # The control process hears that we are ready when this has returned, and may then want the ports itself.
            self._stop_accepting()
            self._end(None)
            return
        settings = _within_descriptors(Settings.from_json(welcome["settings"]))
        self._remote.patience_seconds = settings.patience_seconds
        pair = None if welcome["tls"] is None else Pair(**welcome["tls"])
        tls = None if pair is None else await asyncio.to_thread(certificates.load, pair)
        if pair is not None:
            await asyncio.to_thread(certificates.show, self._web_tls, pair)
        if self._house is not None:
            self._house.change(settings, tls)
            return
        house = self._open(settings, tls)
        for spoken, context in ((HTTP, None), (HTTPS, self._web_tls)):
            if (listener := self._listeners.get(spoken)) is not None:
                self._web = Web(listener, house, Others(Path(welcome["api"]), house), context)
                self._web.open()

    def _open(self, settings: Settings, tls: Tls | None) -> House:
        loop = asyncio.get_running_loop()
        self._house = House(
            cell=self._remote,
            settings=settings,
            limits=Limits(settings, loop.time),
            meter=Meter(self._remote, settings.report_seconds),
            cancels=Cancels(),
            forwarder=self._remote,
            tasks=self._tasks,
            tls=tls,
        )
        self._tasks.start(self._house.meter.run(), "meter")
        self._tasks.start(self._house.pool.run(), "pool")
        self._door = Door(self._listeners[POSTGRES], self._house)
        self._door.open()
        # What lives until the end needs no looking at.
        gc.collect()
        gc.freeze()
        return self._house

    async def _cancel(self, given: dict[str, Any]) -> None:
        if self._house is not None:
            await self._house.cancels.cancel(Key(int(given["pid"]), bytes.fromhex(given["secret"])))

    async def _asked_to_drain(self, given: dict[str, Any]) -> None:
        self._end(float(given["seconds"]))

    async def _watch_for_orphaning(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_ORPHAN_LOOK_SECONDS)
            lost_at = self._remote.lost_at
            if lost_at is not None and loop.time() - lost_at > ORPHANED_SECONDS:
                _log.warning("no control process has come back; ending with the last session")
                self._end(None)
                return


def _within_descriptors(settings: Settings) -> Settings:
    """As many connections as the process may have open files for."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = (hard - _DESCRIPTORS_OTHER - settings.pool_idle_max) // _DESCRIPTORS_PER_CONNECTION
    if hard == resource.RLIM_INFINITY or possible >= settings.connections_max:
        return settings
    _log.warning("the limit on open files bounds the connections", connections_max=possible)
    return settings.bounded(possible)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tenantry.cell.proxy.worker")
    parser.add_argument("--listen", action="append", required=True, help="what is spoken, a colon, the descriptor")
    parser.add_argument("--rpc", type=Path, required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--version", required=True)
    given = parser.parse_args(arguments)
    configure_logs(form="json")
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)

    async def run() -> None:
        named = (listen.split(":") for listen in given.listen)
        listeners = {spoken: socket.socket(fileno=int(descriptor)) for spoken, descriptor in named}
        await Worker(listeners, given.rpc, given.slot, given.version).run()

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
