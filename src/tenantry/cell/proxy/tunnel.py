"""``/v2``: the Postgres protocol in the binary messages of a WebSocket, by the contract of Neon's serverless driver.

The bytes of a connection go through a pair of sockets into a session like any other's, so that all that holds for
those (who may come in, relaying, cancelling, counting, the end) holds here. Message boundaries mean nothing, a
message is passed on as it comes, and what one side does not take stops the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Final, cast
from urllib.parse import parse_qs, urlsplit

import structlog
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from tenantry.cell.proxy.conn import Conn
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.routing import endpoint_of_host
from tenantry.cell.proxy.session import Entrance, serve

PATH: Final = "/v2"
READ_BYTES: Final = 64 * 1024
CLOSE_SECONDS: Final = 5.0
"""How long a client may take to answer our goodbye."""
_UNSUPPORTED: Final = 1003
_NORMAL: Final = 1000

_log = structlog.get_logger("proxy.tunnel")


class Tunnel(asyncio.Protocol):
    """One WebSocket, from the request to upgrade on."""

    def __init__(self, house: House, place: contextlib.ExitStack) -> None:
        self._house = house
        self._place = place
        """What the connection has taken of the worker's bounds."""
        self._loop = asyncio.get_running_loop()
        self._websocket = WSConnection(ConnectionType.SERVER)
        self._transport: asyncio.Transport | None = None
        self._inner: socket.socket | None = None
        """Our end of the pair; None before the upgrade, and after the end."""
        self._rest = b""
        """What the session has not taken; while there is any, the client is not read."""
        self._ending = False
        """The client sends no more; the session hears so after the rest."""

    # -- the client's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._websocket.receive_data(data)
            for event in self._websocket.events():
                self._take(event)
        except RemoteProtocolError as error:
            _log.debug("not a WebSocket", reason=str(error))
            if error.event_hint is not None:
                self._say(error.event_hint)
            self._close()

    def _take(self, event: Event) -> None:
        match event:
            case Request():
                self._upgrade(event)
            case BytesMessage():
                self._to_session(bytes(event.data))
            case Ping():
                self._say(event.response())
            case CloseConnection():
                self._say(event.response())
                self._ending = True
                self._flush()
            case TextMessage():
                self._say(CloseConnection(code=_UNSUPPORTED, reason="only binary messages are possible"))
                self._close()
            case _:
                pass

    def _upgrade(self, request: Request) -> None:
        assert self._transport is not None
        target = urlsplit(request.target)
        if target.path != PATH:
            self._say(RejectConnection(status_code=404))
            self._close()
            return
        named = [request.host, *parse_qs(target.query).get("address", [])]
        host = next((host for host in named if endpoint_of_host(host) is not None), None)
        self._inner, theirs = socket.socketpair()
        self._inner.setblocking(False)
        address = str(self._transport.get_extra_info("peername")[0])
        session = serve(Conn(theirs), address, self._house, Entrance(host=host, cleartext=True))
        task = self._house.tasks.start(session, "tunnel")
        self._house.tunnels.add(task)
        task.add_done_callback(self._house.tunnels.discard)
        self._say(AcceptConnection())
        self._loop.add_reader(self._inner.fileno(), self._from_session)

    def _say(self, event: Event) -> None:
        if self._transport is not None and not self._transport.is_closing():
            try:
                self._transport.write(self._websocket.send(event))
            except LocalProtocolError:
                return  # The WebSocket is closed already, which says the same.

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_session()
        self._place.close()

    # -- the session's side

    def _to_session(self, data: bytes) -> None:
        if self._ending:
            return
        full = bool(self._rest)
        self._rest += data
        if not full:
            self._flush()

    def _flush(self) -> None:
        """Gives the session what it takes."""
        if self._inner is None:
            return
        try:
            while self._rest:
                self._rest = self._rest[self._inner.send(self._rest) :]
        except BlockingIOError:
            assert self._transport is not None
            self._transport.pause_reading()
            self._loop.add_writer(self._inner.fileno(), self._writable)
            return
        except OSError:
            self._rest = b""  # The session is over, and has said its last.
        if self._ending:
            with contextlib.suppress(OSError):
                self._inner.shutdown(socket.SHUT_WR)

    def _writable(self) -> None:
        assert self._inner is not None
        self._loop.remove_writer(self._inner.fileno())
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._flush()

    def _from_session(self) -> None:
        assert self._inner is not None
        try:
            data = self._inner.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._say(BytesMessage(data))
        else:
            self._say(CloseConnection(code=_NORMAL))
            self._close()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._loop.remove_reader(self._inner.fileno())

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._loop.add_reader(self._inner.fileno(), self._from_session)

    # -- the end

    def _close(self) -> None:
        """Sends what was said, and ends both sides."""
        self._end_session()
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def _end_session(self) -> None:
        inner, self._inner = self._inner, None
        if inner is not None:
            self._loop.remove_reader(inner.fileno())
            self._loop.remove_writer(inner.fileno())
            inner.close()
