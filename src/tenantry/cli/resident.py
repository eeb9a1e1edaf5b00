"""The worker that `tenantry up` keeps beside the cell: a process of its own, so that its death is not the cell's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

STOP_SECONDS_MAX: Final = 25.0
"""A little longer than a worker takes for what is under way."""
AGAIN_SECONDS: Final = 1.0
AGAIN_SECONDS_MAX: Final = 60.0
PROVEN_SECONDS: Final = 60.0
"""A worker that lived so long has not failed at once, and its successor need not wait for long."""

_log: Final = structlog.get_logger("jobs")


class ResidentWorker:
    """``start`` it once the fleet answers. ``stop`` returns when no process is left; safe twice."""

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        self._data = data
        self._environment = {**os.environ, **environment}
        self._stopping = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    def start(self) -> None:
        self._keeping = asyncio.get_running_loop().create_task(self._keep(), name="resident worker")

    async def stop(self) -> None:
        self._stopping.set()
        if self._keeping is None:
            return
        if (process := self._process) is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await asyncio.shield(self._keeping)
        except TimeoutError:
            _log.warning("the worker did not end in time; what it had in hand is taken up by another")
            if (process := self._process) is not None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await self._keeping

    async def _keep(self) -> None:
        loop, pause = asyncio.get_running_loop(), AGAIN_SECONDS
        while not self._stopping.is_set():
            began = loop.time()
            status = await self._live()
            if self._stopping.is_set():
                return
            if loop.time() - began > PROVEN_SECONDS:
                pause = AGAIN_SECONDS
            _log.warning("the worker has ended, and another one begins", status=status, in_seconds=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(2 * pause, AGAIN_SECONDS_MAX)

    async def _live(self) -> int | str:
        """One worker, from its start to its end; returns its status, or why there was none."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tenantry", "worker", "--data", str(self._data), "--with-parent"),
                stdin=asyncio.subprocess.PIPE,  # it ends when this does, also when this process is killed
                cwd=self._data,
                env=self._environment,
                start_new_session=True,  # an interrupt at the terminal is for `up` to pass on
            )
        except OSError as error:
            return str(error)
        try:
            if self._stopping.is_set():
                self._process.terminate()
            return await self._process.wait()
        finally:
            self._process = None
