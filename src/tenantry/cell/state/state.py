"""Transactions on cell.db, off the event loop: one writing thread, one reading thread.

A write that returned is on disk (WAL with ``synchronous=FULL``). Writers queue in order; each has the whole
database to itself, so a check and a change inside one ``write`` cannot be separated.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from tenantry.cell.state.tables import Tables, open_connection
from tenantry.errors import DiskFull, OperatorError

T = TypeVar("T")
_OPERATORS: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY})
"""What only an operator can cure."""


class State:
    """The one place that holds cell.db open."""

    def __init__(self, path: Path) -> None:
        """Opens (and creates) the database; blocking, called once at start."""
        # It holds verifiers and sealed passwords; SQLite gives its journal the same mode.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.fchmod(descriptor, 0o600)
        os.close(descriptor)
        self._writer = open_connection(str(path), Path(__file__).parent)
        self._reader = open_connection(str(path))
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="state-write")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="state-read")
        self._closed = False

    async def read(self, query: Callable[[Tables], T]) -> T:
        """Runs ``query`` against the newest committed state, which is the same for all that it asks."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._look, query)

    def _look(self, query: Callable[[Tables], T]) -> T:
        # Or a write could come in between two statements, and what the first one names be gone for the second.
        self._reader.execute("begin")
        try:
            return query(Tables(self._reader))
        finally:
            if self._reader.in_transaction:
                self._reader.execute("rollback")

    async def write(self, change: Callable[[Tables], T]) -> T:
        """Runs ``change`` in one transaction; it is durable when this returns, or rolled back when it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._transact, change)

    def _transact(self, change: Callable[[Tables], T]) -> T:
        try:
            self._writer.execute("begin immediate")
            result = change(Tables(self._writer))
            self._writer.execute("commit")
        except BaseException as error:
            # Also a commit fails on a full disk, and SQLite may have rolled back by itself.
            if self._writer.in_transaction:
                self._writer.execute("rollback")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _OPERATORS:
                kind = DiskFull if error.sqlite_errorcode == sqlite3.SQLITE_FULL else OperatorError
                raise kind(
                    f"cell.db cannot be written: {error}", next_step="free some disk space, or look at the disk"
                ) from error
            raise
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
