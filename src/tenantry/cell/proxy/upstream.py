"""Logging in to an awake instance over its Unix socket, with keys in place of a password."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tenantry.cell.proxy.conn import Conn, PeerGone, connect_unix
from tenantry.errors import Unavailable
from tenantry.postgres import scram, wire

MESSAGE_BYTES_MAX: Final = 256 * 1024
"""Of one message before the session is ready; a login trigger's notice may be long."""
GREETING_BYTES_MAX: Final = 1024 * 1024
"""Of all of them."""
_ERROR, _KEY, _READY = b"EKZ"


class Rejected(Unavailable):
    """The instance turned the login away; ``response`` is its own ErrorResponse, fit for the client."""

    code = "REJECTED"

    def __init__(self, response: bytes, sqlstate: str) -> None:
        super().__init__("the instance rejected the login", sqlstate=sqlstate)
        self.response = response
        self.sqlstate = sqlstate


class NotUp(Unavailable):
    """Nobody answers on the instance's socket, or it is starting or stopping: a new wake may help."""

    code = "NOT_UP"


@dataclass(frozen=True, slots=True)
class Greeting:
    """A ready session, and what its instance has said that the client should hear."""

    conn: Conn
    before_key: bytes
    after_key: bytes
    pid: int
    key: bytes = field(repr=False)


async def log_in(socket_path: str, parameters: Mapping[str, str], keys: scram.ClientKeys) -> Greeting:
    """Opens a session. The caller bounds the wait.

    Raises NotUp, Rejected, or Unavailable when the instance asks for anything but SCRAM: letting a client
    through on trust would make this door the only lock.
    """
    try:
        conn = await connect_unix(socket_path)
    except PeerGone as error:
        raise NotUp(error.message, client_text="the database is not available, try again") from error
    try:
        await conn.send(wire.startup(parameters))
        await _authenticate(conn, keys)
        return await _greeting(conn)
    except PeerGone as error:
        conn.close()
        raise NotUp(
            "the instance closed during the login", client_text="the database is not available, try again"
        ) from error
    except wire.ProtocolViolation as error:
        conn.close()
        raise _unexpected(error.message) from error
    except BaseException:
        conn.close()
        raise


async def _authenticate(conn: Conn, keys: scram.ClientKeys) -> None:
    exchange = scram.ClientExchange(keys)
    verified = False
    while True:
        message = await conn.message(MESSAGE_BYTES_MAX)
        if message.kind == b"E":
            raise _rejection(message)
        if message.kind != b"R":
            raise _unexpected(f"message {message.kind!r} during authentication")
        code, data = wire.parse_authentication(message.body)
        match code:
            case wire.AUTH_SASL if scram.MECHANISM in wire.parse_mechanisms(data):
                await conn.send(wire.sasl_initial_response(scram.MECHANISM, exchange.first()))
            case wire.AUTH_SASL_CONTINUE:
                await conn.send(wire.sasl_response(exchange.final(data)))
            case wire.AUTH_SASL_FINAL:
                exchange.verify(data)
                verified = True
            case wire.AUTH_OK if verified:
                return
            case _:
                raise _unexpected(f"authentication request {code}")


async def _greeting(conn: Conn) -> Greeting:
    """Reads over a dozen messages without taking them apart: only the key and the end matter here."""
    inbox = conn.inbox
    start = 0
    key_start = key_end = 0
    while start < GREETING_BYTES_MAX:
        end = wire.message_end(inbox, start, bytes_max=MESSAGE_BYTES_MAX)
        if end is None:
            await conn.fill()
            continue
        kind = inbox[start]
        if kind == _ERROR:
            raise _rejection(wire.Message(b"E", bytes(inbox[start + 5 : end])))
        if kind == _KEY:
            key_start, key_end = start, end
        start = end
        if kind == _READY:
            pid, key = wire.parse_backend_key_data(bytes(inbox[key_start + 5 : key_end])) if key_end else (0, b"")
            before, after = bytes(inbox[:key_start]), bytes(inbox[key_end:end])
            del inbox[:end]
            return Greeting(conn, before, after, pid, key)
    raise _unexpected("no end of the greeting")


def _rejection(message: wire.Message) -> Unavailable:
    sqlstate = wire.parse_error(message.body).get("C", "")
    if sqlstate == "57P03":
        return NotUp("the instance is starting or stopping", client_text="the database is starting, try again")
    return Rejected(message.encode(), sqlstate)


def _unexpected(what: str) -> Unavailable:
    return Unavailable(
        f"the instance answered a login with something unexpected: {what}",
        next_step="check that its pg_hba.conf asks for scram-sha-256",
        client_text="the database cannot be logged in to",
    )
