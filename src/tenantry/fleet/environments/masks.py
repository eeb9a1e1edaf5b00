"""Which columns are personal and what replaces them: decided by the declared rules and a database's columns. Pure.

A rule is an expression of SQL for one column, over the columns of its row. A column that is listed as personal and has
no rule is an error, and so is a rule for a column that no database has: a slip in a name must not let data out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import LiteralString, cast

from psycopg import sql

from tenantry.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column that holds data: of a table, a partition, or a materialized view."""

    schema: str
    table: str
    name: str
    writable: bool = True
    """False where its data follows from other columns: a generated one, one of a materialized view."""

    @property
    def dotted(self) -> str:
        return f"{self.schema}.{self.table}.{self.name}"


@dataclass(frozen=True, slots=True)
class Rules:
    """``columns``: what replaces which. ``personal``: patterns of columns that must be replaced."""

    columns: Mapping[str, str]
    personal: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in (*self.columns, *self.personal):
            if name.count(".") != 2 or not all(name.split(".")):
                raise InvalidInput(
                    f"anonymize: {name!r} is not schema.table.column", next_step="for instance public.users.email"
                )
        for name, expression in self.columns.items():
            if not expression.strip():
                raise InvalidInput(f"anonymize: {name} has an empty expression", next_step="NULL makes it empty")


@dataclass(frozen=True, slots=True)
class Mask:
    """One table's columns with what replaces them."""

    schema: str
    table: str
    columns: tuple[tuple[str, str], ...]

    @property
    def dotted(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def identifier(self) -> sql.Identifier:
        return sql.Identifier(self.schema, self.table)

    def update(self) -> sql.Composed:
        """Replaces all rows' values, computed from the rows as they were."""
        settings = sql.SQL(", ").join(
            sql.SQL("{} = ({})").format(sql.Identifier(name), sql.SQL(cast(LiteralString, expression)))
            for name, expression in self.columns
        )
        # A partitioned table's rows are its partitions'; a child's are its own, and have rules of their own.
        return sql.SQL("UPDATE {} SET {}").format(self.identifier, settings)


def masks_of(columns: Iterable[Column], rules: Rules) -> list[Mask]:
    """What is to be done in one database. Raises InvalidInput for a rule of a column that cannot be written."""
    ruled = [column for column in columns if column.dotted in rules.columns]
    for column in ruled:
        if not column.writable:
            raise InvalidInput(
                f"anonymize: {column.dotted} follows from other columns", next_step="replace those instead"
            )
    ordered = sorted(ruled, key=lambda column: (column.schema, column.table, column.name))
    return [
        Mask(schema, table, tuple((column.name, rules.columns[column.dotted]) for column in group))
        for (schema, table), group in groupby(ordered, key=lambda column: (column.schema, column.table))
    ]


def unmasked(columns: Iterable[Column], rules: Rules) -> list[str]:
    """Personal columns that have no rule and need one, by their dotted names."""
    return sorted(
        column.dotted
        for column in columns
        if column.writable
        and column.dotted not in rules.columns
        and any(fnmatchcase(column.dotted, pattern) for pattern in rules.personal)
    )


def unknown(columns: Iterable[Column], rules: Rules) -> list[str]:
    """Rules for columns that are not among these."""
    known = {column.dotted for column in columns}
    return sorted(name for name in rules.columns if name not in known)
