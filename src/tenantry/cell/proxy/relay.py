"""Bytes between a client and its instance, both ways, untouched.

Each direction reads into one buffer that the whole process shares and sends at once; only what the sink did not
take is copied, and then the source is not read until the sink has taken it: a peer that does not read costs at
most one buffer. An end of stream is passed on after the last byte, and the other direction goes on until it
ends too or nothing moves for a while.
"""

from __future__ import annotations

import asyncio
import ssl
from enum import Enum
from typing import Final

from tenantry.cell.proxy.conn import Conn

BUFFER_BYTES: Final = 64 * 1024
HALF_CLOSED_SECONDS: Final = 30.0
"""How long the instance may be silent after its client has said that it sends no more."""
LINGER_SECONDS: Final = 5.0
"""How long a client may take to close after its instance has; closing first could destroy the last bytes."""
_READS_PER_TURN: Final = 16
_READY_BYTES: Final = 6
_READY: Final = b"Z\0\0\0\5"

_buffer = bytearray(BUFFER_BYTES)
_view = memoryview(_buffer)


class End(Enum):
    """Why a relay ended; ``value`` is the label for logs and counters."""

    CLIENT = "client closed"
    INSTANCE = "instance closed"
    BROKEN = "client broke the connection"
    SILENT = "half-closed and silent"
    STOPPED = "stopped by the door"


class _Direction:
    """Source to sink. ``bytes`` counts what was read from the source (plaintext)."""

    __slots__ = (
        "_discarding",
        "_loop",
        "_recv_into",
        "_relay",
        "_rest",
        "_send",
        "_sink_fd",
        "_source_fd",
        "_source_tls",
        "_unwatched",
        "_watch_ready",
        "bytes",
        "done",
        "ended",
        "sink",
        "tail",
    )

    def __init__(self, relay: Relay, source: Conn, sink: Conn, *, watch_ready: bool) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self.sink = sink
        self._recv_into = source.sock.recv_into
        self._send = sink.sock.send
        self._source_fd = source.sock.fileno()
        self._source_tls = source.tls
        self._sink_fd = sink.sock.fileno()
        self._rest: memoryview | None = None
        self._discarding = False
        self._unwatched = False
        """The source is reset and its reader will never be called again; it ends within a few reads."""
        self._watch_ready = watch_ready
        self.tail = _READY + b"I"
        """The last bytes passed on, kept where they tell whether the client has had a whole answer."""
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
            self._pass_on(memoryview(early))
        if self._source_tls is not None and self._source_tls.pending():
            self._loop.call_soon(self.readable)

    def readable(self) -> None:
        """Moves what has come, until the source has no more at hand or the sink is full."""
        if self.ended or self._rest is not None:
            return  # A turn that was asked for before the state changed.
        tls = self._source_tls
        for _ in range(_READS_PER_TURN):
            try:
                count = self._recv_into(_buffer)
            except (BlockingIOError, ssl.SSLWantReadError, InterruptedError):
                return
            except ssl.SSLWantWriteError:
                # Only the answer to a key update wants this, and its few bytes fit soon.
                self._loop.call_soon(self.readable)
                return
            except OSError:
                self._relay.source_broke(self)
                return
            if not count:
                self.end()
                return
            self.bytes += count
            if not self._discarding:
                if self._watch_ready:
                    self.tail = bytes(_view[max(count - _READY_BYTES, 0) : count])
                self._pass_on(_view[:count])
                if self._rest is not None:
                    return
            if self.ended or ((tls is None or not tls.pending()) and not self._unwatched):
                return
        self._loop.call_soon(self.readable)

    def _pass_on(self, view: memoryview) -> None:
        """Sends ``view``; what the sink does not take is copied, and until it does, nothing more is read."""
        total = len(view)
        sent = 0
        try:
            # More than one turn is for TLS, which takes a record at a time.
            while (sent := sent + self._send(view[sent:] if sent else view)) < total:
                pass
            return
        except (BlockingIOError, ssl.SSLWantWriteError, InterruptedError):
            self._rest = memoryview(bytes(view[sent:]))
            self._loop.remove_reader(self._source_fd)
            self._loop.add_writer(self._sink_fd, self._writable)
        except OSError:
            self._relay.sink_broke(self)

    def _writable(self) -> None:
        rest = self._rest
        assert rest is not None
        try:
            while rest:
                rest = rest[self._send(rest) :]
        except (BlockingIOError, ssl.SSLWantWriteError, InterruptedError):
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
        self._discarding = True
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


class Relay:
    """One session's two directions; :meth:`run` lasts until both are over."""

    def __init__(self, client: Conn, upstream: Conn) -> None:
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._inboxes = (bytes(client.inbox), bytes(upstream.inbox))
        client.inbox.clear()
        upstream.inbox.clear()
        self._inward = _Direction(self, client, upstream, watch_ready=False)
        self._outward = _Direction(self, upstream, client, watch_ready=True)
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
            tail = self._outward.tail
            if tail.startswith(_READY) and len(tail) == _READY_BYTES and not self._outward.done:
                self._client.send_now(last_words)
            self._finish(End.STOPPED)

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
