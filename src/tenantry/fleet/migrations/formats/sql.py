"""Folders of plain SQL: ``0001_users.sql``, or a timestamp for the number; the ledger is ``tenantry.migrations``.

The number is the version and gives the order. ``NAME.up.sql`` is the same as ``NAME.sql``; ``NAME.down.sql`` is its
way back, which is never part of a rollout. Checksums ignore the difference between CRLF and LF, so that a checkout on
another system is the same folder.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations import tenant_sql
from tenantry.fleet.migrations.formats.base import (
    MIGRATIONS_MAX,
    Judgement,
    LedgerRow,
    Migration,
    Objection,
    Session,
    ahead,
    edited,
    judged,
    only_through,
    read_rows,
    read_text,
    segments_of,
)

NAME: Final = "sql"
_FILE: Final = re.compile(r"(?P<version>[0-9]{1,32})[_-](?P<name>.+?)(?P<way>\.up|\.down)?\.sql")


class SqlFolder:
    """One folder of plain SQL files, loaded."""

    name: str = NAME

    def __init__(self, directory: Path, *, through: str | None = None) -> None:
        """``through`` leaves out the migrations after that version.

        Raises InvalidInput for a file whose name says no version, for two files of one version, and for a way back of
        no migration.
        """
        self.directory = directory
        loaded = sorted(_load(directory), key=lambda each: int(each.version))
        self.migrations: tuple[Migration, ...] = only_through(loaded, through)

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        rows = read_rows(session, tenant_sql.SQL_TABLE, tenant_sql.SQL_READ)
        if rows is None:
            return None
        return [LedgerRow(str(version), str(checksum)) for version, checksum in rows]

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        checksums = {row.key: row.checksum for row in ledger or ()}
        newest = max((index for index, each in enumerate(self.migrations) if each.version in checksums), default=-1)
        applied: list[tuple[str, str]] = []
        objections: list[Objection] = []
        for migration in self.migrations[: newest + 1]:
            checksum = checksums.get(migration.version)
            if checksum is None:
                objections.append(_out_of_order(migration, self.migrations[newest]))
                continue
            if checksum != migration.checksum:
                objections.append(edited(migration))
            applied.append((migration.version, checksum))
        ours = {migration.version for migration in self.migrations}
        newest_order = _order(self.migrations[newest].version) if newest >= 0 else (-1, "")
        # A file of the distant past may be gone from the folder; one newer than all we know means an old folder.
        beyond = sorted((key for key in checksums if key not in ours and _order(key) > newest_order), key=_order)
        for version in beyond:
            applied.append((version, checksums[version]))
            objections.append(ahead(version))
        return judged(NAME, applied, self.migrations[newest + 1 :], objections=objections)

    def create_ledger(self, session: Session) -> None:
        session.query(tenant_sql.SQL_CREATE_SCHEMA)
        session.query(tenant_sql.SQL_CREATE_TABLE)

    def began(self, session: Session, migration: Migration) -> None:
        """This ledger has no word for half a migration."""

    def record(self, session: Session, migration: Migration) -> None:
        session.query(tenant_sql.SQL_INSERT, [migration.version, migration.name, migration.checksum])

    def unrecord(self, session: Session, migration: Migration) -> bool:
        return session.query(tenant_sql.SQL_DELETE, [migration.version]) == [(1,)]


def _order(version: str) -> tuple[int, str]:
    """Numbers in their order; what is no number was not written by us and counts as newer than all."""
    return (int(version), version) if version.isascii() and version.isdigit() else (10**33, version)


def _out_of_order(migration: Migration, newest: Migration) -> Objection:
    return Objection(
        "out_of_order",
        migration.version,
        f"{migration.file} was never applied here, and the newer {newest.file} was",
        "give the file a number above the newest one",
    )


def _load(directory: Path) -> list[Migration]:
    ups: dict[int, Migration] = {}
    downs: dict[int, Migration] = {}
    for path in sorted(directory.glob("*.sql")):
        parts = _FILE.fullmatch(path.name)
        if parts is None:
            raise InvalidInput(
                f"{path} has a name without a version", next_step="name it like 0001_users.sql, or move it away"
            )
        migration = _migration(path, parts["version"], parts["name"])
        twin = (downs if parts["way"] == ".down" else ups).setdefault(int(parts["version"]), migration)
        if twin is not migration:
            raise InvalidInput(
                f"{twin.file} and {migration.file} have the same version", next_step="give one of them another number"
            )
    for number, down in downs.items():
        up = ups.get(number)
        if up is None or up.name != down.name:
            raise InvalidInput(
                f"{down.file} is the way back of no migration",
                next_step="name it as the migration is named, with .down before .sql",
            )
    if len(ups) > MIGRATIONS_MAX:
        raise InvalidInput(f"{directory} has {len(ups)} migrations; {MIGRATIONS_MAX} are the most")
    return [replace(up, down=downs.get(number)) for number, up in ups.items()]


def _migration(path: Path, version: str, name: str) -> Migration:
    text = read_text(path)
    return Migration(
        version=version,
        name=name,
        file=path.name,
        checksum=hashlib.sha256(text.replace("\r\n", "\n").encode()).hexdigest(),
        text=text,
        segments=segments_of([text]),
    )
