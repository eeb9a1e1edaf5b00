"""Statements on a server connection, all of a request at once, and their rows into results.

Everything is sent before the first answer is awaited, with one Sync at the end: a batch costs one round trip, and
whatever fails ends it there. The answer is read in slices, so that a long one holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

from tenantry.cell.proxy.conn import Conn, PeerGone
from tenantry.cell.proxy.limits import Room
from tenantry.cell.proxy.refusals import NOT_SUPPORTED, Refusal
from tenantry.cell.proxy.sql_answer import Result
from tenantry.cell.proxy.sql_request import Options, Request
from tenantry.errors import InvalidInput, TenantryError, Unavailable
from tenantry.postgres import queries, wire

READ_BYTES: Final = 64 * 1024
"""At a time; then others have their turn."""
SEND_AT_ONCE_BYTES: Final = 64 * 1024
"""What fits into the socket's buffer: more is sent while the answer is read, or both sides would wait."""
LARGE_ROW_BYTES: Final = 256 * 1024
"""From this size on a row is written part by part, and others have their turn in between."""
_PARTS_PER_TURN: Final = 4
_HEADER_BYTES: Final = 5


class StatementFailed(TenantryError):
    """Postgres refused a statement; ``error`` has the ErrorResponse's fields by their letters."""

    blame = "client"
    http_status = 400
    code = "STATEMENT_FAILED"

    def __init__(self, error: dict[str, str], status: bytes | None) -> None:
        super().__init__("a statement failed", sqlstate=error.get("C", ""))
        self.error = error
        self.status = status
        """The transaction's; None where the connection has ended."""


async def run(conn: Conn, request: Request, options: Options, room: Room) -> tuple[list[Result], bytes]:
    """The results, and the transaction's status.

    Raises StatementFailed, after which the connection can mostly be reset; after any other error it is to be closed:
    Unavailable, ProtocolViolation, AnswerTooLarge and LimitReached from ``room``, InvalidInput, Refusal for COPY.
    """
    results = [
        Result(
            raw_text=options.raw_text,
            array_mode=options.array_mode if statement.array_mode is None else statement.array_mode,
        )
        for statement in request.statements
    ]
    messages = _messages(request, options)
    first = b"".join(_up_to(messages, SEND_AT_ONCE_BYTES))
    await conn.send(first)
    rest = asyncio.ensure_future(_send_all(conn, messages))
    try:
        status = await _read(conn, results, request.batch, room)
        await rest
        return results, status
    finally:
        if not rest.done():
            rest.cancel()
            await asyncio.wait([rest])


def check(request: Request) -> None:
    """Raises InvalidInput where a statement cannot be sent, before anything is. Blocks for large requests."""
    for statement in request.statements:
        queries.parse(statement.sql)
        queries.bind(statement.parameters)


def _messages(request: Request, options: Options) -> Iterator[bytes]:
    if request.batch:
        yield queries.parse(options.begin) + queries.bind([]) + queries.EXECUTE
    for statement in request.statements:
        yield queries.parse(statement.sql)
        yield queries.bind(statement.parameters)
        yield queries.DESCRIBE + queries.EXECUTE
    if request.batch:
        yield queries.parse("COMMIT") + queries.bind([]) + queries.EXECUTE
    yield queries.SYNC


def _up_to(messages: Iterator[bytes], size: int) -> Iterator[bytes]:
    for message in messages:
        yield message
        size -= len(message)
        if size <= 0:
            return


async def _send_all(conn: Conn, messages: Iterator[bytes]) -> None:
    for message in messages:
        await conn.send(message)


async def _read(conn: Conn, results: Sequence[Result], batch: bool, room: Room) -> bytes:
    """Reads to ReadyForQuery; its status."""
    # A batch is framed by two statements of ours, whose answers nobody sees.
    expected: list[Result | None] = [None, *results, None] if batch else list(results)
    at = 0
    failed: dict[str, str] | None = None
    inbox = conn.inbox
    start = read = awaited = 0
    while True:
        end = wire.message_end(inbox, start, bytes_max=wire.MESSAGE_BYTES_MAX)
        if end is None:
            if not awaited and len(inbox) >= start + _HEADER_BYTES:
                awaited = wire.message_length(inbox, start)
                room.must_hold(awaited)
                room.hold(awaited)
            del inbox[:start]
            start, before = 0, len(inbox)
            try:
                await conn.fill(READ_BYTES)
            except PeerGone as error:
                if failed is not None:
                    raise StatementFailed(failed, None) from error  # Its last words.
                raise Unavailable(
                    "the instance closed the connection", client_text="the database closed the connection, try again"
                ) from error
            read += len(inbox) - before
            if read >= READ_BYTES:
                read = 0
                await asyncio.sleep(0)
            continue
        kind = bytes(inbox[start : start + 1])
        with memoryview(inbox)[start + _HEADER_BYTES : end] as view:
            if kind == b"D" and len(view) >= LARGE_ROW_BYTES:
                for number, size in enumerate(_now(expected, at).large_row(view)):
                    room.take(size)
                    if number % _PARTS_PER_TURN == 0:
                        await asyncio.sleep(0)
                body = b""
            else:
                body = bytes(view)
        start = end
        if awaited:
            room.let_go(awaited)
            awaited = 0
        match kind:
            case b"D":
                if body:
                    room.take(_now(expected, at).row(body))
            case b"T":
                room.take(_now(expected, at).columns(queries.parse_row_description(body)))
            case b"C" | b"I":
                command, count = queries.parse_command_tag(body)
                result = expected[at] if at < len(expected) else None
                if result is not None:
                    result.complete(command, count)
                at += 1
            case b"E":
                failed = failed or wire.parse_error(body)
            case b"Z":
                del inbox[:start]
                if failed is not None:
                    raise StatementFailed(failed, body)
                if at != len(expected):
                    raise wire.ProtocolViolation("the instance answered fewer statements than it was sent")
                return body
            case b"1" | b"2" | b"n" | b"N" | b"S" | b"A":
                continue
            case b"G" | b"H" | b"W":
                raise Refusal(
                    NOT_SUPPORTED, "COPY is not possible over HTTP", next_step="connect with a Postgres driver"
                )
            case other:
                raise wire.ProtocolViolation(f"message {other!r} in an answer")


def _now(expected: Sequence[Result | None], at: int) -> Result:
    result = expected[at] if at < len(expected) else None
    if result is None:
        raise InvalidInput("rows where none can be")
    return result
