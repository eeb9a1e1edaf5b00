"""Sign-ups from a CSV file (RFC 4180): what is wrong with the file is told by line and column, a row by its line. Pure.

A file is refused as a whole when it cannot be read without guessing: an open quote, a column nobody knows, a row of
another length. What only one row says wrong is that row's own matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tenantry.errors import InvalidInput, TenantryError
from tenantry.fleet.tenants.create import Wish, checked_email, checked_pg_version
from tenantry.fleet.tenants.slugs import Slug, checked_slug, clean_name, slugify

COLUMNS: Final = ("name", "slug", "email", "plan", "region", "residency", "pg_version")
BYTES_MAX: Final = 64 * 2**20
ROWS_MAX: Final = 100_000
_FIELD: Final = re.compile(r'"((?:[^"]|"")*)"|([^",\r\n]*)')
_END: Final = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    line: int
    column: str | None
    """The name of the column; None where no single one is to blame."""
    slug: str | None
    name: str | None
    reason: str
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodRow:
    line: int
    wish: Wish


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    line: int
    column: int
    """Of its first character, counted from 1."""


def read_rows(content: bytes, *, defaults: Wish | None = None) -> list[GoodRow | BadRow]:
    """In the order of the file; empty lines count for nothing. ``defaults`` fills in what a row leaves out.

    Raises InvalidInput naming line and column for a file that is none.
    """
    if len(content) > BYTES_MAX:
        raise InvalidInput(f"the file has more than {BYTES_MAX // 2**20} MiB", next_step="split it")
    records = _records(_decoded(content))
    header = next(records, None)
    if header is None:
        raise InvalidInput("line 1, column 1: the file is empty", next_step=_EXAMPLE)
    columns = _columns(header)
    rows: list[GoodRow | BadRow] = []
    lines: dict[Slug, int] = {}
    for record in records:
        if len(record) != len(columns):
            end = record[-1]
            raise _malformed(
                end.line, end.column, f"the row has {len(record)} columns, and the first line has {len(columns)}"
            )
        if len(rows) == ROWS_MAX:
            raise InvalidInput(f"line {record[0].line}: the file has more than {ROWS_MAX} rows", next_step="split it")
        row = _row(dict(zip(columns, record, strict=True)), record[0].line, defaults)
        if isinstance(row, GoodRow):
            first = lines.setdefault(row.wish.slug, row.line)
            if first != row.line:
                row = BadRow(
                    line=row.line,
                    column="name",
                    slug=row.wish.slug,
                    name=row.wish.name,
                    reason=f"the slug {row.wish.slug} is that of line {first}",
                    next_step="give one of them a slug of its own in a column slug",
                )
        rows.append(row)
    return rows


_EXAMPLE: Final = f"the first line names the columns: name, and any of {', '.join(COLUMNS[1:])}"


def _row(cells: dict[str, _Cell], line: int, defaults: Wish | None) -> GoodRow | BadRow:
    said = {column: cell.text.strip() for column, cell in cells.items()}
    column = "name"

    def value(key: str, check: Callable[[str], str], default: str | None) -> str | None:
        nonlocal column
        column = key
        return check(said[key]) if said.get(key) else default

    try:
        name = clean_name(said["name"])
        slug = Slug(value("slug", checked_slug, None) or slugify(name))
        email = value("email", checked_email, None)
        plan = value("plan", str, defaults and defaults.plan)
        region = value("region", str, defaults and defaults.region)
        residency = value("residency", str, defaults and defaults.residency)
        version = value("pg_version", _major, None)
    except TenantryError as error:
        return BadRow(
            line=line,
            column=column,
            slug=said.get("slug") or None,
            name=said["name"] or None,
            reason=error.message,
            next_step=error.next_step,
        )
    default_version = None if defaults is None else defaults.pg_version
    return GoodRow(
        line=line,
        wish=Wish(
            slug=slug,
            name=name,
            email=email,
            plan=plan,
            region=region,
            residency=residency,
            pg_version=default_version if version is None else int(version),
        ),
    )


def _major(text: str) -> str:
    if not text.isascii() or not text.isdigit() or len(text) > 3:
        raise InvalidInput(f"{text!r} is not a version of Postgres, for instance 18")
    return str(checked_pg_version(int(text)))


def _columns(header: Sequence[_Cell]) -> list[str]:
    names: list[str] = []
    for cell in header:
        name = cell.text.strip().lower()
        if name not in COLUMNS:
            raise _malformed(cell.line, cell.column, f"there is no column {cell.text.strip()!r}", _EXAMPLE)
        if name in names:
            raise _malformed(cell.line, cell.column, f"the column {name} is there twice")
        names.append(name)
    if "name" not in names:
        raise _malformed(1, 1, "there is no column name", _EXAMPLE)
    return names


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before.rpartition(b"\n")[2].decode("utf-8-sig", "replace")) + 1
        raise _malformed(line, column, "this is not UTF-8 text", "save it as UTF-8") from None


def _records(text: str) -> Iterator[list[_Cell]]:
    """The rows of the file, empty lines left out."""
    place, line, began = 0, 1, 0
    record: list[_Cell] = []
    while place < len(text):
        here = _Cell("", line, place - began + 1)
        found = _FIELD.match(text, place)
        assert found is not None, "an empty field matches anything"
        quoted, bare = found.group(1), found.group(2)
        if quoted is None and text.startswith('"', place):
            raise _malformed(here.line, here.column, "the quote that opens here is never closed")
        if "\0" in found.group():
            raise _malformed(here.line, here.column, "a NUL is not text")
        record.append(_Cell(bare if quoted is None else quoted.replace('""', '"'), here.line, here.column))
        for end in _END.finditer(found.group()):
            line, began = line + 1, place + end.end()
        place = found.end()
        if text.startswith(",", place):
            place += 1
            if place == len(text):
                record.append(_Cell("", line, place - began + 1))
            continue
        end = _END.match(text, place)
        if end is None and place < len(text):
            raise _malformed(
                line, place - began + 1, "a comma or the end of the line belongs here, because of the quotes"
            )
        if any(cell.text for cell in record) or len(record) > 1:
            yield record
        record = []
        if end is not None:
            place = began = end.end()
            line += 1
    if record:
        yield record


def _malformed(
    line: int, column: int, reason: str, next_step: str = "nothing was created: mend the file"
) -> InvalidInput:
    return InvalidInput(f"line {line}, column {column}: {reason}", next_step=next_step, line=line, column=column)
