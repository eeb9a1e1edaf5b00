"""A tenant's schema as values: its objects, their fingerprint, and how two schemas differ, object by object.

Two databases have one fingerprint when the same statements made them in any order, whoever owns them. The order of a
table's columns does not count, nor what a migration tool remembers; comments count when they are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import psycopg

from tenantry.fleet.migrations import schema_sql
from tenantry.fleet.migrations.results import Failure, MigrationFailed

ALGORITHM: Final = 1
"""Grows when the same schema gets another fingerprint; what is remembered of another one is not believed."""
OBJECTS_MAX: Final = 100_000
LEDGERS: Final = (
    "drizzle.__drizzle_migrations",
    "public.alembic_version",
    "public.django_migrations",
    "public._prisma_migrations",
)
"""Where migration tools remember what they applied, unless they are told otherwise."""
LEDGER_SCHEMAS: Final = ("drizzle", "tenantry")
"""Schemas that hold nothing but a ledger; tables of the tenant's own in them count all the same."""
LINES_OF_ONE_MAX: Final = 60
"""Lines of one object that are told; a function may be longer."""


@dataclass(frozen=True, slots=True, order=True)
class SchemaObject:
    """``kind`` and ``name`` say which one it is, ``definition`` what it is: SQL, or near to it."""

    kind: str
    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class Schema:
    """All objects of one database, in the order of their kinds and names."""

    objects: tuple[SchemaObject, ...]

    @property
    def fingerprint(self) -> str:
        """64 hexadecimal digits, the same for equal schemas only."""
        digest = hashlib.sha256(f"tenantry schema {ALGORITHM}".encode())
        for each in self.objects:
            for part in (each.kind, each.name, each.definition):
                raw = part.encode()
                digest.update(len(raw).to_bytes(8, "big") + raw)
        return digest.hexdigest()


def schema_of(objects: Iterable[SchemaObject]) -> Schema:
    return Schema(tuple(sorted(objects)))


def read_schema(connection: psycopg.Connection, ledgers: Collection[str] = (), *, comments: bool = False) -> Schema:
    """The schema as the connection's open transaction sees it; nothing is changed but settings of that transaction.

    ``ledgers`` are tables, with their schemas, that do not count beside the usual ones. Raises psycopg.Error, and
    MigrationFailed for a schema of more than OBJECTS_MAX objects.
    """
    parameters = {"ledgers": [*LEDGERS, *ledgers], "ledger_schemas": list(LEDGER_SCHEMAS)}
    connection.execute(schema_sql.SETTINGS)
    objects: list[SchemaObject] = []
    for kind, question in schema_sql.QUESTIONS:
        if kind == schema_sql.COMMENTS and not comments:
            continue
        rows = connection.execute(schema_sql.bounded(question), parameters).fetchall()
        objects.extend(SchemaObject(kind, name, definition) for name, definition in rows)
        if len(objects) > OBJECTS_MAX:
            message = f"the tenant's schema has more than {OBJECTS_MAX} objects"
            raise MigrationFailed(Failure(kind="sql", message=message, next_step="look at the tenant"))
    return schema_of(objects)


@dataclass(frozen=True, slots=True)
class Difference:
    """One object that is not as expected. ``expected`` is None for one too many, ``found`` for one that is missing."""

    kind: str
    name: str
    expected: str | None
    found: str | None

    @property
    def what(self) -> Literal["extra", "missing", "changed"]:
        if self.expected is None:
            return "extra"
        return "missing" if self.found is None else "changed"

    def lines(self) -> Iterator[str]:
        """``-`` what is expected, ``+`` what is there instead."""
        for sign, definition in (("-", self.expected), ("+", self.found)):
            if definition is None:
                continue
            lines = definition.splitlines()
            for line in lines[:LINES_OF_ONE_MAX]:
                yield f"{sign} {line}"
            if len(lines) > LINES_OF_ONE_MAX:
                yield f"{sign} -- and {len(lines) - LINES_OF_ONE_MAX} more lines"

    def as_dict(self) -> dict[str, object]:
        return {"kind": self.kind, "name": self.name, "what": self.what, "expected": self.expected, "found": self.found}


_ORDER: Final = {kind: place for place, (kind, _) in enumerate(schema_sql.QUESTIONS)}


def differences(expected: Schema, found: Schema) -> tuple[Difference, ...]:
    """What is missing, too many or changed, in the order in which one would make the objects. Pure."""
    wanted, there = _by_name(expected), _by_name(found)
    keys = sorted(wanted.keys() | there.keys(), key=lambda key: (_ORDER.get(key[0], len(_ORDER)), key))
    different: list[Difference] = []
    for key in keys:
        was, now = wanted.get(key, []), there.get(key, [])
        if was == now:
            continue
        # One name may stand for several objects only where a kind has them; then they are told one by one.
        gone = [each for each in was if each not in now]
        new = [each for each in now if each not in was]
        for index in range(max(len(gone), len(new))):
            before = gone[index] if index < len(gone) else None
            after = new[index] if index < len(new) else None
            different.append(Difference(key[0], key[1], before, after))
    return tuple(different)


def _by_name(schema: Schema) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for each in schema.objects:
        found.setdefault((each.kind, each.name), []).append(each.definition)
    return found


def told(changes: Sequence[Difference], lines_max: int) -> list[str]:
    """The lines of all differences, at most ``lines_max`` and one that says how many are left out."""
    lines = [line for each in changes for line in each.lines()]
    if len(lines) <= lines_max:
        return lines
    return [*lines[:lines_max], f"  ... and {len(lines) - lines_max} more lines"]
