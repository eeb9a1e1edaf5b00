"""Bytes between a client and its instance, both ways, untouched.

Each direction reads into one buffer that the whole process shares and sends at once; only what the sink did not
take is copied, and then the source is not read until the sink has taken it: a peer that does not read costs at
most one buffer. An end of stream is passed on after the last byte, and the other direction goes on until it
ends too or nothing moves for a while.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from enum import Enum
from typing import Final

from tenantry.cell.proxy.conn import Conn

BUFFER_BYTES: Final = 64 * 1024
HALF_CLOSED_SECONDS: Final = 30.0
"""How long the instance may be silent after its client has said that it sends no more."""
LINGER_SECONDS: Final = 5.0
"""How long a client may take to close after its instance has; closing first could destroy the last bytes."""
_READY_KIND: Final = ord("Z")
_READY_LENGTH: Final = 5
IDLE: Final = ord("I")
"""The status of an instance that is in no transaction."""
_HEADER: Final = struct.Struct(">BI")
_HEADER_BYTES: Final = _HEADER.size
_LENGTH_MIN: Final = 4
_TERMINATE: Final = ord("X")
_GOODBYE: Final = _HEADER.pack(_TERMINATE, _LENGTH_MIN)
_NEVER: Final = 1 << 62
_LATER: Final = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
"""Not now; the loop says when."""

_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)


class End(Enum):
    """Why a relay ended; ``value`` is the label for logs and counters."""

    CLIENT = "client closed"
    INSTANCE = "instance closed"
    BROKEN = "client broke the connection"
    SILENT = "half-closed and silent"
    STOPPED = "stopped by the door"
    PARTED = "client said goodbye"
    """Only where the connection to the instance may outlive its client: it is idle, as far as can be seen."""


class _Direction:
    """Source to sink. ``bytes`` counts what was read from the source (plaintext)."""

    __slots__ = (
        "_from_instance",
        "_loop",
        "_recv_into",
        "_relay",
        "_rest",
        "_send",
        "_sink_fd",
        "_source_fd",
        "_source_tls",
        "_unwatched",
        "at_rest",
        "bytes",
        "done",
        "ended",
        "sink",
        "status",
    )

    def __init__(self, relay: Relay, source: Conn, sink: Conn, *, from_instance: bool) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self.sink = sink
        self._recv_into = source.sock.recv_into
        self._send: Callable[[memoryview], int] = sink.sock.send
        self._source_fd = source.sock.fileno()
        self._source_tls = source.tls
        self._sink_fd = sink.sock.fileno()
        self._rest: memoryview | None = None
        """What the sink has not taken; while there is any, the source is not read."""
        self._unwatched = False
        """The source is reset and its reader will never be called again; it ends within a few reads."""
        self._from_instance = from_instance
        self.at_rest = True
        """The last bytes from the instance end an answer: whatever comes next begins a message."""
        self.status = IDLE
        """The last byte read; of an instance at rest, whether it is in a transaction."""
        self.bytes = 0
        self.ended = False
        """The source has said that no more will come."""
        self.done = False
        """... and the sink has been told so, after the last byte."""

    def start(self, early: bytes) -> None:
        """Begins with the bytes that the handshake had read too far."""
        self._loop.add_reader(self._source_fd, self.readable)
        if early:
            self.bytes += len(early)
            self._hold_or_send(memoryview(early), 0)
        if self._source_tls is not None and self._source_tls.pending():
            self._loop.call_soon(self._read_on)

    def readable(self) -> None:
        """Moves what has come. This runs for every message of every session: each line here is paid for."""
        try:
            count = self._recv_into(_buffer)
        except OSError as error:
            self._not_read(error)
            return
        if not count:
            self.end()
            return
        self.bytes += count
        if self._from_instance:
            # ReadyForQuery: Z, a length of five, one byte of status.
            self.at_rest = _buffer[count - 6] == _READY_KIND and count > 5 and _buffer[count - 2] == _READY_LENGTH
            self.status = _buffer[count - 1]
        try:
            sent = self._send(_view[:count])
        except OSError as error:
            if not isinstance(error, _LATER):
                self._relay.sink_broke(self)
                return
            sent = 0
        if sent != count:
            self._hold_or_send(_view[:count], sent)
        if ((tls := self._source_tls) is not None and tls.pending()) or self._unwatched:
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Reads what no event of the loop will announce, unless the state has changed meanwhile."""
        if not self.ended and self._rest is None:
            self.readable()

    def _not_read(self, error: OSError) -> None:
        if isinstance(error, ssl.SSLWantWriteError):
            # Only the answer to a key update wants this, and its few bytes fit soon.
            self._loop.call_soon(self._read_on)
        elif not isinstance(error, _LATER):
            self._relay.source_broke(self)

    def _hold_or_send(self, view: memoryview, sent: int) -> None:
        """Sends from ``sent`` on; what the sink does not take is copied, and until it does, nothing is read.

        A TLS sink takes one record at a time, so that taking less does not mean being full.
        """
        try:
            while sent < len(view):
                sent += self._send(view[sent:])
        except _LATER:
            self._rest = memoryview(bytes(view[sent:]))
            self._loop.remove_reader(self._source_fd)
            self._loop.add_writer(self._sink_fd, self._writable)
        except OSError:
            self._relay.sink_broke(self)

    @property
    def clear(self) -> bool:
        """The sink has taken all that was read."""
        return self._rest is None

    def _writable(self) -> None:
        rest = self._rest
        assert rest is not None
        try:
            while rest:
                rest = rest[self._send(rest) :]
        except _LATER:
            self._rest = rest
            return
        except OSError:
            self._relay.sink_broke(self)
            return
        self._rest = None
        self._loop.remove_writer(self._sink_fd)
        self._loop.add_reader(self._source_fd, self.readable)
        if self._unwatched or (self._source_tls is not None and self._source_tls.pending()):
            self.readable()

    def end(self) -> None:
        """The source's last byte has been passed on: say so to the sink."""
        self.ended = True
        self._loop.remove_reader(self._source_fd)
        if not self.done:
            self.done = True
            self.sink.shutdown_write()
        self._relay.direction_ended(self)

    def watch_again(self) -> None:
        """Finds out whether the loop has stopped to watch the source, and from then on does without it."""
        if self.ended or self._rest is not None or self._unwatched:
            return
        try:
            self._loop.add_reader(self._source_fd, self.readable)
        except RuntimeError:
            # uvloop has closed its handle: the source is reset, and what is left of it can be read to its end.
            self._loop.remove_reader(self._source_fd)
            self._unwatched = True
            self.readable()

    def discard(self) -> None:
        """The sink takes no more: from now on, read and forget, so that the source is heard when it ends."""
        self._send = len
        self.done = True
        if self._rest is not None:
            self._rest = None
            self._loop.remove_writer(self._sink_fd)
            self._loop.add_reader(self._source_fd, self.readable)

    def cut(self) -> None:
        """Stops reading and writing at once."""
        self.ended = self.done = True
        self._rest = None
        self._loop.remove_reader(self._source_fd)
        self._loop.remove_writer(self._sink_fd)
        # Without this the two would keep each other, and both sockets, until a garbage collection.
        del self._relay


