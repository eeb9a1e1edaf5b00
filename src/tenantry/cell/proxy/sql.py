"""``POST /sql``: one request from its headers to its answer, by the contract of Neon's serverless driver.

The password is proved before the body is read, and the body is read before anything is woken. Statements run on a
reused server connection; a client that goes away has them cancelled.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from tenantry.cell.proxy import authentication, cancel, refusals, statements, upstream
from tenantry.cell.proxy.authentication import Claim
from tenantry.cell.proxy.cancel import Target
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.leases import Shared
from tenantry.cell.proxy.limits import Room, network_of
from tenantry.cell.proxy.pool import Kind, Server
from tenantry.cell.proxy.ports import Login
from tenantry.cell.proxy.refusals import Refusal
from tenantry.cell.proxy.sql_answer import batch_parts, error_body
from tenantry.cell.proxy.sql_request import HEADERS, Options, Request, echoed, read_body, read_options, read_target
from tenantry.cell.proxy.statements import StatementFailed
from tenantry.errors import Defect, InvalidInput, LimitReached, TenantryError, Unavailable
from tenantry.postgres import scram, wire

PATH: Final = "/sql"
LARGE_BODY_BYTES: Final = 64 * 1024
"""From this size on a body is read in a thread."""
WRITE_BYTES: Final = 64 * 1024
"""Of an answer at a time."""
RETRY_SECONDS: Final = 1
_LOGIN_ATTEMPTS_MAX: Final = 3
"""An instance may be on its way down just when it is logged in to; a new wake then finds it asleep."""
_PREFLIGHT: Final[Mapping[str, str]] = {
    "allow": "OPTIONS, POST",
    "access-control-allow-headers": ", ".join(("authorization", "content-type", "neon-pool-opt-in", *HEADERS)),
    "access-control-max-age": "86400",
}

_log = structlog.get_logger("proxy.sql")


class _BodyTooLarge(InvalidInput):
    http_status = 413
    code = "BODY_TOO_LARGE"


class _BodyTooSlow(InvalidInput):
    http_status = 408
    code = "BODY_TOO_SLOW"


class _WrongMethod(InvalidInput):
    http_status = 405
    code = "METHOD_NOT_ALLOWED"


class _ClientGone(TenantryError):
    """Nobody is left to be answered."""

    blame = "client"
    code = "CLIENT_GONE"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    parts: list[bytes]


@dataclass(slots=True, eq=False)
class _Traffic:
    """What one request has moved, for the meter."""

    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be done, for whom."""

    claim: Claim
    kind: Kind
    keys: scram.ClientKeys
    request: Request
    options: Options
    room: Room


async def serve(scope: Scope, receive: Receive, send: Send, house: House) -> None:
    """Answers one request for ``/sql``. Raises nothing but its cancellation."""
    headers = Headers(scope=scope)
    with house.limits.room() as room:
        try:
            answer = await _answer(scope, headers, receive, room, house)
        except _ClientGone:
            return
        except (StatementFailed, TenantryError) as error:
            answer = _refusal(error, scope)
        except Exception as error:  # noqa: BLE001
            # The service boundary: a defect met by one request must not become the others'.
            _log.exception("a request failed in a way that nobody foresaw")
            answer = _refusal(Defect(type(error).__name__), scope)
        try:
            async with asyncio.timeout(house.settings.http_answer_seconds):
                await _send(answer, send)
        except TimeoutError:
            _log.info("a client did not read its answer in time")
            scope["state"]["abort"]()


async def _send(answer: Answer, send: Send) -> None:
    size = sum(len(part) for part in answer.parts)
    headers = {
        "content-type": "application/json",
        "content-length": str(size),
        "access-control-allow-origin": "*",
        **answer.headers,
    }
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    gathered = bytearray()
    for part in answer.parts:
        gathered += part
        while len(gathered) > WRITE_BYTES:
            await send({"type": "http.response.body", "body": bytes(gathered[:WRITE_BYTES]), "more_body": True})
            del gathered[:WRITE_BYTES]
    await send({"type": "http.response.body", "body": bytes(gathered)})


async def _answer(scope: Scope, headers: Headers, receive: Receive, room: Room, house: House) -> Answer:
    """Raises TenantryError."""
    if scope["method"] == "OPTIONS":
        return Answer(200, dict(_PREFLIGHT), [])
    if scope["method"] != "POST":
        raise _WrongMethod("only POST is possible here")
    target, options = read_target(headers), read_options(headers)
    claim = Claim(target.endpoint, target.role, scope["client"][0])
    login, keys = await _admit(claim, target.password, house)
    traffic = _Traffic()
    with house.meter.session(claim.endpoint, traffic):
        request = await _read(receive, room, traffic, house)
        task = _Task(claim, Kind.of(login, target.parameters), keys, request, options, room)
        work = asyncio.ensure_future(_work(task, house))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _ClientGone("the client went away while its statements ran")
            parts = work.result()
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        traffic.bytes_out = sum(len(part) for part in parts)
    return Answer(200, echoed(headers) if request.batch else {}, parts)


async def _admit(claim: Claim, password: str, house: House) -> tuple[Login, scram.ClientKeys]:
    with house.limits.handshake(network_of(claim.address)):
        try:
            async with asyncio.timeout(house.settings.handshake_seconds):
                login, keys = await authentication.by_password(claim, password, house)
        except TimeoutError as error:
            raise Unavailable(
                "a login over HTTP took too long", client_text="the server is overloaded, try again"
            ) from error
    if login.refusal is not None:
        raise refusals.turned_away(login)
    return login, keys


