"""What one backup holds, as values: roles, memberships, settings and grants of databases, and each database's tables.

This is the sealed object ``contents`` of a backup: names of tables are a customer's business, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import psycopg
from pydantic import TypeAdapter, ValidationError

from tenantry.errors import DamagedBackup, OperatorError
from tenantry.fleet.backups import questions

CONTENTS_BYTES_MAX: Final = 64 * 2**20
_PLAIN: Final = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    name: str
    can_login: bool
    inherits: bool
    creates_databases: bool
    creates_roles: bool
    bypasses_rls: bool
    replicates: bool
    connections_max: int
    valid_until: str | None
    comment: str | None
    verifier: str | None = field(default=None, repr=False)
    """From its password, where the provider tells that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    role: str
    member: str
    grantor: str | None
    admin: bool
    inherit: bool | None
    """None, here and below: before Postgres 16."""
    set: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """``ALTER ROLE ... IN DATABASE ... SET``, or one of both."""

    database: str | None
    role: str | None
    settings: Sequence[str]
    """``name=value``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    database: str
    grantee: str | None
    """None: everybody."""
    privilege: str
    grantable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseContents:
    name: str
    owner: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str | None
    locale: str | None
    connections_max: int
    comment: str | None
    size_bytes: int
    """On the server's disk."""
    default_grants: bool
    """Whether everybody may what everybody may in a new database."""
    tables: Mapping[str, int] = field(default_factory=dict[str, int])
    """Rows of each table, as the dump has them. Names are quoted."""
    fingerprint: str | None = None
    """Of the schema."""
    large_objects: int | None = None
    """How many it has; None: an older Tenantry has not counted them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    home: str
    """The tenant's own database."""
    owner: str
    """The role that everything was read as."""
    roles: Sequence[Role]
    memberships: Sequence[Membership]
    settings: Sequence[Setting]
    grants: Sequence[Grant]
    databases: Sequence[DatabaseContents]
    withheld: Sequence[str]
    """What is not in here because the provider does not give it."""

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Contents:
        """Raises DamagedBackup."""
        try:
            return _CONTENTS.validate_json(text)
        except ValidationError as error:
            raise DamagedBackup(
                "the contents of a backup cannot be read", next_step="use the Tenantry that has written it, or a later"
            ) from error


_CONTENTS: Final = TypeAdapter(Contents)


def read_globals(connection: psycopg.Connection, home: str, databases: Sequence[str], roles: Sequence[str]) -> Contents:
    """What lies outside of databases, in the connection's open transaction. ``databases`` are filled in later."""
    named, known = list(databases), list(roles)
    changed = {name for (name,) in connection.execute(questions.WITHOUT_DEFAULT_GRANTS, [named]).fetchall()}
    found = [
        DatabaseContents(
            name=row[0], owner=row[1], encoding=row[2], collate=row[3], ctype=row[4], locale_provider=row[5],
            locale=row[6], connections_max=row[7], comment=row[8], size_bytes=row[9],
            default_grants=row[0] not in changed,
        )
        for row in connection.execute(questions.DATABASES, [named]).fetchall()
    ]  # fmt: skip
    if home not in {each.name for each in found}:
        raise OperatorError(f"the tenant's database {home} is not there, or takes no connections")
    return Contents(
        home=home,
        owner=connection.info.user,
        roles=[
            Role(
                name=row[0], can_login=row[1], inherits=row[2], creates_databases=row[3], creates_roles=row[4],
                bypasses_rls=row[5], replicates=row[6], connections_max=row[7], valid_until=row[8], comment=row[9],
            )
            for row in connection.execute(questions.ROLES, [known]).fetchall()
        ],
        memberships=[
            Membership(role=row[0], member=row[1], grantor=row[2], admin=row[3], inherit=row[4], set=row[5])
            for row in connection.execute(questions.MEMBERSHIPS, [known]).fetchall()
        ],
        settings=[
            Setting(database=row[0], role=row[1], settings=row[2])
            for row in connection.execute(questions.SETTINGS, [named, known]).fetchall()
        ],
        grants=[
            Grant(database=row[0], grantee=row[1], privilege=row[2], grantable=row[3])
            for row in connection.execute(questions.DATABASE_GRANTS, [named]).fetchall()
        ],
        databases=found,
        withheld=[],
    )  # fmt: skip


def count_large_objects(connection: psycopg.Connection) -> int:
    row = connection.execute(questions.LARGE_OBJECTS).fetchone()
    assert row is not None
    return int(row[0])


def refuse_closed_large_objects(connection: psycopg.Connection) -> None:
    """Raises OperatorError where ``pg_dump`` would end at one that the connection's role may not read."""
    row = connection.execute(questions.CLOSED_LARGE_OBJECTS).fetchone()
    if row is None:
        return
    count, number, owner = row
    database, role = connection.info.dbname, connection.info.user
    raise OperatorError(
        f"{count} large object{'' if count == 1 else 's'} of other roles in {database} may not be read by {role},"
        f" such as {number} of {owner}; a backup without them would be none",
        next_step=f"as {role}: GRANT {_quoted(owner)} TO {_quoted(role)}; or as {owner}, of each:"
        f" GRANT SELECT ON LARGE OBJECT {number} TO {_quoted(role)}",
    )


def _quoted(name: str) -> str:
    """As SQL has it. Pure."""
    return name if _PLAIN.fullmatch(name) else '"' + name.replace('"', '""') + '"'


def count_tables(connection: psycopg.Connection) -> dict[str, int]:
    """Rows of every table that is the tenant's own, as the connection's open transaction sees them."""
    tables = [name for (name,) in connection.execute(questions.TABLES, [questions.TABLES_MAX + 1]).fetchall()]
    if len(tables) > questions.TABLES_MAX:
        raise OperatorError(f"a database has more than {questions.TABLES_MAX} tables", next_step="look at the tenant")
    counted: dict[str, int] = {}
    for start in range(0, len(tables), questions.COUNTED_AT_ONCE):
        some = tables[start : start + questions.COUNTED_AT_ONCE]
        for number, count in connection.execute(questions.count_rows(some).encode()).fetchall():
            counted[some[number]] = count
    return counted
