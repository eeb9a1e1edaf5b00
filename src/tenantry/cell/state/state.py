"""Transactions on cell.db, off the event loop: one writing thread, one reading thread.

A write that returned is on disk (WAL with ``synchronous=FULL``). Writers queue in order; each has the whole
database to itself, so a check and a change inside one ``write`` cannot be separated.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tenantry.cell.state.tables import Tables, open_connection

T = TypeVar("T")


class State:
    """The one place that holds cell.db open."""

    def __init__(self, path: Path) -> None:
        """Opens (and creates) the database; blocking, called once at start."""
        # It holds verifiers and sealed passwords; SQLite gives its journal the same mode.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        schema = (Path(__file__).parent / "schema.sql").read_text()
        self._writer = open_connection(str(path), schema, read_only=False)
        self._reader = open_connection(str(path), schema, read_only=True)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="state-write")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="state-read")
        self._closed = False

    async def read(self, query: Callable[[Tables], T]) -> T:
        """Runs ``query`` against the newest committed state."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, query, Tables(self._reader))

    async def write(self, change: Callable[[Tables], T]) -> T:
        """Runs ``change`` in one transaction; it is durable when this returns, or rolled back when it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._transact, change)

    def _transact(self, change: Callable[[Tables], T]) -> T:
        self._writer.execute("begin immediate")
        try:
            result = change(Tables(self._writer))
        except BaseException:
            self._writer.execute("rollback")
            raise
        self._writer.execute("commit")
        return result

    async def close(self) -> None:
        """Waits for what is queued, then closes the files. Safe twice."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._writing.shutdown)
        await asyncio.to_thread(self._reading.shutdown)
        self._reader.close()
        self._writer.close()
