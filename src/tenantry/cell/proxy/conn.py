"""One peer on a non-blocking socket, plain or TLS: try the call first, wait only when the kernel says so.

Used for the handshake, where messages are small and read one by one; afterwards :mod:`relay` takes the bare
socket. Deadlines come from the caller (``asyncio.timeout``).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final

from tenantry.errors import TenantryError
from tenantry.postgres import wire

_READ_BYTES: Final = 8192
_TLS_RECORD_FIRST_BYTE: Final = 0x16
"""A TLS handshake record; no startup packet begins so, for its length would exceed every bound."""
_BACKLOG_RETRY_SECONDS: Final = 0.002


class PeerGone(TenantryError):
    """The peer closed, reset or broke the connection; there is nobody left to tell."""

    blame = "client"
    code = "PEER_GONE"


class TlsSocket(ssl.SSLSocket):
    """An SSLSocket that remembers the host name its client asked for."""

    sni: str | None = None


class Conn:
    """A connected, non-blocking socket and the bytes read from it that nobody has taken yet."""

    __slots__ = ("_fd", "_loop", "inbox", "sock")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._fd = sock.fileno()
        self._loop = asyncio.get_running_loop()
        self.inbox = bytearray()

    @property
    def tls(self) -> TlsSocket | None:
        return self.sock if isinstance(self.sock, TlsSocket) else None

    async def fill(self, bytes_max: int = _READ_BYTES) -> None:
        """Adds at least one byte to :attr:`inbox`. Raises PeerGone at the end of the stream."""
        while True:
            try:
                data = self.sock.recv(bytes_max)
                break
            except (BlockingIOError, ssl.SSLWantReadError):
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except ssl.SSLWantWriteError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise PeerGone("the peer broke the connection") from error
        if not data:
            raise PeerGone("the peer closed the connection")
        self.inbox += data

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``. Raises PeerGone."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.sock.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except ssl.SSLWantReadError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except OSError as error:
                raise PeerGone("the peer broke the connection") from error

    async def first_packet(self) -> wire.FirstPacket:
        """Raises PeerGone, ProtocolViolation."""
        while (packet := wire.take_first_packet(self.inbox)) is None:
            await self.fill()
        return packet

    async def message(self, bytes_max: int) -> wire.Message:
        """Raises PeerGone, ProtocolViolation."""
        while (message := wire.take_message(self.inbox, bytes_max=bytes_max)) is None:
            await self.fill()
        return message

    async def begins_with_tls(self) -> bool:
        """Whether the first byte to come is that of a TLS handshake; takes nothing. Raises PeerGone."""
        while True:
            try:
                first = self.sock.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError as error:
                raise PeerGone("the peer broke the connection") from error
            if not first:
                raise PeerGone("the peer closed the connection")
            return first[0] == _TLS_RECORD_FIRST_BYTE

    async def start_tls(self, context: ssl.SSLContext) -> TlsSocket:
        """Serves the TLS handshake. Raises PeerGone when it fails, whatever the reason."""
        assert not self.inbox, "bytes read before TLS must never count as sent under it"
        try:
            tls = context.wrap_socket(self.sock, server_side=True, do_handshake_on_connect=False)
        except OSError as error:
            raise PeerGone("the peer broke the connection") from error
        assert isinstance(tls, TlsSocket)
        self.sock = tls
        while True:
            try:
                tls.do_handshake()
                return tls
            except ssl.SSLWantReadError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
            except ssl.SSLWantWriteError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise PeerGone("the TLS handshake failed") from error

    async def _ready(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        add(self._fd, _wake, future)
        try:
            await future
        finally:
            remove(self._fd)

    def send_now(self, data: bytes) -> None:
        """Sends what fits at once and forgets the rest: for last words to a peer that may not listen.

        What has come and was not read is taken first: closing over it would reset the connection, and the peer
        might lose the words with it.
        """
        try:
            self.sock.recv(_READ_BYTES)
        except OSError:
            pass  # Nothing had come, or the peer is gone, which the next call finds out.
        try:
            self.sock.send(data)
        except OSError:
            return

    def shutdown_write(self) -> None:
        """Says that no more bytes will come, under TLS too; the other direction stays open."""
        tls = self.tls
        try:
            if tls is not None:
                try:
                    tls.unwrap()
                except (OSError, ValueError):
                    pass  # The notice is sent; waiting for the peer's own is not needed.
            # The base class's, because SSLSocket.shutdown forgets the TLS state of both directions.
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        except OSError:
            return  # The peer is gone already, which says the same.

    def close(self) -> None:
        """Closes the socket. Safe twice."""
        if self.tls is not None and self.sock.fileno() >= 0:
            # Without a notice, a client under TLS must take the end for an attack: cancel requests would "fail".
            self.shutdown_write()
        self.sock.close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def connect_unix(path: str) -> Conn:
    """Connects to a Unix socket. Raises PeerGone when nobody listens there.

    ``connect`` is called here and not by the loop: with a full backlog it says EAGAIN, which event loops take
    for "in progress" and then report success on a socket that is not connected. The caller bounds the wait.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        while True:
            try:
                sock.connect(path)
                return Conn(sock)
            except BlockingIOError:
                await asyncio.sleep(_BACKLOG_RETRY_SECONDS)
    except OSError as error:
        sock.close()
        raise PeerGone("nobody listens on the instance's socket") from error
    except BaseException:
        sock.close()
        raise
