"""The extended query protocol as bytes and values: statements with parameters in text, and rows in text.

Everything is unnamed and text. The server finds the parameters' types, and one message holds one statement: a text
of several is its error, not a way around anything. Nothing here touches a socket.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tenantry.errors import InvalidInput
from tenantry.postgres import wire

B = TypeVar("B", bytes, memoryview)

PARAMETERS_MAX: Final = 65_535
"""The protocol counts them in 16 bits."""
_UINT16: Final = struct.Struct("!H")
_INT32: Final = struct.Struct("!i")
_COLUMN: Final = struct.Struct("!IHIhiH")
_NULL: Final = _INT32.pack(-1)

DESCRIBE: Final = wire.message(b"D", b"P\0")
EXECUTE: Final = wire.message(b"E", b"\0" + _INT32.pack(0))
SYNC: Final = wire.message(b"S")


def parse(sql: str) -> bytes:
    """Raises InvalidInput for a text that the protocol cannot carry."""
    return wire.message(b"P", b"\0" + _text(sql, "the query") + b"\0" + _UINT16.pack(0))


def bind(parameters: Sequence[str | None]) -> bytes:
    """Raises InvalidInput for more parameters than the protocol can carry."""
    if len(parameters) > PARAMETERS_MAX:
        raise InvalidInput(f"a query has {len(parameters)} parameters, and at most {PARAMETERS_MAX} are possible")
    # No formats: text for every parameter and every column.
    parts = [b"\0\0", _UINT16.pack(0), _UINT16.pack(len(parameters))]
    for parameter in parameters:
        if parameter is None:
            parts.append(_NULL)
        else:
            value = _text(parameter, "a parameter")
            parts += (_INT32.pack(len(value)), value)
    parts.append(_UINT16.pack(0))
    return wire.message(b"B", b"".join(parts))


def _text(text: str, what: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        # The cause would repeat the text.
        raise InvalidInput(f"{what} holds half of a surrogate pair") from None
    if b"\0" in encoded:
        raise InvalidInput(f"{what} holds the character U+0000, which Postgres cannot store")
    return encoded


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a result; ``table`` and ``number`` are 0 where it is no table's column."""

    name: str
    table: int
    number: int
    type: int
    type_size: int
    type_modifier: int


def parse_row_description(body: bytes) -> list[Column]:
    """Raises ProtocolViolation."""
    columns: list[Column] = []
    at = 2
    try:
        for _ in range(_UINT16.unpack_from(body)[0]):
            end = body.index(b"\0", at)
            table, number, type_, size, modifier, _format = _COLUMN.unpack_from(body, end + 1)
            columns.append(Column(body[at:end].decode(), table, number, type_, size, modifier))
            at = end + 1 + _COLUMN.size
    except (ValueError, struct.error) as error:
        raise wire.ProtocolViolation("malformed row description") from error
    return columns


def parse_data_row(body: B) -> list[B | None]:
    """The values of a row; parts of ``body`` where that is a view. Raises ProtocolViolation."""
    values: list[B | None] = []
    at = 2
    try:
        for _ in range(_UINT16.unpack_from(body)[0]):
            length: int = _INT32.unpack_from(body, at)[0]
            at += 4
            if length < 0:
                values.append(None)
            else:
                values.append(body[at : at + length])
                at += length
    except struct.error as error:
        raise wire.ProtocolViolation("malformed row") from error
    if at != len(body):
        raise wire.ProtocolViolation("malformed row")
    return values


def parse_command_tag(body: bytes) -> tuple[str, int | None]:
    """What was done, and to how many rows where the command counts them: ``INSERT 0 5`` is INSERT and 5."""
    words = body.rstrip(b"\0").decode(errors="replace").split(" ")
    count = words[-1]
    return words[0], int(count) if len(words) > 1 and count.isdecimal() else None
