"""The door of the Postgres protocol: clients that come in by one listener, and that are let go in the end."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import structlog

from tenantry.cell.proxy import refusals
from tenantry.cell.proxy.accepting import Acceptor
from tenantry.cell.proxy.conn import Conn
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.session import serve

WATCH_AGAIN_SECONDS: Final = 2.0
_WATCHES_PER_TURN: Final = 256
_CUT_SECONDS: Final = 1.0
"""What a stopped relay's session may take to clean up, before it is cancelled."""
_KEEPALIVE_IDLE_SECONDS: Final = 60
_KEEPALIVE_INTERVAL_SECONDS: Final = 10
_KEEPALIVE_PROBES: Final = 6

_log = structlog.get_logger("proxy.door")


class Door:
    """Accepts until it is drained. ``stop`` is safe twice."""

    def __init__(self, listener: socket.socket, house: House) -> None:
        self._acceptor = Acceptor(listener, self._welcome)
        self._house = house
        self._loop = asyncio.get_running_loop()
        self._sessions: dict[asyncio.Task[None], socket.socket] = {}
        self._until: float | None = None
        self._look = asyncio.Event()

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def open(self) -> None:
        """Begins to accept."""
        self._house.tasks.start(self._watch_again(), "watch again")
        self._acceptor.open()

    async def _watch_again(self) -> None:
        """See Relay.watch_again; in small portions, so that the loop is not held up."""
        while True:
            await asyncio.sleep(WATCH_AGAIN_SECONDS)
            await self._watch_all_again()

    async def _watch_all_again(self) -> None:
        # Apart from the sleep, which would keep the relay that was looked at last, and its sockets, until the next.
        for number, relay in enumerate(list(self._house.relays), start=1):
            relay.watch_again()
            if number % _WATCHES_PER_TURN == 0:
                await asyncio.sleep(0)

    def _welcome(self, sock: socket.socket, address: str) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            # A client that vanished without a word would otherwise keep its instance awake for hours.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        except OSError:
            sock.close()  # Gone between its arrival and our greeting.
            return
        task = self._loop.create_task(self._serve(sock, address))
        self._sessions[task] = sock
        task.add_done_callback(self._session_over)

    async def _serve(self, sock: socket.socket, address: str) -> None:
        try:
            await serve(Conn(sock), address, self._house)
        except Exception:  # noqa: BLE001
            # The service boundary: a defect met by one client must not become the others'.
            _log.exception("a session failed in a way that nobody foresaw", address=address)

    def _session_over(self, task: asyncio.Task[None]) -> None:
        # A task that was cancelled before its first step has closed nothing.
        self._sessions.pop(task).close()
        self._look.set()

    def close(self) -> None:
        """Accepts no more; sessions go on. Safe twice."""
        self._acceptor.close()

    async def drain(self, seconds: float | None) -> None:
        """Accepts no more, and returns when the last session is over.

        Sessions may go on for ``seconds``, or for ever when None; then they are told and ended. A second call may
        shorten the time of the first.
        """
        self.close()
        if seconds is not None:
            until = self._loop.time() + seconds
            self._until = until if self._until is None else min(until, self._until)
            self._look.set()
        while self._sessions:
            self._look.clear()
            try:
                async with asyncio.timeout_at(self._until):
                    await self._look.wait()
            except TimeoutError:
                await self._cut()

    async def _cut(self) -> None:
        for relay in list(self._house.relays):
            relay.stop(refusals.shutting_down())
        sessions = set(self._sessions)
        if not sessions:
            return
        await asyncio.wait(sessions, timeout=_CUT_SECONDS)
        for task in sessions:
            task.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)
