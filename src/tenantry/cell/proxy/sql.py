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
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from tenantry.cell.proxy import authentication, cancel, refusals, statements, upstream
from tenantry.cell.proxy.authentication import Claim
from tenantry.cell.proxy.borrow import borrow
from tenantry.cell.proxy.cancel import Target
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.limits import AnswerTooLarge, Room, network_of
from tenantry.cell.proxy.pool import Kind, servers_max
from tenantry.cell.proxy.ports import Login
from tenantry.cell.proxy.refusals import Refusal
from tenantry.cell.proxy.routing import with_options
from tenantry.cell.proxy.sql_answer import batch_parts, error_body
from tenantry.cell.proxy.sql_request import HEADERS, Options, Request, echoed, read_body, read_options, read_target
from tenantry.cell.proxy.statements import StatementFailed
from tenantry.errors import Defect, InvalidInput, LimitReached, TenantryError, Unavailable
from tenantry.neon.errors import BodyTooLarge, BodyTooSlow, MethodNotAllowed
from tenantry.postgres import scram, wire

PATH: Final = "/sql"
LARGE_BODY_BYTES: Final = 64 * 1024
"""From this size on a body is read in a thread."""
WRITE_BYTES: Final = 64 * 1024
"""Of an answer at a time."""
RETRY_SECONDS: Final = 1
_PREFLIGHT: Final[Mapping[str, str]] = {
    "allow": "OPTIONS, POST",
    "access-control-allow-headers": ", ".join(("authorization", "content-type", "neon-pool-opt-in", *HEADERS)),
    "access-control-max-age": "86400",
}

_log = structlog.get_logger("proxy.sql")


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
    servers_max: int
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
        except asyncio.CancelledError:
            # The worker's time is over. Whoever cancelled waits for this last word.
            answer = _shut_down()
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
        raise MethodNotAllowed("only POST is possible here", allow=_PREFLIGHT["allow"])
    target, options = read_target(headers), read_options(headers)
    claim = Claim(target.endpoint, target.role, scope["client"][0])
    login, keys = await _admit(claim, target.password, house)
    traffic = _Traffic()
    with house.meter.session(claim.endpoint, traffic):
        request = await _read(receive, room, traffic, house)
        bound = servers_max(login, house.settings)
        task = _Task(
            claim, Kind.of(login, with_options(target.parameters, login.options)), keys, bound, request, options, room
        )
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
                login, keys = await authentication.by_password_again(claim, password, house)
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
                    raise BodyTooLarge(f"request is too large (max is {house.settings.sql_request_bytes_max} bytes)")
                room.hold(len(part))
                body += part
                more = bool(message.get("more_body"))
    except TimeoutError as error:
        raise BodyTooSlow(f"the body took longer than {house.settings.sql_body_seconds:g} seconds") from error
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
    loan = await borrow(task.claim, task.kind, task.keys, house, task.servers_max)
    try:
        async with _cancelled_after(loan.server.target, house):
            results, status = await statements.run(loan.server.conn, task.request, task.options, task.room)
    except StatementFailed as error:
        if error.status is None:
            await loan.discard()
        else:
            await loan.give_back(error.status, counted=True)
        raise
    except BaseException as error:
        await loan.discard(instance_gone=isinstance(error, Unavailable))
        raise
    await loan.give_back(status, counted=True)
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
                        "C": _sqlstate(error),
                        "S": "FATAL",
                        **({"H": error.next_step} if known and error.next_step else {}),
                    }
                )
            )
            status = 400 if isinstance(error, Refusal) else error.http_status
    headers: dict[str, str] = {}
    if isinstance(error, LimitReached | Unavailable) and not isinstance(error, upstream.Rejected):
        headers["retry-after"] = str(RETRY_SECONDS)
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = _PREFLIGHT["allow"]
    if isinstance(error, BodyTooSlow):
        headers["connection"] = "close"
    level = _log.debug if error.blame == "client" else _log.warning
    level("a request over HTTP was refused", status=status, sqlstate=body["code"], reason=error.message)
    return Answer(status, headers, [json.dumps(body, ensure_ascii=False).encode()])


def _shut_down() -> Answer:
    fields = wire.parse_error(refusals.shutting_down()[5:])
    body = json.dumps(error_body(fields)).encode()
    return Answer(503, {"connection": "close", "retry-after": str(RETRY_SECONDS)}, [body])


def _sqlstate(error: TenantryError) -> str:
    match error:
        case BodyTooLarge() | AnswerTooLarge():
            return refusals.PROGRAM_LIMIT
        case InvalidInput() if not isinstance(error, wire.ProtocolViolation):
            return refusals.PROTOCOL_VIOLATION
        case _:
            return refusals.sqlstate_of(error)
