"""What ``/sql`` answers: results and errors as JSON, in the shapes of Neon's serverless driver. Nothing here waits."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from json.encoder import encode_basestring  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] - the stubs leave it out
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.postgres.queries import Column, parse_data_row

_quote: Final[Callable[[str], str]] = encode_basestring
SLICE: Final = 64 * 1024
"""A long text is worked off in such parts: bytes or characters."""
_FIELDS: Final[Mapping[str, str]] = {
    "message": "M", "code": "C", "detail": "D", "hint": "H", "position": "P", "internalPosition": "p",
    "internalQuery": "q", "severity": "S", "where": "W", "table": "t", "column": "c", "schema": "s", "dataType": "d",
    "constraint": "n", "file": "F", "line": "L", "routine": "R",
}  # fmt: skip
"""The names of an error's fields, and their letters in the protocol."""


def error_body(fields: Mapping[str, str]) -> dict[str, str | None]:
    """The body for an ErrorResponse's fields, by their letters."""
    return {name: fields.get(letter) for name, letter in _FIELDS.items()}


def quote(text: str) -> str:
    """``text`` as a JSON string."""
    return _quote(text)


class Result:
    """One statement's result, written row by row."""

    def __init__(self, *, raw_text: bool, array_mode: bool) -> None:
        self._raw_text = raw_text
        self._array_mode = array_mode
        self._head = '{"fields":[],"rows":['
        self._rows: list[bytes] = []
        """In parts to be joined."""
        self._tail = b""
        self._writers: list[Callable[[str], str]] = []
        self._names: list[str | None] = []
        """In object mode, how each value begins; None for one whose name comes again."""

    def columns(self, columns: list[Column]) -> int:
        """Takes the description that comes before the rows; says how many bytes it adds."""
        fields = [
            {
                "name": column.name,
                "dataTypeID": column.type,
                "tableID": column.table,
                "columnID": column.number,
                "dataTypeSize": column.type_size,
                "dataTypeModifier": column.type_modifier,
                "format": "text",
            }
            for column in columns
        ]
        self._head = f'{{"fields":{json.dumps(fields, ensure_ascii=False, separators=(",", ":"))},"rows":['
        self._writers = [quote if self._raw_text else _writer(column.type) for column in columns]
        if not self._array_mode:
            last = {column.name: number for number, column in enumerate(columns)}
            self._names = [
                f"{quote(column.name)}:" if last[column.name] == number else None
                for number, column in enumerate(columns)
            ]
        return len(self._head)

    def row(self, body: bytes) -> int:
        """Adds a row; says how many bytes it adds. Raises InvalidInput for a value that no JSON can hold."""
        try:
            texts = [
                "null" if value is None else write(value.decode())
                for value, write in zip(parse_data_row(body), self._writers, strict=True)
            ]
        except UnicodeDecodeError:
            raise _not_text() from None
        if self._array_mode:
            line = f"[{','.join(texts)}]"
        else:
            pairs = zip(self._names, texts, strict=True)
            line = f"{{{','.join([name + text for name, text in pairs if name is not None])}}}"
        encoded = line.encode()
        if self._rows:
            self._rows.append(b",")
        self._rows.append(encoded)
        return len(encoded) + 1

    def large_row(self, body: memoryview) -> Iterator[int]:
        """The same part by part, for one that is too large to be copied around; says what each part adds."""
        if self._rows:
            yield self._add(b",")
        yield self._add(b"[" if self._array_mode else b"{")
        first = True
        names: Sequence[str | None] = [""] * len(self._writers) if self._array_mode else self._names
        for name, value, write in zip(names, parse_data_row(body), self._writers, strict=True):
            if name is None:
                continue
            yield self._add(name.encode() if first else f",{name}".encode())
            first = False
            if value is None:
                yield self._add(b"null")
            elif write is quote or write is _as_it_is:
                yield from map(self._add, _slices(value, quoted=write is quote))
            else:
                try:
                    text = str(value, "utf-8")
                except UnicodeDecodeError:
                    raise _not_text() from None
                parts = write.parts(text) if isinstance(write, _Array) else (write(text),)
                yield from (self._add(part.encode()) for part in parts)
        yield self._add(b"]" if self._array_mode else b"}")

    def _add(self, part: bytes) -> int:
        self._rows.append(part)
        return len(part)

    def complete(self, command: str, count: int | None) -> None:
        """The command tag, after the last row."""
        mode = "true" if self._array_mode else "false"
        self._tail = f'],"command":{quote(command)},"rowCount":{json.dumps(count)},"rowAsArray":{mode}}}'.encode()

    def parts(self) -> list[bytes]:
        """The result as JSON, in parts to be joined."""
        return [self._head.encode(), *self._rows, self._tail]


