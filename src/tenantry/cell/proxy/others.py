"""What comes in by the HTTP port and is none of the front door's business: passed on to the control process.

Requests and answers are streamed over the control process's own socket, one connection each: none can be found closed
in the middle. While that process is away, as at an upgrade, requests wait for the next one, up to a bound; one that
it has begun to hear is never sent twice.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import httptools
import structlog
from starlette.types import Message, Receive, Scope, Send

from tenantry.cell.proxy.conn import Conn, PeerGone, connect_unix
from tenantry.cell.proxy.house import House
from tenantry.errors import Unavailable
from tenantry.neon.errors import REQUEST_ID_HEADERS, error_body
from tenantry.neon.ids import new_request_id

CONNECTIONS_MAX: Final = 200
"""Of one worker, to the control process; more requests wait."""
SILENCE_SECONDS: Final = 600.0
"""How long the control process may say nothing in an answer, and a client in its body."""
READ_BYTES: Final = 64 * 1024
_RETRY_SECONDS: Final = 0.05
_OF_ONE_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"expect", b"proxy-connection", b"transfer-encoding"}
)
"""Headers between two neighbours."""
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
"""Said by us, whatever a client says."""
_LEFT_OUT: Final = _OF_ONE_CONNECTION | _FORWARDED

_log = structlog.get_logger("proxy.others")


class _Away(Exception):
    """The control process is not there, or has gone without a whole answer."""


class _ClientGone(Exception):
    """Nobody is left to be answered."""


class Others:
    """An ASGI application that is somewhere else."""

    def __init__(self, path: Path, house: House) -> None:
        self._path = str(path)
        self._house = house
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with self._places:
                await self._pass_on(scope, receive, note)
        except (_ClientGone, TimeoutError):
            scope["state"]["abort"]()
        except (_Away, asyncio.CancelledError) as error:
            # Whoever cancelled ends the worker, and waits for this last word.
            _log.warning("a request got no answer", path=scope["path"], reason=str(error))
            if started:
                scope["state"]["abort"]()
            else:
                await _unavailable(send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Returns when the answer is given, or nobody is left to hear it."""
        conn = await self._connect()
        try:
            await conn.send(_head(scope))
            speaking = asyncio.ensure_future(_speak(conn, receive, _framing(scope)))
            answering = asyncio.ensure_future(_answer(conn, send, head_only=scope["method"] == "HEAD"))
            try:
                await asyncio.wait({speaking, answering}, return_when=asyncio.FIRST_COMPLETED)
                # Speaking ends with the client, or because the control process hears no more, and then has answered.
                if not answering.done() and not isinstance(speaking.exception(), PeerGone):
                    speaking.result()
                await answering
            finally:
                speaking.cancel()
                answering.cancel()
                await asyncio.gather(speaking, answering, return_exceptions=True)
        except (PeerGone, httptools.HttpParserError) as error:
            raise _Away(str(error)) from error
        finally:
            conn.close()

    async def _connect(self) -> Conn:
        """Raises _Away when nobody comes in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._house.settings.patience_seconds
        while True:
            try:
                return await connect_unix(self._path)
            except PeerGone as error:
                if loop.time() >= until:
                    raise _Away("the control process is away") from error
            await asyncio.sleep(_RETRY_SECONDS)


def _framing(scope: Scope) -> bytes | None:
    """By which header the request's body is bounded; None where it has none."""
    names = {name for name, _ in scope["headers"]}
    return next((name for name in (b"transfer-encoding", b"content-length") if name in names), None)


def _head(scope: Scope) -> bytes:
    query: bytes = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    address = scope["client"][0] if scope["client"] else ""
    lines = [b"%s %s HTTP/1.1" % (scope["method"].encode(), target)]
    lines += [b"%s: %s" % pair for pair in scope["headers"] if pair[0] not in _LEFT_OUT]
    if _framing(scope) == b"transfer-encoding":
        lines.append(b"transfer-encoding: chunked")
    lines += [
        b"x-forwarded-for: " + address.encode(),
        b"x-forwarded-proto: " + scope["scheme"].encode(),
        b"connection: close",
    ]
    return b"\r\n".join((*lines, b"", b""))


async def _speak(conn: Conn, receive: Receive, framing: bytes | None) -> None:
    """Sends the body as it comes, then listens whether the client is there. Raises _ClientGone, PeerGone."""
    more = True
    while more:
        async with asyncio.timeout(SILENCE_SECONDS):
            message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        more = bool(message.get("more_body"))
        part = message.get("body", b"")
        if part and framing is not None:
            await conn.send(part if framing == b"content-length" else b"%x\r\n%s\r\n" % (len(part), part))
    if framing == b"transfer-encoding":
        await conn.send(b"0\r\n\r\n")
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ClientGone


class _Parts:
    """Takes an answer apart; the parser calls its methods."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body: list[bytes] = []
        self.has_head = False
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.whole = True


async def _answer(conn: Conn, send: Send, *, head_only: bool) -> None:
    """Raises PeerGone and HttpParserError when the answer is not whole."""
    parts = _Parts()
    parser = httptools.HttpResponseParser(parts)
    started = False
    while not parts.whole:
        async with asyncio.timeout(SILENCE_SECONDS):
            await conn.fill(READ_BYTES)
        parser.feed_data(bytes(conn.inbox))
        conn.inbox.clear()
        if not parts.has_head:
            continue
        if not started:
            started = True
            headers = [pair for pair in parts.headers if pair[0] not in _OF_ONE_CONNECTION]
            await send({"type": "http.response.start", "status": parser.get_status_code(), "headers": headers})
        if head_only:
            break
        body, parts.body = b"".join(parts.body), []
        if body and not parts.whole:
            await send({"type": "http.response.body", "body": body, "more_body": True})
        elif parts.whole:
            await send({"type": "http.response.body", "body": body})
    if head_only:
        await send({"type": "http.response.body", "body": b""})


async def _unavailable(send: Send) -> None:
    request_id = new_request_id()
    away = Unavailable("the control process is away", client_text="the server is restarting, try again")
    body = error_body(away, request_id).to_json()
    headers = [
        *((name.encode(), request_id.encode()) for name in REQUEST_ID_HEADERS),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
