"""What an HTTP client asks of ``/sql``: headers and body as values. Nothing here waits or decides who may.

The contract is that of Neon's serverless driver: one query or a batch as JSON, the connection string in a header.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from tenantry.cell.proxy.refusals import INVALID_AUTHORIZATION, Refusal
from tenantry.cell.proxy.routing import route, take_operator
from tenantry.errors import InvalidInput
from tenantry.neon.ids import EndpointId
from tenantry.postgres.dsn import parse_uri

CONNECTION_STRING: Final = "neon-connection-string"
RAW_TEXT: Final = "neon-raw-text-output"
ARRAY_MODE: Final = "neon-array-mode"
ISOLATION: Final = "neon-batch-isolation-level"
READ_ONLY: Final = "neon-batch-read-only"
DEFERRABLE: Final = "neon-batch-deferrable"
HEADERS: Final = (CONNECTION_STRING, RAW_TEXT, ARRAY_MODE, ISOLATION, READ_ONLY, DEFERRABLE)
NUMBERS_MAX: Final = 500_000
"""Numbers of one body: each costs a thousand times what a character of a string does."""
_PASSED_ON: Final = frozenset({"application_name", "options"})
"""Of a connection string's parameters, those that are the server's; the others are for drivers."""
_LEVELS: Final[Mapping[str, str]] = {
    "ReadUncommitted": "READ UNCOMMITTED",
    "ReadCommitted": "READ COMMITTED",
    "RepeatableRead": "REPEATABLE READ",
    "Serializable": "SERIALIZABLE",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Who asks, and for which database."""

    endpoint: EndpointId
    role: str
    password: str = field(repr=False)
    parameters: dict[str, str]
    """Of the startup packet, role and database among them."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to answer, and what a batch's transaction is to be."""

    raw_text: bool
    array_mode: bool
    isolation: str | None
    """As SQL has it."""
    read_only: bool
    deferrable: bool

    @property
    def begin(self) -> str:
        """The statement that begins a batch."""
        words = ["BEGIN"]
        if self.isolation:
            words.append(f"ISOLATION LEVEL {self.isolation}")
        if self.read_only:
            words.append("READ ONLY")
        if self.deferrable:
            words.append("DEFERRABLE")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Statement:
    sql: str
    parameters: list[str | None]
    array_mode: bool | None
    """None: as the request's headers say."""


@dataclass(frozen=True, slots=True)
class Request:
    statements: list[Statement]
    batch: bool
    """They are one transaction, and the answer is a list."""


def read_target(headers: Mapping[str, str]) -> Target:
    """Raises Refusal and InvalidInput, neither of which repeats the connection string."""
    given = headers.get(CONNECTION_STRING)
    if given is None:
        raise InvalidInput(
            "the request has no connection string", next_step=f"send it in the header {CONNECTION_STRING}"
        )
    if "authorization" in headers:
        raise Refusal(
            INVALID_AUTHORIZATION,
            "tokens are not accepted",
            next_step="leave the Authorization header out, and put the password into the connection string",
        )
    dsn = parse_uri(given)
    if dsn.password is None:
        raise Refusal(INVALID_AUTHORIZATION, "the connection string has no password")
    parameters = {
        "user": dsn.role,
        "database": dsn.database,
        "client_encoding": "UTF8",
        **{name: value for name, value in dsn.parameters.items() if name in _PASSED_ON},
    }
    if any("\0" in value for value in (*parameters.values(), dsn.password)):
        raise InvalidInput("the connection string holds the character U+0000")
    # An operator has no business here, and its token none in an instance.
    _, parameters = take_operator(parameters)
    way = route(parameters, dsn.host if dsn.host.startswith("ep-") else headers.get("host"))
    return Target(way.endpoint, dsn.role, dsn.password, way.parameters)


