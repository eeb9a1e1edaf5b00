"""Drizzle folders (drizzle-kit 0.x): ``meta/_journal.json``, one SQL file for each tag, Drizzle's own ledger.

The rules are those of drizzle-orm's migrator: a file is split at ``--> statement-breakpoint``, its hash is SHA-256 of
its text, and an entry is pending when its ``when`` is later than the latest ``created_at`` of the ledger. So
``drizzle-kit migrate`` after us finds nothing to do, and we find nothing after it.

Beyond Drizzle, which looks at the latest row only, an edited file and a ledger ahead of the folder are objected to.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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

NAME: Final = "drizzle"
JOURNAL: Final = Path("meta/_journal.json")
BREAKPOINT: Final = "--> statement-breakpoint"
_DIALECTS: Final = frozenset({"postgresql", "pg"})


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    idx: int
    when: int = Field(ge=0)
    tag: str = Field(pattern=r"^[^/\\\x00]+$", max_length=200)


class _Journal(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    dialect: str
    entries: list[_Entry] = Field(max_length=MIGRATIONS_MAX)


class DrizzleFolder:
    """One Drizzle ``out`` folder, loaded."""

    name: str = NAME

    def __init__(self, directory: Path, *, through: str | None = None) -> None:
        """``through`` leaves out the migrations after that version.

        Raises InvalidInput when the folder is not one, or a file of its journal is missing.
        """
        self.directory = directory
        journal = _read_journal(directory / JOURNAL)
        tags = [entry.tag for entry in journal.entries]
        # What comes after it need not be there.
        wanted = tags[: tags.index(through) + 1] if through in tags else tags
        loaded = [_load(directory, tag) for tag in wanted]
        self.migrations: tuple[Migration, ...] = only_through(loaded, through)
        self._when_of: dict[str, int] = {entry.tag: entry.when for entry in journal.entries}
        self._when: tuple[int, ...] = tuple(self._when_of[migration.version] for migration in self.migrations)
        self._checksums: frozenset[str] = frozenset(migration.checksum for migration in self.migrations)

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        rows = read_rows(session, tenant_sql.DRIZZLE_TABLE, tenant_sql.DRIZZLE_READ)
        if rows is None:
            return None
        # Drizzle would take a row without created_at for the latest and apply everything again; here it is the oldest.
        return [LedgerRow("0" if created_at is None else str(created_at), str(hash_)) for created_at, hash_ in rows]

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        hashes: defaultdict[int, set[str]] = defaultdict(set)
        for row in ledger or ():
            hashes[int(row.key)].add(row.checksum)
        latest = max(hashes, default=None)
        entries = list(zip(self._when, self.migrations, strict=True))
        applied: list[tuple[str, str]] = []
        objections: list[Objection] = []
        notes: list[str] = []
        for when, migration in entries:
            if latest is None or when > latest:
                continue
            known = hashes.get(when)
            if known is None:
                notes.append(f"{migration.version} is not in the ledger, and older than what is: Drizzle skips it")
            elif migration.checksum not in known:
                objections.append(edited(migration))
            checksum = migration.checksum if known is None or migration.checksum in known else min(known)
            applied.append((migration.version, checksum))
        # A database may have been baselined by hand: the row's hash is ours, its created_at the hand's time.
        if latest is not None and latest not in self._when and hashes[latest].isdisjoint(self._checksums):
            applied.append((f"created_at={latest}", min(hashes[latest])))
            objections.append(ahead(f"created_at={latest}"))
        pending = [migration for when, migration in entries if latest is None or when > latest]
        return judged(NAME, applied, pending, objections=objections, notes=notes)

    def create_ledger(self, session: Session) -> None:
        session.query(tenant_sql.DRIZZLE_CREATE_SCHEMA)
        session.query(tenant_sql.DRIZZLE_CREATE_TABLE)

    def began(self, session: Session, migration: Migration) -> None:
        """This ledger has no word for half a migration."""

    def record(self, session: Session, migration: Migration) -> None:
        session.query(tenant_sql.DRIZZLE_INSERT, [migration.checksum, self._when_of[migration.version]])


def _read_journal(path: Path) -> _Journal:
    try:
        journal = _Journal.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}",
            next_step="name the `out` folder of drizzle.config.ts, which has meta/_journal.json",
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise InvalidInput(
            f"{path} is not a journal of drizzle-kit 0.x: {where}: {first['msg']}",
            next_step="make it anew with drizzle-kit, or restore it",
        ) from error
    if journal.dialect not in _DIALECTS:
        raise InvalidInput(f"{path} is of the dialect {journal.dialect!r}; only PostgreSQL is rolled out")
    tags = Counter(entry.tag for entry in journal.entries)
    whens = Counter(entry.when for entry in journal.entries)
    for name, counter in (("tag", tags), ("when", whens)):
        twice = [str(value) for value, times in counter.items() if times > 1]
        if twice:
            raise InvalidInput(
                f"{path} has two entries with the {name} {twice[0]}, which Drizzle cannot tell apart",
                next_step="generate the later of the two migrations anew",
            )
    return journal


def _load(directory: Path, tag: str) -> Migration:
    file = f"{tag}.sql"
    text = read_text(directory / file)
    return Migration(
        version=tag,
        name=tag,
        file=file,
        checksum=hashlib.sha256(text.encode()).hexdigest(),
        text=text,
        segments=segments_of(text.split(BREAKPOINT), BREAKPOINT),
    )
