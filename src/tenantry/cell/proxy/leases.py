"""Leases shared by the short uses of an endpoint: many requests a second need not ask the cell twice each.

A lease is taken for the first, and given back a moment after the last. The moment is short against every idle
timeout, so that nothing is kept awake by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from tenantry.cell.proxy.ports import Cell, LeaseId, Upstream
from tenantry.errors import TenantryError, Unavailable
from tenantry.neon.ids import EndpointId
from tenantry.runtime.tasks import Tasks

LINGER_SECONDS: Final = 0.2

_log = structlog.get_logger("proxy.leases")


@dataclass(slots=True, eq=False)
class Shared:
    """One lease, and how many hold it."""

    endpoint: EndpointId
    upstream: Upstream
    holders: int = 0
    void: bool = False
    """Its instance may be another by now: whoever comes asks anew."""
    timer: asyncio.TimerHandle | None = None


class Leases:
    """The shared leases of one worker."""

    def __init__(self, cell: Cell, tasks: Tasks) -> None:
        self._cell = cell
        self._tasks = tasks
        self._shared: dict[EndpointId, Shared] = {}
        self._waking: dict[EndpointId, asyncio.Task[Shared]] = {}

    @asynccontextmanager
    async def hold(self, endpoint: EndpointId, wake_seconds: float) -> AsyncGenerator[Shared]:
        """Keeps the instance awake during the block, and wakes it if it sleeps.

        Raises what ``Cell.wake`` raises, and Unavailable when it takes longer than ``wake_seconds``.
        """
        shared = self._shared.get(endpoint)
        if shared is None:
            try:
                async with asyncio.timeout(wake_seconds):
                    # Looked up behind the wait: on a busy machine it may have been given back before we heard of it.
                    while (shared := self._shared.get(endpoint)) is None:
                        await self._wake(endpoint)
            except TimeoutError as error:
                raise Unavailable(
                    f"endpoint {endpoint} did not wake in {wake_seconds:g} seconds",
                    client_text="the database did not get ready in time, try again",
                ) from error
        shared.holders += 1
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None
        try:
            yield shared
        finally:
            shared.holders -= 1
            if not shared.holders:
                self._last_left(shared)

    async def _wake(self, endpoint: EndpointId) -> Shared:
        task = self._waking.get(endpoint)
        if task is None:
            task = self._waking[endpoint] = asyncio.get_running_loop().create_task(self._take(endpoint), name="wake")
            task.add_done_callback(lambda _: self._waking.pop(endpoint))
        return await asyncio.shield(task)

    async def _take(self, endpoint: EndpointId) -> Shared:
        shared = Shared(endpoint, await self._cell.wake(endpoint))
        self._shared[endpoint] = shared
        # Whoever asked may have gone meanwhile.
        self._last_left(shared)
        return shared

    def _last_left(self, shared: Shared) -> None:
        if shared.void:
            self.give_back(shared.upstream.lease)
        else:
            shared.timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._lingered, shared)

    def _lingered(self, shared: Shared) -> None:
        self._forget(shared)
        self.give_back(shared.upstream.lease)

    def renounce(self, shared: Shared) -> None:
        """The instance behind it is gone, or was: the next to come asks the cell. Safe twice."""
        if not shared.void:
            shared.void = True
            self._forget(shared)
            if not shared.holders and shared.timer is not None:
                shared.timer.cancel()
                self.give_back(shared.upstream.lease)

    def _forget(self, shared: Shared) -> None:
        if self._shared.get(shared.endpoint) is shared:
            del self._shared[shared.endpoint]

    def give_back(self, lease: LeaseId) -> None:
        """Releases a lease in the background."""
        self._tasks.start(self._release(lease), "release")

    async def _release(self, lease: LeaseId) -> None:
        try:
            await self._cell.release(lease)
        except TenantryError as error:
            # The worker tells the cell which leases it holds when they meet again, and this is none of them.
            _log.info("the cell could not take back a lease", lease=lease, error=str(error))

    async def stop(self) -> None:
        """Gives everything back that nobody holds. Safe twice."""
        for task in list(self._waking.values()):
            task.cancel()
        await asyncio.gather(*self._waking.values(), return_exceptions=True)
        for shared in list(self._shared.values()):
            if shared.timer is not None:
                shared.timer.cancel()
                self._lingered(shared)