def _slices(value: memoryview, *, quoted: bool) -> Iterator[bytes]:
    """A long text as JSON, as a string or as it is, in parts."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    if quoted:
        yield b'"'
    for at in range(0, len(value), SLICE):
        try:
            text = decoder.decode(bytes(value[at : at + SLICE]), at + SLICE >= len(value))
        except UnicodeDecodeError:
            raise _not_text() from None
        yield (_quote(text)[1:-1] if quoted else text).encode()
    if quoted:
        yield b'"'


def _not_text() -> InvalidInput:
    # Without the cause, which would repeat the value.
    return InvalidInput("a value of the result is not UTF-8", next_step="encode it in SQL")


def batch_parts(results: list[Result]) -> list[bytes]:
    parts = [b'{"results":[']
    for number, result in enumerate(results):
        if number:
            parts.append(b",")
        parts += result.parts()
    parts.append(b"]}")
    return parts


# ---------------------------------------------------------------------------------------------------------
# Values by their types, where the client did not ask for raw text


def _boolean(text: str) -> str:
    return "true" if text == "t" else "false"


def _as_it_is(text: str) -> str:
    return text


def _float(text: str) -> str:
    # JSON has no word for the others.
    return quote(text) if text in {"NaN", "Infinity", "-Infinity"} else text


_SCALARS: Final[Mapping[int, Callable[[str], str]]] = {
    16: _boolean,
    21: _as_it_is,
    23: _as_it_is,
    700: _float,
    701: _float,
    114: _as_it_is,
    3802: _as_it_is,
}
"""bool, int2, int4, float4, float8, json and jsonb; int8 and numeric would lose digits in a client's numbers."""
_ELEMENTS: Final[Mapping[int, int]] = {
    1000: 16, 1001: 17, 1002: 18, 1003: 19, 1016: 20, 1005: 21, 1007: 23, 1008: 24, 1009: 25, 1028: 26, 199: 114,
    143: 142, 1017: 600, 1021: 700, 1022: 701, 791: 790, 1040: 829, 775: 774, 1041: 869, 651: 650, 1014: 1042,
    1015: 1043, 1182: 1082, 1183: 1083, 1115: 1114, 1185: 1184, 1187: 1186, 1270: 1266, 1561: 1560, 1563: 1562,
    1231: 1700, 2951: 2950, 3807: 3802, 3905: 3904, 3907: 3906, 3909: 3908, 3911: 3910, 3913: 3912, 3927: 3926,
}  # fmt: skip
"""Arrays that are always there, and the types of their elements. An array of box has another delimiter."""
_ARRAY_TOKEN: Final = re.compile(r'\s*(?:(?P<mark>[{},])|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^{},"]+))', re.DOTALL)
_MARKS: Final = {"{": "[", "}": "]", ",": ","}
_ITEMS_PER_PART: Final = 256
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def _writer(type_: int) -> Callable[[str], str]:
    element = _ELEMENTS.get(type_)
    if element is None:
        return _SCALARS.get(type_, quote)
    return _Array(_SCALARS.get(element, quote))


class _Array:
    """Writes an array's text as JSON. What is written of its bounds is left out, as JSON has no word for it."""

    def __init__(self, write: Callable[[str], str]) -> None:
        self._write = write

    def __call__(self, text: str) -> str:
        return "".join(self.parts(text))

    def parts(self, text: str) -> Iterator[str]:
        """The same a few items at a time."""
        at = text.index("=") + 1 if text.startswith("[") else 0
        parts: list[str] = []
        while at < len(text):
            token = _ARRAY_TOKEN.match(text, at)
            if token is None:
                raise InvalidInput("an array of the result does not read")
            at = token.end()
            mark, quoted, bare = token["mark"], token["quoted"], token["bare"]
            if mark is not None:
                parts.append(_MARKS[mark])
            elif quoted is not None:
                parts.append(self._write(_ESCAPED.sub(r"\1", quoted)))
            else:
                value = bare.strip()
                parts.append("null" if value == "NULL" else self._write(value))
            if len(parts) >= _ITEMS_PER_PART:
                yield "".join(parts)
                parts = []
        yield "".join(parts)


def array(text: str) -> str:
    """A text array as JSON."""
    return _Array(quote)(text)
