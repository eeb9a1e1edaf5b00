"""Bytes and connections of each endpoint, summed up for the cell every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Protocol

import structlog

from tenantry.cell.proxy.ports import Cell, Traffic
from tenantry.errors import TenantryError
from tenantry.neon.ids import EndpointId

REPORT_ENDPOINTS_MAX: Final = 1_000
"""Of one report, so that it fits into one message to the cell."""
_SOON_SECONDS: Final = 0.2
"""How soon after an endpoint's last session its numbers are reported."""

_log = structlog.get_logger("proxy.metering")


class Counter(Protocol):
    """What counts bytes while a session runs."""

    @property
    def bytes_in(self) -> int: ...

    @property
    def bytes_out(self) -> int: ...


class _Endpoint:
    """``*_told`` are parts of the sums of running sessions that have been reported already."""

    __slots__ = ("bytes_in", "bytes_in_told", "bytes_out", "bytes_out_told", "open_told", "opened", "running")

    def __init__(self) -> None:
        self.running: set[Counter] = set()
        self.bytes_in = self.bytes_in_told = 0
        self.bytes_out = self.bytes_out_told = 0
        self.opened = 0
        self.open_told = 0

    @property
    def changed(self) -> bool:
        """Whether there is anything that the cell has not been told."""
        return (
            self.opened > 0
            or self.open_told != len(self.running)
            or self._sum_in() != self.bytes_in_told
            or self._sum_out() != self.bytes_out_told
        )

    def _sum_in(self) -> int:
        return self.bytes_in + sum(counter.bytes_in for counter in self.running)

    def _sum_out(self) -> int:
        return self.bytes_out + sum(counter.bytes_out for counter in self.running)

    def take(self, endpoint: EndpointId) -> Traffic:
        """What has not been reported yet; it counts as reported from now on."""
        bytes_in, bytes_out = self._sum_in(), self._sum_out()
        traffic = Traffic(
            endpoint=endpoint,
            bytes_in=bytes_in - self.bytes_in_told,
            bytes_out=bytes_out - self.bytes_out_told,
            connections_opened=self.opened,
            connections_open=len(self.running),
        )
        self.bytes_in_told, self.bytes_out_told, self.opened = bytes_in, bytes_out, 0
        self.open_told = len(self.running)
        return traffic


class Meter:
    """The counters of one worker.

    A report whose answer did not come is told again before anything new, with its number: the cell may have heard it,
    and adds nothing twice.
    """

    def __init__(self, cell: Cell, seconds: float) -> None:
        self._cell = cell
        self._seconds = seconds
        self._endpoints: dict[EndpointId, _Endpoint] = {}
        self._soon = asyncio.Event()
        self._number = 0
        self._unheard: list[Traffic] = []
        """The last report, until the cell has confirmed it."""
        self._telling = asyncio.Lock()

    @contextmanager
    def session(self, endpoint: EndpointId, counter: Counter) -> Generator[None]:
        """Counts ``counter``'s bytes for ``endpoint``, while the session runs and once it has ended."""
        sums = self._endpoints.setdefault(endpoint, _Endpoint())
        sums.running.add(counter)
        sums.opened += 1
        try:
            yield
        finally:
            sums.running.remove(counter)
            sums.bytes_in += counter.bytes_in
            sums.bytes_out += counter.bytes_out
            if not sums.running:
                self._soon.set()

    async def run(self) -> None:
        """Reports until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._soon.wait()
                await asyncio.sleep(_SOON_SECONDS)  # Sessions that end together are told together.
            except TimeoutError:
                pass
            self._soon.clear()
            await self.report()

    async def report(self) -> None:
        """Tells the cell what it has not heard yet; an unreachable cell hears it the next time."""
        async with self._telling:
            if self._unheard and not await self._tell():
                return
            changed = [name for name, sums in self._endpoints.items() if sums.changed]
            for start in range(0, len(changed), REPORT_ENDPOINTS_MAX):
                names = changed[start : start + REPORT_ENDPOINTS_MAX]
                self._number += 1
                self._unheard = [self._endpoints[name].take(name) for name in names]
                if not await self._tell():
                    return

    async def _tell(self) -> bool:
        try:
            await self._cell.report(self._number, self._unheard)
        except TenantryError as error:
            _log.info("the cell could not take the traffic report", error=str(error))
            return False
        heard, self._unheard = self._unheard, []
        for item in heard:
            sums = self._endpoints[item.endpoint]
            if not sums.running and not sums.changed:
                del self._endpoints[item.endpoint]
        return True