class _Parting(_Direction):
    """From a client that its instance's session may outlive: its goodbye is heard and not passed on.

    Knows where each message begins, and no more of it. A header that is cut is held back until it is whole.
    """

    __slots__ = ("_ahead", "_held")

    def __init__(self, relay: Relay, source: Conn, sink: Conn) -> None:
        super().__init__(relay, source, sink, from_instance=False)
        self._ahead = 0
        """Bytes to come before the next message begins."""
        self._held = b""

    def start(self, early: bytes) -> None:
        self._loop.add_reader(self._source_fd, self.readable)
        self.bytes += len(early)
        if early:
            self._pass_on(early, memoryview(early), len(early))
        if self._source_tls is not None and self._source_tls.pending():
            self._loop.call_soon(self._read_on)

    def readable(self) -> None:
        held = len(self._held)
        _buffer[:held] = self._held
        try:
            count = self._recv_into(_view[held:])
        except OSError as error:
            self._not_read(error)
            return
        if not count:
            if held or self._ahead:
                self.end()
            else:
                self._relay.client_parted(self)
            return
        self.bytes += count
        self._pass_on(_buffer, _view, held + count)
        if not self.ended and (((tls := self._source_tls) is not None and tls.pending()) or self._unwatched):
            self._loop.call_soon(self._read_on)

    def _pass_on(self, buffer: bytes | bytearray, view: memoryview, count: int) -> None:
        until, goodbye = self._walk(buffer, count)
        if until:
            self._relay.asked()
            self._hold_or_send(view[:until], 0)
        if not goodbye or self.ended:
            return
        if self._rest is None:
            self._relay.client_parted(self)
        else:
            # Much was said just before, so the instance is not idle: it hears the goodbye after the rest.
            self._rest, self._ahead = memoryview(bytes(self._rest) + _GOODBYE), _NEVER

    def _walk(self, buffer: bytes | bytearray, count: int) -> tuple[int, bool]:
        """How many bytes are to be passed on, and whether the client has said its last."""
        at = self._ahead
        while count - at >= _HEADER_BYTES:
            kind, length = _HEADER.unpack_from(buffer, at)
            if kind == _TERMINATE or length < _LENGTH_MIN:
                # What cannot be a message is for the instance to answer; nobody has its session afterwards.
                self._ahead, self._held = (0, b"") if kind == _TERMINATE else (_NEVER, b"")
                return (at, True) if kind == _TERMINATE else (count, False)
            at += 1 + length
        if at >= count:
            self._ahead, self._held = at - count, b""
            return count, False
        self._ahead, self._held = 0, bytes(buffer[at:count])
        return at, False


