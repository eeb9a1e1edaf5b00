"""How a loop runs: every period, or sooner when it is told; a cycle's failure is logged and the next one comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from tenantry.cell import metrics
from tenantry.errors import TenantryError
from tenantry.runtime.tasks import Tasks

_log = structlog.get_logger("loops")


class Loop:
    """Runs ``cycle`` every ``period_seconds``. ``cycle`` answers a sentence, or nothing when it had nothing to do."""

    def __init__(self, name: str, period_seconds: float, cycle: Callable[[], Awaitable[str | None]]) -> None:
        self._name = name
        self._period_seconds = period_seconds
        self._cycle = cycle
        self._sooner = asyncio.Event()
        self._tasks = Tasks("loops")

    def start(self) -> None:
        self._tasks.start(self._run(), self._name)

    def sooner(self) -> None:
        """The next cycle need not wait for its time."""
        self._sooner.set()

    async def _run(self) -> None:
        while True:
            self._sooner.clear()
            try:
                sentence = await self._cycle()
                metrics.loop_cycles.labels(self._name, "done").inc()
                metrics.loop_last_success.labels(self._name).set_to_current_time()
                if sentence:
                    _log.info(sentence, loop=self._name)
            except TenantryError as error:
                metrics.loop_cycles.labels(self._name, "failed").inc()
                _log.error("cycle failed", loop=self._name, error=str(error))
            except Exception as error:  # noqa: BLE001 - the boundary of the service: one bad cycle must not end the loop
                metrics.loop_cycles.labels(self._name, "failed").inc()
                _log.error("cycle failed", loop=self._name, exc_info=error)
            try:
                # wait_for would lose our end where both come at once, before Python 3.12.
                async with asyncio.timeout(self._period_seconds):
                    await self._sooner.wait()
            except TimeoutError:
                pass

    async def stop(self) -> None:
        """Safe twice; waits until the running cycle has ended."""
        await self._tasks.stop()
