"""What comes in by the HTTP port and is none of the front door's business: passed on to the control process.

Requests and answers are streamed over the control process's own socket. While that process is away, as at an
upgrade, requests wait for the next one, up to a bound; one that it has begun is never sent twice.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import structlog
from starlette.types import Message, Receive, Scope, Send

from tenantry.cell.proxy.house import House

CONNECTIONS_MAX: Final = 200
"""Of one worker, to the control process; more requests wait."""
IDLE_CONNECTIONS_MAX: Final = 8
SILENCE_SECONDS: Final = 600.0
"""How long the control process may say nothing in an answer, and a client in its body."""
_RETRY_SECONDS: Final = 0.05
_OF_ONE_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"expect", b"proxy-connection", b"transfer-encoding"}
)
"""Headers between two neighbours."""
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto"})
"""Said by us, whatever a client says."""

_log = structlog.get_logger("proxy.others")


class _ClientGone(Exception):
    """Nobody is left to be answered."""


class _Body(httpx.AsyncByteStream):
    """A request's body, as it comes."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            async with asyncio.timeout(SILENCE_SECONDS):
                message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            more = bool(message.get("more_body"))
            if part := message.get("body", b""):
                yield part
        self.ended.set()


class Others:
    """An ASGI application that is somewhere else."""

    def __init__(self, path: Path, house: House) -> None:
        self._house = house
        self._transport = httpx.AsyncHTTPTransport(
            uds=str(path),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=IDLE_CONNECTIONS_MAX),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._pass_on(scope, receive, note)
        except (_ClientGone, TimeoutError):
            scope["state"]["abort"]()
        except (httpx.TransportError, asyncio.CancelledError) as error:
            # Whoever cancelled ends the worker, and waits for this last word.
            _log.warning("a request got no answer", path=scope["path"], reason=type(error).__name__)
            if started:
                scope["state"]["abort"]()
            else:
                await _unavailable(send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Returns when the answer is given, or nobody is left to hear it."""
        body = _Body(receive)
        gone = asyncio.ensure_future(_gone(body, receive))
        answering = asyncio.ensure_future(self._answer(scope, body, send))
        try:
            await asyncio.wait({gone, answering}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            gone.cancel()
            answering.cancel()
            await asyncio.gather(gone, answering, return_exceptions=True)

    async def _answer(self, scope: Scope, body: _Body, send: Send) -> None:
        response = await self._ask(scope, body)
        try:
            await _copy(response, send)
        finally:
            await response.aclose()

    async def _ask(self, scope: Scope, body: _Body) -> httpx.Response:
        """Sends the request and waits for the head of the answer. Raises httpx.TransportError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._house.settings.patience_seconds
        while True:
            try:
                return await self._transport.handle_async_request(_request(scope, body))
            except httpx.ConnectError:
                # Nothing of the body has been read.
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def stop(self) -> None:
        """Closes the idle connections. Safe twice."""
        await self._transport.aclose()


def _request(scope: Scope, body: _Body) -> httpx.Request:
    given: list[tuple[bytes, bytes]] = scope["headers"]
    headers = [pair for pair in given if pair[0] not in _OF_ONE_CONNECTION | _FORWARDED]
    framing = [pair for pair in given if pair[0] == b"transfer-encoding"]
    has_body = bool(framing) or any(name == b"content-length" for name, _ in headers)
    if not has_body:
        body.ended.set()
    query: bytes = scope["query_string"]
    address = scope["client"][0] if scope["client"] else ""
    return httpx.Request(
        scope["method"],
        "http://cell",
        headers=[
            *headers,
            *framing,
            (b"x-forwarded-for", address.encode()),
            (b"x-forwarded-proto", scope["scheme"].encode()),
        ],
        stream=body if has_body else httpx.ByteStream(b""),
        extensions={
            "target": scope["raw_path"] + (b"?" + query if query else b""),
            "timeout": {"connect": 5.0, "read": SILENCE_SECONDS, "write": SILENCE_SECONDS, "pool": SILENCE_SECONDS},
        },
    )


async def _gone(body: _Body, receive: Receive) -> None:
    """Returns when the client has gone."""
    await body.ended.wait()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _copy(response: httpx.Response, send: Send) -> None:
    headers = [(name.lower(), value) for name, value in response.headers.raw]
    kept = [pair for pair in headers if pair[0] not in _OF_ONE_CONNECTION or pair == (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": kept})
    assert isinstance(response.stream, AsyncIterable)
    async for part in response.stream:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _unavailable(send: Send) -> None:
    body = json.dumps(
        {"request_id": "", "code": "UNAVAILABLE", "message": "the server is restarting, try again"}
    ).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
