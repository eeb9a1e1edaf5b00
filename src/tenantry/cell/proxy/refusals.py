"""Why a client is turned away, and the words in which it is told."""

from __future__ import annotations

from typing import Final

from tenantry.cell.proxy.ports import Login
from tenantry.errors import Forbidden, LimitReached, NotSupported, TenantryError, Unavailable
from tenantry.postgres import wire

CONNECTION_REJECTED: Final = "08004"
PROTOCOL_VIOLATION: Final = "08P01"
NOT_SUPPORTED: Final = "0A000"
INVALID_AUTHORIZATION: Final = "28000"
WRONG_PASSWORD: Final = "28P01"  # noqa: S105 - an SQLSTATE
TOO_MANY_CONNECTIONS: Final = "53300"
PROGRAM_LIMIT: Final = "54000"
QUERY_CANCELED: Final = "57014"
ADMIN_SHUTDOWN: Final = "57P01"
CANNOT_CONNECT_NOW: Final = "57P03"
INTERNAL_ERROR: Final = "XX000"


class Refusal(TenantryError):
    """The door turns a client away. The message is for the client as well; ``next_step`` is the hint."""

    blame = "client"
    http_status = 403
    code = "REFUSED"

    def __init__(self, sqlstate: str, message: str, *, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step, sqlstate=sqlstate)
        self.sqlstate = sqlstate


def sqlstate_of(error: TenantryError) -> str:
    """The five characters by which a client's code tells errors apart."""
    match error:
        case Refusal() | wire.ProtocolViolation():
            return error.sqlstate
        case LimitReached():
            return TOO_MANY_CONNECTIONS
        case Unavailable():
            return CANNOT_CONNECT_NOW
        case NotSupported():
            return NOT_SUPPORTED
        case Forbidden():
            return INVALID_AUTHORIZATION
        case _:
            return INTERNAL_ERROR


def error_response(error: TenantryError) -> bytes:
    """The message that ends a connection; it says no more than ``client_text`` and, if ours, the hint."""
    if isinstance(error, Refusal | wire.ProtocolViolation):
        return wire.error_response(error.sqlstate, error.message, hint=error.next_step)
    return wire.error_response(sqlstate_of(error), error.client_text)


def wrong_password(role: str) -> Refusal:
    """The same for a wrong password, an unknown role and an unknown endpoint, to the byte."""
    return Refusal(
        WRONG_PASSWORD,
        f'password authentication failed for user "{role}"',
        next_step="check the password, the endpoint, and whether the project admits connections from your address",
    )


def turned_away(login: Login) -> Refusal:
    """Why somebody who has proved a password may not come in."""
    assert login.refusal is not None
    return Refusal(login.refusal_sqlstate, login.refusal, next_step=login.refusal_hint)


def shutting_down() -> bytes:
    return wire.error_response(ADMIN_SHUTDOWN, "terminating connection: the server is shutting down")
