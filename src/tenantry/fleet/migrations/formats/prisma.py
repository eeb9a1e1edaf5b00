"""Prisma's folder: ``<timestamp>_name/migration.sql`` beside ``migration_lock.toml``, and Prisma's own ledger.

The rules are those of ``prisma migrate deploy``: a migration is pending when the ledger has no row of its name that was
not rolled back, also where a newer one is applied; a row that was begun and never finished stops everything. A file is
sent as one message. A migration that is applied statement by statement stands in the ledger as begun meanwhile, so that
Prisma keeps away from it.

Beyond Prisma, which warns, an edited migration and a ledger ahead of the folder are objected to.
"""

from __future__ import annotations

import hashlib
import tomllib
import uuid
from collections.abc import Iterator, Sequence
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
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.tenant import SchemaState

NAME: Final = "prisma"
LOCK: Final = "migration_lock.toml"
NAME_LENGTH_MAX: Final = 255
"""The ledger's column for names is so long."""


class PrismaFolder:
    """One ``prisma/migrations`` folder, loaded."""

    name: str = NAME

    def __init__(self, directory: Path, *, through: str | None = None) -> None:
        """``through`` leaves out the migrations after that version.

        Raises InvalidInput for the folder of another database, and for a migration without its file.
        """
        self.directory = directory
        _check_provider(directory / LOCK)
        folders = sorted(each for each in directory.iterdir() if each.is_dir() and not each.name.startswith("."))
        if len(folders) > MIGRATIONS_MAX:
            raise InvalidInput(f"{directory} has {len(folders)} migrations; {MIGRATIONS_MAX} are the most")
        self.migrations: tuple[Migration, ...] = only_through([_load(each) for each in folders], through)

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        rows = read_rows(session, tenant_sql.PRISMA_TABLE, tenant_sql.PRISMA_READ)
        if rows is None:
            return None
        return [LedgerRow(str(name), str(checksum), bool(finished)) for name, checksum, finished in rows]

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        finished = {row.key: row.checksum for row in ledger or () if row.finished}
        begun = {row.key for row in ledger or () if not row.finished}
        ours = {migration.version for migration in self.migrations}
        newest = max(ours & finished.keys(), default="")
        applied: list[tuple[str, str]] = []
        objections: list[Objection] = [_begun(name) for name in sorted(begun - ours)]
        notes: list[str] = []
        for migration in self.migrations:
            checksum = finished.get(migration.version)
            if checksum is None or migration.version in begun:
                if migration.version < newest:
                    notes.append(f"{migration.version} is older than what is applied: Prisma applies it all the same")
                continue
            same = checksum in _checksums(migration.text)
            if not same:
                objections.append(edited(migration))
            applied.append((migration.version, migration.checksum if same else checksum))
        done = {version for version, _ in applied}
        # A migration of the distant past may be gone from the folder; a newer one means an old folder.
        for name in sorted(finished.keys() - ours):
            if name > newest:
                applied.append((name, finished[name]))
                objections.append(ahead(name))
        return judged(
            NAME,
            applied,
            [migration for migration in self.migrations if migration.version not in done],
            objections=objections,
            notes=notes,
            half_applied=frozenset(begun & ours),
        )

    def standing_of(self, known: SchemaState) -> Literal["unknown", "ahead"]:
        # It may lack an older one, or have one whose file was edited: the ledger knows.
        return "unknown" if any(each.version == known.version for each in self.migrations) else "ahead"

    def create_ledger(self, session: Session) -> None:
        session.query(tenant_sql.PRISMA_CREATE_TABLE)

    def began(self, session: Session, migration: Migration) -> None:
        if session.query(tenant_sql.PRISMA_TRY_LOCK) != [(True,)]:
            message = "Prisma is migrating this tenant"
            raise MigrationFailed(Failure(kind="locked", message=message, next_step="run again when it has finished"))
        row = [str(uuid.uuid4()), migration.checksum, migration.version, migration.version]
        session.query(tenant_sql.PRISMA_BEGIN, row)

    def record(self, session: Session, migration: Migration) -> None:
        if session.query(tenant_sql.PRISMA_FINISH, [migration.version]) != [(1,)]:
            # Our lock does not keep Prisma out before ``began``.
            message = f"Prisma has applied {migration.version} here meanwhile"
            raise MigrationFailed(Failure(kind="locked", message=message, next_step="run again"))


def _begun(name: str) -> Objection:
    return Objection(
        "half_applied",
        name,
        f"{name} was begun here and did not end, and this folder lacks it",
        "look what it did in this tenant; then `prisma migrate resolve` with --applied or --rolled-back",
    )


def _checksums(text: str) -> Iterator[str]:
    """Those of the text, and of the text as another system's checkout has it: Prisma takes each of them."""
    unix = text.replace("\r\n", "\n")
    for each in (text, unix, unix.replace("\n", "\r\n")):
        yield hashlib.sha256(each.encode()).hexdigest()


def _check_provider(path: Path) -> None:
    try:
        provider = tomllib.loads(read_text(path)).get("provider")
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML: {error}", next_step="restore it") from error
    if provider not in {"postgresql", "postgres"}:
        raise InvalidInput(f"{path} is of the provider {provider!r}; only PostgreSQL is rolled out")


def _load(folder: Path) -> Migration:
    version = folder.name
    if len(version) > NAME_LENGTH_MAX:
        raise InvalidInput(f"{folder} has a name of more than {NAME_LENGTH_MAX} characters, which no ledger holds")
    text = read_text(folder / "migration.sql")
    return Migration(
        version=version,
        name=version,
        file=f"{version}/migration.sql",
        checksum=next(_checksums(text)),
        text=text,
        segments=segments_of([text]),
    )
