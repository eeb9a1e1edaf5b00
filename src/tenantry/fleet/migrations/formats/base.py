"""What every format can do: list its migrations, read a tenant's ledger, judge what is pending, record what is applied.

What is pending is applied either through our own session, or by the tool itself with a connection of its own. Reading
the folder and judging are pure once the files are loaded; a ``Session`` is a tenant's open transaction, which the
runner begins and ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, LiteralString, Protocol, runtime_checkable

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations import alone, tenant_sql
from tenantry.fleet.migrations.alone import Unreadable
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.statements import Obstacle, Statement, split
from tenantry.fleet.migrations.tenant import SchemaState, TenantSlug

MIGRATION_BYTES_MAX: Final = 16 * 1024 * 1024
MIGRATIONS_MAX: Final = 5_000


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a migration that is sent to the server at once: its text, and where it lies in the file."""

    text: str
    offset: int
    """Characters of the file before this segment."""
    statements: tuple[Statement, ...]
    statements_before: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A statement that cannot be part of a migration."""

    obstacle: Obstacle | Unreadable | Literal["temporary_table"]
    statement: int
    line: int
    excerpt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One migration of a folder. ``version`` is its name in the catalog, unique within the folder."""

    version: str
    name: str
    file: str
    """The file's name, relative to the folder."""
    checksum: str
    text: str = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    down: Migration | None = field(repr=False, default=None)
    """The way back, where somebody wrote one. It may be edited at any time: nothing remembers its checksum."""

    @property
    def stepwise(self) -> bool:
        """Whether it has a statement that no transaction may hold, so that it is applied statement by statement."""
        return any(each.obstacle == "outside_transaction" for part in self.segments for each in part.statements)

    @property
    def refusal(self) -> Refusal | None:
        """The first statement that cannot be part of a migration, if there is one."""
        stepwise = self.stepwise
        for segment in self.segments:
            for number, statement in enumerate(segment.statements, segment.statements_before + 1):
                if found := _obstacle(segment.text, statement, stepwise=stepwise):
                    line, _ = self.line_and_column(segment.offset + statement.start)
                    excerpt = " ".join(segment.text[statement.start : statement.end].split())[:80]
                    return Refusal(found, number, line, excerpt)
        return None

    def line_and_column(self, offset: int) -> tuple[int, int]:
        """The line and column, both from 1, of the character at ``offset`` of the file."""
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _obstacle(
    text: str, statement: Statement, *, stepwise: bool
) -> Obstacle | Unreadable | Literal["temporary_table"] | None:
    if statement.obstacle == "outside_transaction":
        found = alone.read(text, statement)
        return found if isinstance(found, str) else None
    if statement.obstacle is None and stepwise and statement.makes_temporary_table:
        return "temporary_table"
    return statement.obstacle


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One applied migration as the tenant's ledger has it: the format's key, and the checksum of what was applied."""

    key: str
    checksum: str
    finished: bool = True
    """Whether the ledger says that it was applied; false where it only says that it was begun."""


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a tenant's ledger does not fit this folder."""

    kind: Literal["edited", "out_of_order", "ahead", "half_applied"]
    version: str
    message: str
    next_step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a ledger means for a folder. A tenant with objections must not be migrated."""

    state: SchemaState
    pending: tuple[Migration, ...]
    """In the folder's order; some formats may lack one that is older than what is applied."""
    objections: tuple[Objection, ...] = ()
    notes: tuple[str, ...] = ()
    applied: tuple[tuple[str, str], ...] = ()
    """Version and checksum of what ``state`` comes from, in the folder's order; what the folder lacks comes last. Told
    by formats that are applied by our session."""
    half_applied: frozenset[str] | None = None
    """What the ledger calls begun and not finished; None for a ledger that has no word for it."""


