"""The HTTP port: ``/sql`` and ``/v2`` are served here, and whatever else is asked goes on to the control process.

uvicorn's protocol does the HTTP; this file decides whom it is done for: how many connections, how long a request's
head may take and how large it may be, and how all of it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import structlog
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tenantry.cell.proxy import sql
from tenantry.cell.proxy.accepting import Acceptor
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.limits import network_of
from tenantry.cell.proxy.refusals import Refusal, shutting_down
from tenantry.cell.proxy.tunnel import Tunnel

DISCARD_SECONDS: Final = 10.0
"""How long a client may go on sending a body that was answered already."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_CUT_SECONDS: Final = 1.0
"""What a stopped relay's session may take to clean up, before it is cancelled."""
_REFUSED: Final = b"HTTP/1.1 %d %s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_log = structlog.get_logger("proxy.web")

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Http(HttpToolsProtocol):
    """One connection, with bounds that uvicorn leaves to whoever stands before it."""

    def __init__(
        self, config: uvicorn.Config, state: ServerState, house: House, sock: socket.socket, network: str
    ) -> None:
        super().__init__(config, state, {})
        # Only its being there is looked at.
        self.ws_protocol_class = cast(Any, Tunnel)
        self._house = house
        self._sock = sock
        self._network = network
        self._place = contextlib.ExitStack()
        self._silence = contextlib.ExitStack()
        """What it holds while nothing was asked that is not answered: it may have to give way to others."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._body_to_come = False
        self._discard_timer: asyncio.TimerHandle | None = None

    def enter(self) -> None:
        """Takes one of the worker's connections, before TLS. Raises Refusal."""
        self._place.enter_context(self._house.limits.connection())
        try:
            self._fall_silent()
        except Refusal:
            self._place.close()
            raise

    def leave(self) -> None:
        """Gives back what it has taken. Safe twice."""
        self._silence.close()
        self._place.close()

    def _fall_silent(self) -> None:
        with contextlib.ExitStack() as silence:
            handshake = silence.enter_context(self._house.limits.handshake(self._network))
            silence.enter_context(handshake.silent(self._give_way))
            self._silence = silence.pop_all()

    def _give_way(self) -> None:
        # Not the transport's own way: before the end of a TLS handshake there is no transport.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        super().connection_made(cast(asyncio.Transport, transport))
        self._await_head()

    def _await_head(self) -> None:
        self._head_bytes = 0
        if self._head_timer is None:
            seconds = self._house.settings.http_head_seconds
            self._head_timer = self.loop.call_later(seconds, self._abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        self._body_arrived()
        self.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > self._house.settings.http_head_bytes_max:
                self.transport.write(_REFUSED % (431, b"Request Header Fields Too Large"))
                self.transport.close()
        elif self._body_to_come and self._discard_timer is None and self.cycle.response_complete:
            # Most clients send all of a body before they listen; closing at once would destroy the answer on its way.
            self._discard_timer = self.loop.call_later(DISCARD_SECONDS, self._abort)

    def on_message_begin(self) -> None:
        self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_arrived()
        self._silence.close()
        self._body_to_come = True
        self.scope["state"] = {"abort": self._abort}
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._discard_timer is not None:
            # Its bytes have taken the place of what idle time there was.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        self._body_arrived()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None:  # Nothing else was asked meanwhile.
            try:
                self._fall_silent()
            except Refusal:
                self.transport.close()

    def _body_arrived(self) -> None:
        self._body_to_come = False
        if self._discard_timer is not None:
            self._discard_timer.cancel()
            self._discard_timer = None

    def handle_websocket_upgrade(self) -> None:
        self._head_arrived()
        self._silence.close()
        self.connections.discard(self)
        head = [b"%s %s HTTP/1.1" % (self.scope["method"].encode(), self.url)]
        head += [b"%s: %s" % header for header in self.scope["headers"]]
        tunnel = Tunnel(self._house, self._place.pop_all())
        tunnel.connection_made(self.transport)
        self.transport.set_protocol(tunnel)
        tunnel.data_received(b"\r\n".join((*head, b"", b"")))

    def _abort(self) -> None:
        """Ends the connection now, and keeps nothing for a client that does not read."""
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Web:
    """Serves HTTP on one listener until it is drained."""

    def __init__(self, listener: socket.socket, house: House, others: Application, tls: ssl.SSLContext | None) -> None:
        self._acceptor = Acceptor(listener, self._welcome)
        self._house = house
        self._others = others
        self._tls = tls
        self._state = ServerState()
        self._config = uvicorn.Config(
            cast(Any, self._app),  # Its types of scopes are its own.
            interface="asgi3",
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=int(house.settings.http_idle_seconds),
        )
        self._config.load()
        self._connecting: set[asyncio.Task[None]] = set()
        """Clients on their way through TLS."""

    def open(self) -> None:
        """Begins to accept."""
        self._acceptor.open()

    def _welcome(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        client = _Http(self._config, self._state, self._house, sock, network_of(address))
        try:
            client.enter()
        except Refusal:
            if self._tls is None:
                with contextlib.suppress(OSError):
                    sock.send(_REFUSED % (503, b"Service Unavailable"))
            sock.close()
            return
        task = asyncio.get_running_loop().create_task(self._connect(sock, client))
        self._connecting.add(task)
        task.add_done_callback(lambda done: self._connected(done, sock, client))

    async def _connect(self, sock: socket.socket, client: _Http) -> None:
        seconds = self._house.settings.http_head_seconds if self._tls else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: client, sock, ssl=self._tls, ssl_handshake_timeout=seconds
            )
        except OSError as error:
            _log.debug("client gone", reason=str(error))
            client.leave()
            sock.close()

    def _connected(self, task: asyncio.Task[None], sock: socket.socket, client: _Http) -> None:
        self._connecting.discard(task)
        if task.cancelled():  # perhaps before its first step
            client.leave()
            sock.close()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == sql.PATH:
            await sql.serve(scope, receive, send, self._house)
        else:
            await self._others(scope, receive, send)

    def close(self) -> None:
        """Accepts no more. Safe twice."""
        self._acceptor.close()

    async def drain(self, seconds: float | None) -> None:
        """Accepts no more, lets what is being answered end for ``seconds`` (None: for ever), then ends it."""
        self.close()
        for connecting in list(self._connecting):
            connecting.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.shutdown()
        if running := {*self._state.tasks, *self._house.tunnels}:
            _, late = await asyncio.wait(running, timeout=seconds)
            if late & self._house.tunnels:
                for relay in list(self._house.relays):
                    relay.stop(shutting_down())
                _, late = await asyncio.wait(late, timeout=_CUT_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.abort()
