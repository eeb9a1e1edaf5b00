"""Migrates one tenant: read its ledger under a lock, apply what is pending in the same transaction, commit.

A migration that no transaction can hold is applied by itself, step by step, between what comes before and after it.

Knows nothing of other tenants. What can go wrong with a tenant is part of its result, not an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import psycopg

from tenantry.errors import TenantryError
from tenantry.fleet.migrations.by_tool import TOOL_SECONDS_DEFAULT, ByTool
from tenantry.fleet.migrations.formats.base import (
    AppliedBySession,
    AppliedByTool,
    Format,
    Judgement,
    Migration,
    state_of,
)
from tenantry.fleet.migrations.formats.per_tenant import folder_of
from tenantry.fleet.migrations.plan import REFUSED_NEXT_STEP, refused
from tenantry.fleet.migrations.restore_point import NOTE_NONE, Points, RestorePoint, Way
from tenantry.fleet.migrations.results import Failure, MigrationFailed, TenantResult
from tenantry.fleet.migrations.session import Refused, Stopped, TenantSession, connect, sql_failure
from tenantry.fleet.migrations.steps import ProgressRow
from tenantry.fleet.migrations.stepwise import Stepwise, forget_progress, read_progress
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.runtime.failpoints import failpoint

LOCK_SECONDS_DEFAULT: Final = 5.0
CONNECT_SECONDS_DEFAULT: Final = 15.0
CONNECT_DEADLINE_SECONDS_DEFAULT: Final = 30.0

LOCK_TIMEOUT: Final = "55P03"
NO_FOLDER: Final = Failure(
    kind="no_folder",
    message="other customers have folders of their own here, and it has none",
    next_step="make one that is named by its slug, or leave it out with --tenants",
)

Sessions = Callable[[psycopg.Connection], TenantSession]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long one tenant may take at what."""

    lock_seconds: float = LOCK_SECONDS_DEFAULT
    """Waiting for a lock, ours or a table's. Never 0: a migration that waits holds up every session behind it."""
    statement_seconds: float = 0.0
    """One statement of a migration; 0, the default, is no bound, since rewriting a large table takes its time."""
    connect_seconds: float = CONNECT_SECONDS_DEFAULT
    """One attempt to connect, waking the tenant included."""
    connect_deadline_seconds: float = CONNECT_DEADLINE_SECONDS_DEFAULT
    """All attempts to connect together."""
    tool_seconds: float = TOOL_SECONDS_DEFAULT
    """All that a tool does in the tenant."""