class Session(Protocol):
    """A tenant's open transaction, as a format sees it."""

    def query(self, sql: LiteralString, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """One statement of ours (``tenant_sql``); its rows, or none."""
        ...


class Format(Protocol):
    """A folder of migrations in one tool's format: ``AppliedBySession`` or ``AppliedByTool``."""

    @property
    def name(self) -> str: ...

    @property
    def directory(self) -> Path: ...

    @property
    def migrations(self) -> Sequence[Migration]:
        """All migrations, oldest first. Loaded once; the folder may change afterwards without effect."""
        ...

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        """What is applied; None when the tenant has no ledger yet. Changes nothing."""
        ...

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        """What is pending and what does not fit. Pure."""
        ...


@runtime_checkable
class AppliedBySession(Format, Protocol):
    """Migrations that we apply ourselves: SQL, with its ledger row, through our own session."""

    def create_ledger(self, session: Session) -> None:
        """Makes the ledger's table, for a tenant whose ``read_ledger`` gave None."""
        ...

    def began(self, session: Session, migration: Migration) -> None:
        """A migration begins, or goes on that is applied statement by statement; a ledger may say so. Idempotent."""
        ...

    def record(self, session: Session, migration: Migration) -> None:
        """Writes the ledger row of a migration that was applied."""
        ...


@runtime_checkable
class GoesBack(AppliedBySession, Protocol):
    """Migrations that may have a way back (``Migration.down``)."""

    def unrecord(self, session: Session, migration: Migration) -> bool:
        """Deletes the ledger row of a migration that was taken back; false when there was none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolTask:
    """What a tool shall do in one tenant."""

    slug: TenantSlug
    place: Mapping[str, str] = field(repr=False)
    """Where the tenant is, as libpq's keywords (``tools.place_of``). They hold the password."""
    pending: tuple[Migration, ...]
    """Everything that the tenant lacks, oldest first."""
    applied: frozenset[str]
    """The keys of the ledger, as we read it."""
    lock_pid: int
    """The server process that holds our lock: whoever sees its lock is in the right database."""
    seconds_max: float
    """When the tool has not finished by then, it is killed."""
    cancelled: Callable[[], bool] = field(repr=False)
    """Asked all the time; the tool is killed when it turns true."""


@runtime_checkable
class TellsStanding(Format, Protocol):
    """Migrations that a tenant may have without having all that come before."""

    def standing_of(self, known: SchemaState) -> Literal["behind", "unknown", "ahead"]:
        """What to think of a tenant whose state, by the catalog, is none that this folder leads through. Pure."""
        ...


@runtime_checkable
class AppliedByTool(TellsStanding, Protocol):
    """Migrations that only their own tool can apply. What it has done is read from the ledger afterwards."""

    def apply_by_tool(self, task: ToolTask) -> None:
        """Runs the tool. Returns when it says that it is done; raises MigrationFailed when it does not."""
        ...

    def applied(self, session: Session, task: ToolTask) -> None:
        """Writes the ledger where the tool has none of its own; called after ``apply_by_tool``, in a transaction."""
        ...

    def close(self) -> None:
        """Ends the processes that wait for further tenants; those that work are their callers'. Safe twice."""
        ...


def only_through(migrations: Sequence[Migration], version: str | None) -> tuple[Migration, ...]:
    """The migrations up to ``version``, as if the later ones were not written yet; all of them without a version.

    Raises InvalidInput for a version that the folder lacks.
    """
    if version is None:
        return tuple(migrations)
    for index, migration in enumerate(migrations):
        if migration.version == version:
            return tuple(migrations[: index + 1])
    newest = migrations[-1].version if migrations else "none"
    raise InvalidInput(f"the folder has no version {version!r}", next_step=f"its newest is {newest}")


def read_rows(
    session: Session, table: LiteralString, sql: LiteralString, parameters: Sequence[object] = ()
) -> list[tuple[object, ...]] | None:
    """The rows of the ledger ``table``, or None when there is no such table. Raises MigrationFailed for a flood.

    The last parameter of ``sql`` is the number of rows.
    """
    if session.query(tenant_sql.TABLE_EXISTS, [table]) != [(True,)]:
        return None
    rows = session.query(sql, [*parameters, tenant_sql.LEDGER_ROWS_MAX])
    if len(rows) == tenant_sql.LEDGER_ROWS_MAX:
        message = f"the ledger {table} has {len(rows)} rows or more, which no folder of migrations has"
        raise MigrationFailed(Failure(kind="ahead", message=message, next_step="look at that table in the tenant"))
    return rows


def empty_state(format_name: str) -> SchemaState:
    """The state of a tenant to which nothing is applied."""
    return SchemaState(format_name, None, hashlib.sha256(format_name.encode()).hexdigest())


def next_state(state: SchemaState, version: str, checksum: str) -> SchemaState:
    """The state after one more migration."""
    link = f"{state.fingerprint}\0{version}\0{checksum}"
    return SchemaState(state.format, version, hashlib.sha256(link.encode()).hexdigest())


def state_of(format_name: str, applied: Iterable[tuple[str, str]]) -> SchemaState:
    """The state after ``applied``, pairs of version and checksum, oldest first."""
    state = empty_state(format_name)
    for version, checksum in applied:
        state = next_state(state, version, checksum)
    return state


def judged(
    format_name: str,
    applied: Iterable[tuple[str, str]],
    pending: Iterable[Migration],
    *,
    objections: Iterable[Objection] = (),
    notes: Iterable[str] = (),
    half_applied: frozenset[str] | None = None,
) -> Judgement:
    """The judgement, with the state that ``applied`` comes to."""
    pairs = tuple(applied)
    return Judgement(
        applied=pairs,
        state=state_of(format_name, pairs),
        pending=tuple(pending),
        objections=tuple(objections),
        notes=tuple(notes),
        half_applied=half_applied,
    )


def edited(migration: Migration) -> Objection:
    return Objection(
        "edited",
        migration.version,
        f"{migration.file} was edited after it was applied here",
        "restore the file and put the change into a new migration; or accept edited files, if only its form changed",
    )


def ahead(version: str) -> Objection:
    return Objection(
        "ahead",
        version,
        f"the tenant's ledger has {version}, which this folder lacks",
        "roll out the folder that this tenant was migrated with, or a newer one",
    )


def read_text(path: Path) -> str:
    """A migration's text, byte for byte. Raises InvalidInput for what no tenant could be sent."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"the migration {path} cannot be read: {error.strerror}",
            next_step="restore the file; a folder with a migration missing is not rolled out",
        ) from error
    if len(raw) > MIGRATION_BYTES_MAX:
        raise InvalidInput(
            f"{path} has {len(raw)} bytes; a migration has at most {MIGRATION_BYTES_MAX}",
            next_step="load data another way than through a migration",
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 (byte {error.start})", next_step="save it as UTF-8") from error
    if "\0" in text:
        raise InvalidInput(f"{path} has a NUL character, which SQL cannot hold", next_step="remove it")
    return text


def segments_of(texts: Iterable[str], separator: str = "") -> tuple[Segment, ...]:
    """The segments of a file that was split at ``separator``."""
    return _segments_of(tuple(texts), separator)


@lru_cache(MIGRATIONS_MAX)
def _segments_of(texts: tuple[str, ...], separator: str) -> tuple[Segment, ...]:
    # Folders of a thousand customers hold the same texts, which are read and kept once.
    segments: list[Segment] = []
    offset = before = 0
    for text in texts:
        statements = split(text)
        segments.append(Segment(text, offset, statements, before))
        offset += len(text) + len(separator)
        before += len(statements)
    return tuple(segments)