def read_options(headers: Mapping[str, str]) -> Options:
    """Raises InvalidInput. Whatever is not ``true`` is false, as in Neon."""
    level = headers.get(ISOLATION)
    if level is not None and level not in _LEVELS:
        raise InvalidInput("invalid isolation level", next_step=f"one of {', '.join(_LEVELS)}")
    return Options(
        raw_text=headers.get(RAW_TEXT) == "true",
        array_mode=headers.get(ARRAY_MODE) == "true",
        isolation=None if level is None else _LEVELS[level],
        read_only=headers.get(READ_ONLY) == "true",
        deferrable=headers.get(DEFERRABLE) == "true",
    )


def echoed(headers: Mapping[str, str]) -> dict[str, str]:
    """What the answer to a batch repeats of its headers."""
    return {
        name: headers[name] for name in (ISOLATION, READ_ONLY, DEFERRABLE) if headers.get(name) in {"true", *_LEVELS}
    }


# ---------------------------------------------------------------------------------------------------------
# The body


class _Number(str):
    """A JSON number as it was written: no digit is lost on the way to Postgres."""

    __slots__ = ()


class _Numbers:
    """Makes them, up to a bound. Written in Python, so that a thread that parses lets the others run."""

    def __init__(self) -> None:
        self._left = NUMBERS_MAX

    def __call__(self, text: str) -> _Number:
        self._left -= 1
        if self._left < 0:
            raise InvalidInput(f"the body has more than {NUMBERS_MAX} numbers")
        return _Number(text)


def _no_constant(text: str) -> None:
    raise InvalidInput(f"{text} is no JSON")


def read_body(body: bytes, queries_max: int) -> Request:
    """Raises InvalidInput. Blocks for large bodies."""
    numbers = _Numbers()
    try:
        document: object = json.loads(
            body.decode(), parse_int=numbers, parse_float=numbers, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        # The cause repeats a part of the body.
        raise InvalidInput("the request's body is not JSON") from None
    given = _object(document, "the body")
    if "query" in given:
        return Request([_statement(given)], batch=False)
    if "queries" not in given:
        raise InvalidInput("the body has neither query nor queries")
    queries = _list(given["queries"], "queries")
    if len(queries) > queries_max:
        raise InvalidInput(f"the batch has {len(queries)} queries, and at most {queries_max} are possible")
    return Request([_statement(_object(query, "a query")) for query in queries], batch=True)


def _statement(given: dict[str, object]) -> Statement:
    sql, mode = given.get("query"), given.get("arrayMode")
    if not isinstance(sql, str) or isinstance(sql, _Number):
        raise InvalidInput("query is not a string")
    if mode is not None and not isinstance(mode, bool):
        raise InvalidInput("arrayMode is neither true nor false")
    parameters = given.get("params")
    try:
        values = [] if parameters is None else [_parameter(value) for value in _list(parameters, "params")]
    except RecursionError:
        raise InvalidInput("a parameter is nested too deeply") from None
    return Statement(sql, values, mode)


def _object(value: object, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is not an object")
    return cast(dict[str, object], value)  # JSON has no keys but strings.


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise InvalidInput(f"{what} is not a list")
    return cast(list[object], value)  # All that a checker wants to know about its items.


def _parameter(value: object) -> str | None:
    """A JSON value as Postgres's text: lists become arrays, objects JSON."""
    match value:
        case None:
            return None
        case str():
            return value
        case list():
            return _array(cast(list[object], value))
        case _:
            return _json(value)


def _array(values: list[object]) -> str:
    return "{" + ",".join(_item(value) for value in values) + "}"


def _item(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case list():
            return _array(cast(list[object], value))
        case _Number():
            return value
        case str():
            return _quoted(value)
        case bool():
            return "true" if value else "false"
        case _:
            return _quoted(_json(value))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _json(value: object) -> str:
    """JSON again, each number as it was written."""
    match value:
        case _Number():
            return value
        case dict():
            members = cast(dict[str, Any], value).items()
            return (
                "{" + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{_json(item)}" for name, item in members) + "}"
            )
        case list():
            return "[" + ",".join(_json(item) for item in cast(list[object], value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)