class Halt:
    """What the operator wants of a run under way. Set by one thread, read by the workers."""

    def __init__(self) -> None:
        self.stopping = False
        """No further transaction is begun."""
        self.cancelling = False
        """Transactions under way are rolled back."""
        self._sessions: dict[TenantSlug, TenantSession] = {}

    @contextmanager
    def session(self, slug: TenantSlug, connection: psycopg.Connection, make: Sessions) -> Generator[TenantSession]:
        """The session of one tenant, for as long as it can be cancelled. Closes the connection."""
        # Closing, not leaving psycopg's own context: that one would commit what is open.
        with closing(connection):
            session = make(connection)
            self._sessions[slug] = session
            try:
                yield session
            finally:
                del self._sessions[slug]

    def cancel(self) -> None:
        """Stops, and asks every server to end what it does for us; each asking is bounded."""
        self.stopping = self.cancelling = True
        for session in list(self._sessions.values()):
            session.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrator:
    """Migrates tenants to the newest version of one folder. Threads share it."""

    folder: Format
    dsn: Callable[[TenantSlug], str]
    bounds: Bounds
    accept_edited: bool
    halt: Halt
    points: Points | None = None
    """Keeps the state before the first change; None: it is not wanted."""
    sessions: Sessions = TenantSession
    """A rehearsal measures what the session does."""

    def migrate(self, slug: TenantSlug) -> TenantResult:
        """Brings one tenant to the newest version, or says why not. ``seconds`` is left for the caller."""
        own = folder_of(self.folder, slug)
        if own is None:
            return TenantResult(slug=slug, outcome="failed", failure=NO_FOLDER)
        if own is not self.folder:
            return replace(self, folder=own).migrate(slug)
        try:
            with self.halt.session(slug, self.connect(slug, lambda: self.halt.stopping), self.sessions) as session:
                if isinstance(self.folder, AppliedByTool):
                    tool = self._by_tool(self.folder, self._keeping(slug))
                    return tool.migrate(slug, session, lambda: self.connect(slug, lambda: False))
                return self._transaction(slug, session)
        except Stopped:
            return TenantResult(slug=slug, outcome="not_started")
        except MigrationFailed as error:
            return TenantResult(slug=slug, outcome="failed", failure=error.failure)

    @property
    def _sql(self) -> AppliedBySession:
        assert isinstance(self.folder, AppliedBySession), "tools apply theirs themselves"
        return self.folder

    def _by_tool(self, folder: AppliedByTool, kept: Way | None) -> ByTool:
        return ByTool(
            folder=folder,
            lock_seconds=self.bounds.lock_seconds,
            statement_seconds=self.bounds.statement_seconds,
            tool_seconds=self.bounds.tool_seconds,
            accept_edited=self.accept_edited,
            stopping=lambda: self.halt.stopping,
            cancelled=lambda: self.halt.cancelling,
            position_wanted=kept == "lsn",
            keep=lambda base, position: self._kept(base, kept, position),
        )

    def connect(self, slug: TenantSlug, stopping: Callable[[], bool]) -> psycopg.Connection:
        """A connection to one tenant within the bounds. Raises MigrationFailed, or Stopped.

        The first way may have been asked for ahead: one that is refused is asked for again.
        """
        try:
            return self._connect(slug, stopping)
        except Refused:
            return self._connect(slug, stopping)

    def _connect(self, slug: TenantSlug, stopping: Callable[[], bool]) -> psycopg.Connection:
        try:
            dsn = self.dsn(slug)
        except TenantryError as error:
            raise MigrationFailed(Failure(kind="connect", message=error.message, next_step=error.next_step)) from error
        return connect(
            dsn,
            deadline_seconds=self.bounds.connect_deadline_seconds,
            connect_seconds=self.bounds.connect_seconds,
            stopping=stopping,
        )

    def _transaction(self, slug: TenantSlug, session: TenantSession) -> TenantResult:
        if self.halt.stopping:
            raise Stopped
        kept = self._keeping(slug)
        try:
            position = session.begin_locked(lock_seconds=self.bounds.lock_seconds, position=kept == "lsn")
            ledger = self.folder.read_ledger(session)
        except psycopg.Error as error:
            raise MigrationFailed(sql_failure(error, lost=not session.alive)) from error
        judgement = self.folder.judge(ledger)
        failpoint("migrate.judged")
        notes = judgement.notes
        if self.accept_edited:
            notes += tuple(each.message for each in judgement.objections if each.kind == "edited")
        objection = next(
            (each for each in judgement.objections if not (self.accept_edited and each.kind == "edited")), None
        )
        base = TenantResult(slug=slug, outcome="current", state=judgement.state, notes=notes)
        if objection is not None:
            session.rollback()
            failure = Failure(
                kind=objection.kind,
                message=objection.message,
                next_step=objection.next_step,
                migration=objection.version,
            )
            return replace(base, outcome="failed", failure=failure)
        if not judgement.pending:
            session.rollback()
            return base
        base = self._kept(base, kept, position)
        applied: list[Migration] = []
        try:
            for migrations in self._batches(judgement, session, create_ledger=ledger is None):
                applied += migrations
        except MigrationFailed as error:
            session.rollback()
            if error.failure.kind == "outcome_unknown" or (session.held and not session.alive):
                return self._settled(base, judgement, error.failure)
            failure = error.failure
            if failure.sqlstate == LOCK_TIMEOUT and failure.held_by is None and session.alive:
                failure = session.with_holders(failure, waited_seconds=self.bounds.lock_seconds)
            partly = self._applied(base, judgement, applied)
            return replace(partly, outcome="failed", failure=failure)
        failpoint("migrate.committed")
        return self._applied(base, judgement, applied)

    def _keeping(self, slug: TenantSlug) -> Way | None:
        """How the state before the first change is kept; None where nobody wants that."""
        if self.points is None:
            return None
        try:
            return self.points.way(slug)
        except TenantryError as error:
            raise MigrationFailed(_not_kept(error)) from error

    def _kept(self, base: TenantResult, way: Way | None, position: RestorePoint | None) -> TenantResult:
        """The result with its restore point. A snapshot is taken now, under the lock, while nobody else migrates."""
        if self.points is None or way is None:
            return base
        if way == "none":
            return replace(base, notes=(*base.notes, NOTE_NONE))
        try:
            return replace(base, restore_point=position or self.points.snapshot(base.slug))
        except TenantryError as error:
            raise MigrationFailed(_not_kept(error)) from error

    def _batches(
        self, judgement: Judgement, session: TenantSession, *, create_ledger: bool
    ) -> Generator[tuple[Migration, ...]]:
        """Applies what is pending, and gives the migrations of each commit after it. A transaction is open at first."""
        for migration in judgement.pending:
            _refuse(migration)
        folder = self._sql
        progress = self._progress(session)
        if judgement.half_applied is not None:
            progress = self._reconciled(judgement.half_applied, progress, session)
        try:
            if create_ledger:
                folder.create_ledger(session)
        except psycopg.Error as error:
            failure = sql_failure(error, lost=not session.alive)
            raise MigrationFailed(replace(failure, message=f"making the ledger: {failure.message}")) from error
        stepwise = {each.version for each in judgement.pending if each.stepwise or each.version in progress}
        if stepwise:
            session.hold_lock()
        opened = True
        for alone, group in groupby(judgement.pending, lambda each: each.version if each.version in stepwise else None):
            migrations = tuple(group)
            if not opened and self.halt.stopping:
                message = "stopped by the operator between two migrations"
                raise MigrationFailed(Failure(kind="cancelled", message=message, next_step="run again to go on"))
            if alone is None:
                if not opened:
                    self._begin(session)
                self._apply(migrations, session)
                self._commit(session)
            else:
                if opened:
                    self._commit(session)
                self._stepwise(migrations[0], session, progress.get(alone, []))
            opened = False
            yield migrations

    def _begin(self, session: TenantSession) -> None:
        try:
            session.begin(lock_seconds=self.bounds.lock_seconds)
        except psycopg.Error as error:
            raise MigrationFailed(sql_failure(error, lost=not session.alive)) from error

    def _progress(self, session: TenantSession) -> dict[str, list[ProgressRow]]:
        """Which of the folder's migrations are half applied by us."""
        try:
            progress = read_progress(session, self.folder.name)
        except psycopg.Error as error:
            raise MigrationFailed(sql_failure(error, lost=not session.alive)) from error
        ours = {each.version for each in self.folder.migrations}
        for version in progress:
            if version not in ours:
                message = f"{version} is half applied here, and this folder lacks it"
                next_step = "roll out the folder that has it first"
                raise MigrationFailed(Failure(kind="ahead", message=message, next_step=next_step, migration=version))
        return progress

    def _reconciled(
        self, half_applied: frozenset[str], progress: dict[str, list[ProgressRow]], session: TenantSession
    ) -> dict[str, list[ProgressRow]]:
        """The progress that the tool's own ledger confirms: what it calls begun is ours, or nobody's."""
        for version in sorted(half_applied - progress.keys()):
            raise MigrationFailed(
                Failure(
                    kind="half_applied",
                    message=f"{version} was begun here by another tool, and its ledger does not say that it ended",
                    next_step="look what it did in this tenant, and tell the tool's ledger; then run again",
                    migration=version,
                )
            )
        for version in progress.keys() - half_applied:
            # The ledger was told that it was rolled back by hand.
            forget_progress(session, self.folder.name, version)
        return {version: rows for version, rows in progress.items() if version in half_applied}

    def _stepwise(self, migration: Migration, session: TenantSession, rows: list[ProgressRow]) -> None:
        stepwise = Stepwise(
            folder=self._sql,
            session=session,
            migration=migration,
            lock_seconds=self.bounds.lock_seconds,
            statement_seconds=self.bounds.statement_seconds,
            cancelling=lambda: self.halt.cancelling,
            accept_edited=self.accept_edited,
        )
        stepwise.apply(rows)

    def _apply(self, migrations: tuple[Migration, ...], session: TenantSession) -> None:
        try:
            session.allow_statements(
                lock_seconds=self.bounds.lock_seconds, statement_seconds=self.bounds.statement_seconds
            )
        except psycopg.Error as error:
            raise MigrationFailed(sql_failure(error, lost=not session.alive)) from error
        for migration in migrations:
            if self.halt.cancelling:
                raise MigrationFailed(
                    Failure(kind="cancelled", message="cancelled by the operator", migration=migration.version)
                )
            self._ledger(self._sql.began, migration, session)
            session.run(migration)
            self._ledger(self._sql.record, migration, session)
            failpoint("migrate.applied")

    def _ledger(
        self, write: Callable[[TenantSession, Migration], None], migration: Migration, session: TenantSession
    ) -> None:
        try:
            write(session, migration)
        except psycopg.Error as error:
            failure = sql_failure(error, lost=not session.alive)
            message = f"writing the ledger row: {failure.message}"
            raise MigrationFailed(replace(failure, message=message, migration=migration.version)) from error

    def _commit(self, session: TenantSession) -> None:
        try:
            session.commit()
        except psycopg.Error as error:
            failure = sql_failure(error, lost=not session.alive, committing=True)
            if session.alive:
                raise MigrationFailed(failure) from error
            raise MigrationFailed(
                replace(
                    failure,
                    kind="outcome_unknown",
                    message=f"the connection was lost while committing: {failure.message}",
                    next_step="run again: the tenant's ledger tells whether it was committed",
                )
            ) from error

    def _settled(self, base: TenantResult, judged: Judgement, unknown: Failure) -> TenantResult:
        """Asks the ledger, once, whether a commit whose answer was lost took place."""
        try:
            connection = self.connect(base.slug, lambda: False)
            with closing(connection):
                session = TenantSession(connection)
                # The lock is free only when the lost transaction is over.
                session.begin_locked(lock_seconds=self.bounds.lock_seconds)
                now = self.folder.judge(self.folder.read_ledger(session))
        except (MigrationFailed, psycopg.Error):
            return replace(base, outcome="failed", state=None, failure=unknown)
        left = {each.version for each in now.pending}
        applied = [each for each in judged.pending if each.version not in left]
        known = self._applied(base, judged, applied)
        if known.state == now.state and not left:
            return known
        failure = replace(unknown, kind="connection_lost")
        if not applied and not unknown.statements_kept:
            failure = replace(failure, next_step="nothing of this run was kept; run again")
        return replace(known, outcome="failed", state=now.state, failure=failure)

    def _applied(self, base: TenantResult, judgement: Judgement, applied: Sequence[Migration]) -> TenantResult:
        """The result when these of the pending migrations are applied too."""
        place = {migration.version: index for index, migration in enumerate(self.folder.migrations)}
        pairs = [*judgement.applied, *((each.version, each.checksum) for each in applied)]
        pairs.sort(key=lambda pair: place.get(pair[0], len(place)))
        versions = tuple(each.version for each in applied)
        return replace(base, outcome="applied", applied=versions, state=state_of(self.folder.name, pairs))


def _not_kept(error: TenantryError) -> Failure:
    return Failure(
        kind="restore_point",
        message=f"its state could not be kept, and nothing was changed: {error.message}",
        next_step=error.next_step or "run again, or without restore points",
    )


def _refuse(migration: Migration) -> None:
    found = refused(migration)
    if found is not None:
        raise MigrationFailed(
            Failure(
                kind="refused",
                message=f"{found.excerpt}: {found.reason}",
                next_step=REFUSED_NEXT_STEP,
                migration=migration.version,
                file=migration.file,
                statement=found.statement,
                line=found.line,
            )
        )
