"""Calls between the door's workers and the control process: length-prefixed JSON over a Unix socket, both ways.

A worker registers first and passes its listening sockets along, so that the next control process can start more
workers on them; then either side calls the other. Errors of the tree travel by class and keep their client text.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self, cast

import structlog

from tenantry import errors
from tenantry.errors import Defect, TenantryError, Unavailable
from tenantry.runtime.tasks import Tasks

FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
"""Room for a registration that names the lease of every connection a worker can have."""
CALLS_MAX: Final = 20_000
"""Calls of one side that wait for an answer: two for each connection that a worker can have."""
REGISTRATION_SECONDS: Final = 5.0
DESCRIPTORS_MAX: Final = 8
_LENGTH: Final = struct.Struct("!I")
_KINDS: Final[Mapping[str, type[TenantryError]]] = {
    kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TenantryError)
}

Handler = Callable[[dict[str, Any]], Awaitable[Any]]

_log = structlog.get_logger("proxy.rpc")


def frame(value: object) -> bytes:
    """Raises Unavailable for a message over the bound: it must never be sent half."""
    body = json.dumps(value, separators=(",", ":")).encode()
    if len(body) > FRAME_BYTES_MAX:
        raise Unavailable(f"a message of {len(body)} bytes is too long for the door's calls")
    return _LENGTH.pack(len(body)) + body


def length_of(buffer: bytes | bytearray) -> int:
    """Of the frame that begins ``buffer``. Raises Unavailable for a length over the bound."""
    length: int = _LENGTH.unpack_from(buffer)[0]
    if length > FRAME_BYTES_MAX:
        raise Unavailable(f"a message of {length} bytes is too long for the door's calls")
    return length


def error_to_json(error: TenantryError) -> dict[str, str]:
    """The nearest class that both sides know, and the texts; never the fields, which are for the log here."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    return {
        "kind": kind,
        "message": error.message,
        "next_step": error.next_step,
        # Taken without the next step, which client_text adds again on the other side.
        "client_text": error.client_text.removesuffix(f" ({error.next_step})"),
    }


def error_from_json(value: Mapping[str, str]) -> TenantryError:
    return _KINDS.get(value["kind"], Defect)(
        value["message"], next_step=value["next_step"], client_text=value["client_text"]
    )


class Disconnected(Unavailable):
    """The connection ended before the answer came: the call may or may not have been done."""

    code = "DISCONNECTED"


class Peer(asyncio.Protocol):
    """One connection: calls out, and handlers for calls that come in. Make it with :meth:`on`."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._inbox = bytearray()
        self._transport: asyncio.Transport | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._answers = Tasks("rpc")
        self.closed = asyncio.Event()

    @classmethod
    async def on(cls, sock: socket.socket, handlers: Mapping[str, Handler]) -> Self:
        """Speaks over ``sock`` from now on, and owns it."""
        peer = cls(handlers)
        await asyncio.get_running_loop().create_unix_connection(lambda: peer, sock=sock)
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        try:
            while len(self._inbox) >= _LENGTH.size:
                end = _LENGTH.size + length_of(self._inbox)
                if len(self._inbox) < end:
                    return
                message = json.loads(self._inbox[_LENGTH.size : end])
                del self._inbox[:end]
                self._take(message)
        except (TenantryError, ValueError, KeyError, TypeError) as error:
            _log.error("the other side of the door's calls speaks another language", error=str(error))
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        """Nothing is sent or heard from now on."""
        self.closed.set()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(_gone())
        self._inbox.clear()
        if self._transport is not None:
            self._transport.close()

    async def call(self, method: str, **parameters: Any) -> Any:
        """The other side's answer. Raises what it raised, or Disconnected when the connection ends first."""
        if len(self._waiting) >= CALLS_MAX:
            raise Unavailable("too many calls wait for the cell", client_text="the server is overloaded, try again")
        self._number += 1
        number = self._number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send({"call": number, "method": method, "with": parameters})
            return await future
        finally:
            del self._waiting[number]

    def _send(self, value: object) -> None:
        """Raises Disconnected. What the kernel does not take is bounded by the calls that may wait."""
        if self.closed.is_set() or self._transport is None:
            raise _gone()
        self._transport.write(frame(value))

    async def close(self) -> None:
        """Ends the connection, what waits for it, and the answers that nobody would hear. Safe twice."""
        self._end()
        await self._answers.stop()

    def _take(self, message: dict[str, Any]) -> None:
        if "call" in message:
            work = self._answer(int(message["call"]), str(message["method"]), dict(message["with"]))
            self._answers.start(work, "answer")
            return
        future = self._waiting.get(int(message["answer"]))
        if future is None or future.done():
            return  # The caller has been cancelled.
        if "error" in message:
            future.set_exception(error_from_json(message["error"]))
        else:
            future.set_result(message["result"])

    async def _answer(self, number: int, method: str, parameters: dict[str, Any]) -> None:
        answer: dict[str, Any]
        try:
            handler = self._handlers.get(method)
            if handler is None:
                raise Defect(f"no such call of the door: {method}")
            answer = {"answer": number, "result": await handler(parameters)}
        except TenantryError as error:
            answer = {"answer": number, "error": error_to_json(error)}
        except Exception as error:  # noqa: BLE001
            # The service boundary: the caller must get an answer, and the log the chain.
            _log.error("a call of the door failed in a way nobody foresaw", method=method, exc_info=error)
            answer = {"answer": number, "error": error_to_json(Defect(f"{method} failed"))}
        try:
            self._send(answer)
        except Disconnected:
            return  # The caller knows.


def _gone() -> Disconnected:
    return Disconnected("the cell is out of reach", client_text="the server is restarting, try again")


# ---------------------------------------------------------------------------------------------------------
# The first frame, which may carry descriptors


async def send_first(sock: socket.socket, value: object, descriptors: Sequence[int]) -> None:
    """Sends the first frame of a connected, non-blocking socket, and descriptors with it. Raises OSError."""
    data = frame(value)
    loop = asyncio.get_running_loop()
    sent = 0
    if descriptors:
        # The kernel's buffer of a new connection takes the first byte at once, and the descriptors are with it.
        sent = socket.send_fds(sock, [data], list(descriptors))
    await loop.sock_sendall(sock, data[sent:])


async def receive_first(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The first frame of an accepted, non-blocking socket, and the descriptors that came with it.

    Raises OSError, ValueError, Unavailable. The caller bounds the wait and owns the descriptors.
    """
    descriptors: list[int] = []
    data = bytearray()
    needed = _LENGTH.size
    try:
        while len(data) < needed:
            try:
                # Exactly what is needed: what follows belongs to the stream.
                part, came, _, _ = socket.recv_fds(sock, needed - len(data), DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await _readable(sock)
                continue
            descriptors += came
            if not part:
                raise ConnectionError("closed before it registered")
            data += part
            if len(data) == _LENGTH.size and needed == _LENGTH.size:
                needed += length_of(data)
        value: dict[str, Any] = json.loads(data[_LENGTH.size :])
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return value, descriptors


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())
