"""Migrates one tenant by the tool that its migrations are written for, under our lock; believes only the ledger.

The tool has a connection of its own and commits when it likes, so what it says is not what counts: its ledger is read
before it runs and after it has ended, however it ended.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from tenantry.fleet.migrations.formats.base import AppliedByTool, Judgement, ToolTask
from tenantry.fleet.migrations.restore_point import RestorePoint
from tenantry.fleet.migrations.results import Failure, MigrationFailed, TenantResult
from tenantry.fleet.migrations.session import Stopped, TenantSession, sql_failure
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.migrations.tools import APPLICATION_NAME, place_of
from tenantry.runtime.failpoints import failpoint

TOOL_SECONDS_DEFAULT: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ByTool:
    """What a run gives to each of its tenants. Threads share it."""

    folder: AppliedByTool
    lock_seconds: float
    statement_seconds: float
    tool_seconds: float
    accept_edited: bool
    stopping: Callable[[], bool]
    cancelled: Callable[[], bool]
    position_wanted: bool
    keep: Callable[[TenantResult, RestorePoint | None], TenantResult]
    """Keeps the state before the first change, by the position if there is one. Raises MigrationFailed."""

    def migrate(
        self, slug: TenantSlug, session: TenantSession, reconnect: Callable[[], psycopg.Connection]
    ) -> TenantResult:
        """Brings the tenant to the folder's newest version. Raises MigrationFailed when nothing was done."""
        if self.stopping():
            raise Stopped
        try:
            position = session.begin_locked(lock_seconds=self.lock_seconds, position=self.position_wanted)
            session.hold_lock()
            # Under the lock nobody else's tool can be at work: this one's runner is gone.
            session.end_sessions(APPLICATION_NAME)
            judgement, applied = self._read(session)
        except psycopg.Error as error:
            raise MigrationFailed(sql_failure(error, lost=not session.alive)) from error
        failpoint("migrate.judged")
        base, failure = objected(slug, judgement, accept_edited=self.accept_edited)
        if failure is not None:
            return replace(base, outcome="failed", failure=failure)
        if not judgement.pending:
            return base
        task = ToolTask(
            slug=slug,
            place=place_of(session.place(), lock_seconds=self.lock_seconds, statement_seconds=self.statement_seconds),
            pending=judgement.pending,
            applied=applied,
            lock_pid=session.pid,
            seconds_max=self.tool_seconds,
            cancelled=self.cancelled,
        )
        base = self.keep(base, position)
        said = self._apply(task)
        failpoint("migrate.applied")
        try:
            after = self._read_again(session, reconnect, task, said)
        except (MigrationFailed, psycopg.Error) as error:
            return _unknown(base, said, error)
        failpoint("migrate.committed")
        return _believed(base, judgement, after, said)

    def _apply(self, task: ToolTask) -> Failure | None:
        """What the tool complains of; None when it says that it is done."""
        try:
            self.folder.apply_by_tool(task)
        except MigrationFailed as error:
            return error.failure
        return None

    def _read(self, session: TenantSession) -> tuple[Judgement, frozenset[str]]:
        """What the ledger means, and its keys. Ends the transaction: the tool's locks must not wait for ours."""
        ledger = self.folder.read_ledger(session)
        session.commit()
        return self.folder.judge(ledger), frozenset(row.key for row in ledger or ())

    def _read_again(
        self,
        session: TenantSession,
        reconnect: Callable[[], psycopg.Connection],
        task: ToolTask,
        said: Failure | None,
    ) -> Judgement:
        """The ledger once the tool's sessions are over; on a new connection where ours has not survived."""
        try:
            session.begin(lock_seconds=self.lock_seconds)
            return self._settle(session, task, said)
        except psycopg.Error:
            if session.alive:
                raise
        with closing(reconnect()) as connection:
            again = TenantSession(connection)
            again.begin_locked(lock_seconds=self.lock_seconds)
            again.hold_lock()
            return self._settle(again, task, said)

    def _settle(self, session: TenantSession, task: ToolTask, said: Failure | None) -> Judgement:
        """In an open transaction: what the ledger says now."""
        if said is not None:
            # A killed tool's statement goes on at the server until somebody ends it.
            session.end_sessions(APPLICATION_NAME)
        else:
            self.folder.applied(session, task)
        return self._read(session)[0]


def objected(slug: TenantSlug, judgement: Judgement, *, accept_edited: bool) -> tuple[TenantResult, Failure | None]:
    """The result of a tenant to which nothing is done, and why it must not be migrated if it must not."""
    accepted = [each for each in judgement.objections if accept_edited and each.kind == "edited"]
    objection = next((each for each in judgement.objections if each not in accepted), None)
    notes = judgement.notes + tuple(each.message for each in accepted)
    base = TenantResult(slug=slug, outcome="current", state=judgement.state, notes=notes)
    if objection is None:
        return base, None
    return base, Failure(
        kind=objection.kind,
        message=objection.message,
        next_step=objection.next_step,
        migration=objection.version,
    )


def _believed(base: TenantResult, before: Judgement, after: Judgement, said: Failure | None) -> TenantResult:
    left = {migration.version for migration in after.pending}
    done = tuple(migration.version for migration in before.pending if migration.version not in left)
    now = replace(base, state=after.state, applied=done)
    if not left and not after.objections:
        notes = () if said is None else (f"the ledger has everything, though the tool failed afterwards: {said}",)
        return replace(now, outcome="applied", notes=base.notes + notes)
    if said is None:
        missing = next(iter(migration.version for migration in after.pending), before.pending[-1].version)
        said = Failure(
            kind="tool",
            message=f"the tool says that it is done, and {missing} is not in the tenant's ledger",
            next_step="see that the project migrates the database that it is given, and keeps its versions there",
            migration=missing,
        )
    return replace(now, outcome="failed", failure=said)


def _unknown(base: TenantResult, said: Failure | None, error: Exception) -> TenantResult:
    why = said or Failure(kind="outcome_unknown", message="the tool says that it is done")
    failure = replace(
        why,
        kind="outcome_unknown",
        message=f"{why.message}; and the ledger could not be read afterwards: {error}",
        next_step="run again: the tenant's ledger tells what was kept",
    )
    return replace(base, outcome="failed", state=None, failure=failure)