async def _read(receive: Receive, room: Room, traffic: _Traffic, house: House) -> Request:
    """Raises InvalidInput, LimitReached, _ClientGone."""
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(house.settings.sql_body_seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone("the client went away before its body was read")
                part: bytes = message.get("body", b"")
                traffic.bytes_in += len(part)
                if len(body) + len(part) > house.settings.sql_request_bytes_max:
                    raise _BodyTooLarge(f"request is too large (max is {house.settings.sql_request_bytes_max} bytes)")
                room.hold(len(part))
                body += part
                more = bool(message.get("more_body"))
    except TimeoutError as error:
        raise _BodyTooSlow(f"the body took longer than {house.settings.sql_body_seconds:g} seconds") from error
    if len(body) < LARGE_BODY_BYTES:
        return _parse(bytes(body), house.settings.sql_queries_max)
    return await asyncio.to_thread(_parse, bytes(body), house.settings.sql_queries_max)


def _parse(body: bytes, queries_max: int) -> Request:
    request = read_body(body, queries_max)
    statements.check(request)
    return request


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _work(task: _Task, house: House) -> list[bytes]:
    """Runs the statements; the body of the answer in parts. Raises TenantryError."""
    for attempt in range(1, _LOGIN_ATTEMPTS_MAX + 1):
        async with house.leases.hold(task.claim.endpoint, house.settings.wake_seconds) as shared:
            try:
                server = await house.pool.obtain(task.kind, partial(_open, task, shared, house))
            except upstream.NotUp:
                house.leases.renounce(shared)
                if attempt == _LOGIN_ATTEMPTS_MAX:
                    raise
                continue
            try:
                return await _run(server, task, house)
            except Unavailable:
                house.leases.renounce(shared)
                raise
    raise AssertionError("the loop ends by return or raise")


async def _open(task: _Task, shared: Shared, house: House) -> Server:
    """Logs in to the instance. Raises NotUp, Rejected, Unavailable."""
    try:
        async with asyncio.timeout(house.settings.wake_seconds):
            greeting = await upstream.log_in(shared.upstream.socket_path, dict(task.kind.parameters), task.keys)
    except TimeoutError as error:
        raise Unavailable(
            f"the instance did not answer a login in {house.settings.wake_seconds:g} seconds",
            client_text="the database did not get ready in time, try again",
        ) from error
    except upstream.Rejected as error:
        if error.sqlstate in authentication.STALE:
            # The instance knows another password than the cell remembers: the instance is right.
            await authentication.tell_cell(task.claim, house)
        raise
    return Server(
        kind=task.kind,
        conn=greeting.conn,
        target=Target(shared.upstream.socket_path, greeting.pid, greeting.key),
        greeting=greeting.before_key + greeting.after_key,
        opened_at=asyncio.get_running_loop().time(),
    )


async def _run(server: Server, task: _Task, house: House) -> list[bytes]:
    try:
        async with _cancelled_after(server.target, house):
            results, status = await statements.run(server.conn, task.request, task.options, task.room)
    except StatementFailed as error:
        if error.status is None:
            house.pool.discard(server)
        else:
            house.pool.give_back(server, error.status)
        raise
    except BaseException:
        house.pool.discard(server)
        raise
    house.pool.give_back(server, status)
    return batch_parts(results) if task.request.batch else results[0].parts()


@asynccontextmanager
async def _cancelled_after(target: Target, house: House) -> AsyncGenerator[None]:
    """Cancels the statement on the server when the block takes too long, or nobody wants its answer any more."""
    try:
        async with asyncio.timeout(house.settings.sql_seconds):
            yield
    except (TimeoutError, asyncio.CancelledError) as error:
        house.tasks.start(cancel.send(target), "cancel")
        if isinstance(error, TimeoutError):
            raise Refusal(
                refusals.QUERY_CANCELED,
                f"canceling statement: it took longer than {house.settings.sql_seconds:g} seconds",
                next_step="statements that take long are for connections that stay: use a Postgres driver",
            ) from error
        raise


def _refusal(error: TenantryError, scope: Scope) -> Answer:
    """What the client is told."""
    match error:
        case StatementFailed():
            body: dict[str, object] = dict(error_body(error.error))
            status = 400
        case upstream.Rejected():
            body = dict(error_body(wire.parse_error(error.response[5:])))
            status = 400
        case _:
            known = isinstance(error, Refusal | wire.ProtocolViolation | InvalidInput)
            body = dict(
                error_body(
                    {
                        "M": error.message if known else error.client_text,
                        "C": refusals.sqlstate_of(error),
                        "S": "FATAL",
                        **({"H": error.next_step} if known and error.next_step else {}),
                    }
                )
            )
            status = 400 if isinstance(error, Refusal) else error.http_status
    headers: dict[str, str] = {}
    if isinstance(error, LimitReached | Unavailable) and not isinstance(error, upstream.Rejected):
        headers["retry-after"] = str(RETRY_SECONDS)
    if isinstance(error, _WrongMethod):
        headers["allow"] = _PREFLIGHT["allow"]
    if isinstance(error, _BodyTooLarge | _BodyTooSlow):
        headers["connection"] = "close"  # What is left of the body is not worth reading.
    level = _log.info if status < 500 or error.blame == "client" else _log.warning
    level("a request over HTTP was refused", status=status, sqlstate=body["code"], reason=error.message)
    return Answer(status, headers, [json.dumps(body, ensure_ascii=False).encode()])