class Relay:
    """One session's two directions; :meth:`run` lasts until both are over.

    With ``parting`` it ends as PARTED, and nothing is said to the instance, when the client leaves it idle.
    """

    def __init__(self, client: Conn, upstream: Conn, *, parting: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._inboxes = (bytes(client.inbox), bytes(upstream.inbox))
        client.inbox.clear()
        upstream.inbox.clear()
        self._inward = (
            _Parting(self, client, upstream) if parting else _Direction(self, client, upstream, from_instance=False)
        )
        self._outward = _Direction(self, upstream, client, from_instance=True)
        self._over: asyncio.Future[End] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        self._first_end: End | None = None

    @property
    def bytes_in(self) -> int:
        """From the client, so far."""
        return self._inward.bytes

    @property
    def bytes_out(self) -> int:
        """To the client, so far."""
        return self._outward.bytes

    async def run(self) -> End:
        """Relays until the end; afterwards neither socket is watched, and both are still to be closed."""
        self._inward.start(self._inboxes[0])
        self._outward.start(self._inboxes[1])
        self._inboxes = (b"", b"")
        try:
            return await self._over
        finally:
            self._inward.cut()
            self._outward.cut()
            if self._timer is not None:
                self._timer.cancel()

    def watch_again(self) -> None:
        """To be called every few seconds while :meth:`run` runs.

        When a connection is reset, uvloop calls its reader once and never again. If that call finds data, the
        reset itself goes unheard, and an instance that waits for the rest of a message would wait for ever.
        """
        if not self._over.done():
            self._inward.watch_again()
            self._outward.watch_again()

    def stop(self, last_words: bytes) -> None:
        """Ends the relay now; the client hears ``last_words`` where they cannot fall into another message."""
        if not self._over.done():
            if self._outward.at_rest and not self._outward.done:
                self._client.send_now(last_words)
            self._finish(End.STOPPED)

    def asked(self) -> None:
        """The instance owes an answer."""
        self._outward.at_rest = False

    def client_parted(self, inward: _Parting) -> None:
        """The client has said goodbye, or closed between two messages."""
        outward = self._outward
        if outward.clear and outward.at_rest and outward.status == IDLE and not outward.ended:
            self._finish(End.PARTED)
        else:
            inward.end()

    def direction_ended(self, direction: _Direction) -> None:
        """One source has ended, and its sink knows."""
        if self._inward.ended and self._outward.ended:
            self._finish(self._first_end or End.CLIENT)
        elif direction is self._inward:
            self._first_end = self._first_end or End.CLIENT
            self._wait_for_instance(-1)
        else:
            self._first_end = self._first_end or End.INSTANCE
            self._inward.discard()
            self._timer = self._loop.call_later(LINGER_SECONDS, self._finish, End.INSTANCE)

    def source_broke(self, direction: _Direction) -> None:
        """Reading failed. A broken instance has ended; a broken client is nobody to relay for."""
        if direction is self._inward:
            self._finish(End.BROKEN)
        else:
            direction.end()

    def sink_broke(self, direction: _Direction) -> None:
        """Writing failed. The instance may still have last words for its client; the other way is over."""
        if direction is self._inward:
            direction.discard()
        else:
            self._finish(End.BROKEN)

    def _wait_for_instance(self, bytes_before: int) -> None:
        """After the client's end: as long as the instance goes on sending, it is listened to."""
        now = self._outward.bytes
        if now == bytes_before:
            self._finish(End.SILENT)
        else:
            self._timer = self._loop.call_later(HALF_CLOSED_SECONDS, self._wait_for_instance, now)

    def _finish(self, end: End) -> None:
        if not self._over.done():
            self._over.set_result(end)
