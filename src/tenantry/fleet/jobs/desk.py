"""Where a worker writes down what it does: one connection to the catalog, asked from the event loop, patiently."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import Connection, text

from tenantry.errors import Locked, Unavailable
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.jobs.waiting import in_thread, within

T = TypeVar("T")

DESK_CONNECTIONS: Final = 1
AGAIN_SECONDS: Final = 0.2
AGAIN_SECONDS_MAX: Final = 5.0
IDLE_SECONDS_MAX: Final = 10
"""A worker that is stopped in the middle of a transaction loses its locks after this."""


class Desk:
    """Of one worker. Statements are short, and wait for each other. ``impatient`` ends its patience."""

    def __init__(self, catalog_url: str, impatient: asyncio.Event) -> None:
        self._catalog = Catalog(catalog_url, connections_max=DESK_CONNECTIONS)
        self._turn = asyncio.Lock()
        self._impatient = impatient

    async def ask(self, question: Callable[[Connection], T], *, patience_seconds: float = 0.0) -> T:
        """One transaction. A catalog that is away is asked again for that long. Raises what the catalog raises."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_seconds
        pause = AGAIN_SECONDS
        while True:
            try:
                async with self._turn:
                    return await in_thread(lambda: self._transaction(question), name="desk")
            except (Unavailable, Locked):
                if self._impatient.is_set() or loop.time() + pause > deadline:
                    raise
            await within(self._impatient, pause)
            pause = min(2 * pause, AGAIN_SECONDS_MAX)

    def _transaction(self, question: Callable[[Connection], T]) -> T:
        with self._catalog.transaction() as connection:
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_SECONDS_MAX}s'"))
            return question(connection)

    def close(self) -> None:
        """Safe twice."""
        self._catalog.close()
