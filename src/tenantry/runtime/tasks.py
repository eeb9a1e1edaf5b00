"""Tasks that are held: none is lost, and none fails unheard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
_log = structlog.get_logger("tasks")


class Tasks:
    """Holds the background tasks of one owner until they end or the owner stops."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._held: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs ``work``; an error that nobody awaits is logged as one that a human must see."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._owner}:{name}")
        self._held.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._held.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task failed", task=task.get_name(), error=str(error), exc_info=error)

    async def stop(self) -> None:
        """Cancels what still runs and waits until all of it has ended. Safe twice."""
        held = list(self._held)
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, T]) -> AsyncGenerator[asyncio.Task[T]]:
    """Runs ``work`` beside the block, which awaits it; it has ended when the block has, however that ends."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        yield task
    finally:
        # Of a block that failed by itself nobody awaits it, and its own error is none that anybody waits for.
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
