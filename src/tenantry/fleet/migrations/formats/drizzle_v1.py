"""Drizzle folders of drizzle-kit 1.x: ``<timestamp>_name/migration.sql``, and Drizzle's ledger, which then has names.

The rules are those of drizzle-orm 1.x: a migration is pending when the ledger lacks its name, also where a newer one is
applied. Rows without a name were written by 0.x; they are matched by their second, and by their hash where a second has
several, and get their names when the next migration is recorded.

Beyond Drizzle, an edited migration and a ledger ahead of the folder are objected to.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

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
from tenantry.fleet.migrations.formats.drizzle import BREAKPOINT
from tenantry.fleet.migrations.tenant import SchemaState

NAME: Final = "drizzle-1"
SNAPSHOT: Final = "snapshot.json"
_FOLDER: Final = re.compile(r"(?P<time>[0-9]{14})_.+")
_UNNAMED: Final = "created_at="
"""Begins the key of a ledger row without a name; names begin with a timestamp."""


class DrizzleV1Folder:
    """One ``out`` folder of drizzle-kit 1.x, loaded."""

    name: str = NAME

    def __init__(self, directory: Path, *, through: str | None = None) -> None:
        """``through`` leaves out the migrations after that version.

        Raises InvalidInput for a folder whose name has no time.
        """
        self.directory = directory
        loaded = [_load(path) for path in sorted(directory.glob("*/migration.sql"))]
        if len(loaded) > MIGRATIONS_MAX:
            raise InvalidInput(f"{directory} has {len(loaded)} migrations; {MIGRATIONS_MAX} are the most")
        self.migrations: tuple[Migration, ...] = only_through(loaded, through)
        self._at: defaultdict[int, list[Migration]] = defaultdict(list)
        for migration in self.migrations:
            self._at[_milliseconds(migration.version)].append(migration)
        self._by_hash: dict[str, Migration] = {migration.checksum: migration for migration in self.migrations}

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        rows = read_rows(session, tenant_sql.DRIZZLE_TABLE, tenant_sql.DRIZZLE_V1_READ)
        if rows is None:
            return None
        return [
            LedgerRow(str(name) if name is not None else f"{_UNNAMED}{created_at or 0}", str(hash_))
            for name, created_at, hash_ in rows
        ]

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        known: dict[str, str] = {}
        lacking: dict[str, str] = {}
        ours = {migration.version for migration in self.migrations}
        for row in ledger or ():
            name = self._name_of(row)
            (known if name in ours else lacking)[name] = row.checksum
        applied: list[tuple[str, str]] = []
        objections: list[Objection] = []
        notes: list[str] = []
        pending = [migration for migration in self.migrations if migration.version not in known]
        newest = max(known, default="")
        for migration in self.migrations:
            checksum = known.get(migration.version)
            if checksum is None:
                if migration.version < newest:
                    notes.append(f"{migration.version} is older than what is applied: Drizzle applies it all the same")
                continue
            if checksum != migration.checksum:
                objections.append(edited(migration))
            applied.append((migration.version, checksum))
        # A migration of the distant past may be gone from the folder; a newer one means an old folder.
        for name in sorted(lacking):
            if name > newest or name.startswith(_UNNAMED):
                applied.append((name, lacking[name]))
                objections.append(ahead(name))
        return judged(NAME, applied, pending, objections=objections, notes=notes)

    def _name_of(self, row: LedgerRow) -> str:
        """The name that drizzle-orm 1.x would give a row of the older form; the key itself where there is none."""
        if not row.key.startswith(_UNNAMED):
            return row.key
        second = int(row.key.removeprefix(_UNNAMED)) // 1000 * 1000
        candidates = self._at.get(second, [])
        if len(candidates) > 1:
            candidates = [each for each in candidates if each.checksum == row.checksum]
        elif not candidates and row.checksum in self._by_hash:
            candidates = [self._by_hash[row.checksum]]
        return candidates[0].version if candidates else row.key

    def standing_of(self, known: SchemaState) -> Literal["unknown", "ahead"]:
        # It may lack an older one, or have one whose file was edited: the ledger knows.
        return "unknown" if any(each.version == known.version for each in self.migrations) else "ahead"

    def create_ledger(self, session: Session) -> None:
        session.query(tenant_sql.DRIZZLE_CREATE_SCHEMA)
        session.query(tenant_sql.DRIZZLE_V1_CREATE_TABLE)

    def began(self, session: Session, migration: Migration) -> None:
        """This ledger has no word for half a migration."""

    def record(self, session: Session, migration: Migration) -> None:
        if session.query(tenant_sql.DRIZZLE_V1_HAS_NAMES) != [(True,)]:
            self._give_names(session)
        row = [migration.checksum, _milliseconds(migration.version), migration.version]
        session.query(tenant_sql.DRIZZLE_V1_INSERT, row)

    def _give_names(self, session: Session) -> None:
        rows = self.read_ledger(session) or ()
        session.query(tenant_sql.DRIZZLE_V1_ADD_NAME)
        session.query(tenant_sql.DRIZZLE_V1_ADD_TIME)
        for row in rows:
            name, created_at = self._name_of(row), row.key.removeprefix(_UNNAMED)
            if name != row.key:
                session.query(tenant_sql.DRIZZLE_V1_SET_NAME, [name, int(created_at), row.checksum])


def _milliseconds(version: str) -> int:
    at = datetime.strptime(version[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return int(at.timestamp()) * 1000


def _load(path: Path) -> Migration:
    version = path.parent.name
    parts = _FOLDER.fullmatch(version)
    try:
        _milliseconds(version)
    except ValueError:
        parts = None
    if parts is None:
        raise InvalidInput(
            f"{path.parent} has a name without a time", next_step="name it like 20260102030405_users, or move it away"
        )
    text = read_text(path)
    return Migration(
        version=version,
        name=version,
        file=f"{version}/{path.name}",
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
        segments=segments_of(text.split(BREAKPOINT), BREAKPOINT),
    )
