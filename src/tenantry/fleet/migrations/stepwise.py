"""Applies one migration that no transaction can hold, statement by statement, so that a kill at any moment is resumed.

Each step that a transaction can hold commits together with its rows of progress in the tenant. A statement that no
transaction may hold has its row before it begins and is marked done after it; a resume that finds the row without the
mark looks at what the statement makes, and mends what a broken attempt left (an invalid index, a half detached
partition). Runs under the session's lock; must never run a statement again that may have taken place.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import psycopg

from tenantry.fleet.migrations import tenant_sql
from tenantry.fleet.migrations.alone import (
    Alone,
    CreateIndex,
    Database,
    DetachPartition,
    DropIndex,
    Reindex,
    same_definition,
)
from tenantry.fleet.migrations.formats.base import AppliedBySession, Migration, read_rows
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.session import ERROR_TEXT_LENGTH_MAX, TenantSession, sql_failure
from tenantry.fleet.migrations.steps import STARTED, Place, ProgressRow, Step, place_of, session_settings, steps_after
from tenantry.runtime.failpoints import failpoint

ATTEMPTS_MAX: Final = 3
"""Of a statement that waits for other transactions, each bounded by the lock timeout."""
PAUSE_SECONDS_FIRST: Final = 1.0
"""Between two attempts; doubled each time."""
_POLL_SECONDS: Final = 0.1
_WAITED: Final = frozenset({"55P03", "40P01"})
"""Lock timeout and deadlock: another attempt may find the way free."""

_IN_WORK: Final = "55006"
"""Postgres' code for an object in use: here an index that somebody else is building."""


def read_progress(session: TenantSession, format_name: str) -> dict[str, list[ProgressRow]]:
    """Which migrations of this format are half applied in the tenant. Inside a transaction."""
    rows = read_rows(session, tenant_sql.PROGRESS_TABLE, tenant_sql.PROGRESS_READ, [format_name])
    found: defaultdict[str, list[ProgressRow]] = defaultdict(list)
    for version, number, checksum, done in rows or ():
        found[str(version)].append(ProgressRow(int(str(number)), str(checksum), bool(done)))
    return dict(found)


def forget_progress(session: TenantSession, format_name: str, version: str) -> None:
    """Lets a migration begin anew. Inside a transaction."""
    session.query(tenant_sql.PROGRESS_DELETE, [format_name, version])


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepwise:
    """Applies one migration in one tenant. The session holds the lock and has no transaction open."""

    folder: AppliedBySession
    session: TenantSession
    migration: Migration
    lock_seconds: float
    statement_seconds: float
    cancelling: Callable[[], bool]
    accept_edited: bool

    def apply(self, rows: Sequence[ProgressRow]) -> None:
        """All that is left of it, and its ledger row. Raises MigrationFailed."""
        place = place_of(self.migration, rows, accept_edited=self.accept_edited)
        if isinstance(place, Failure):
            raise MigrationFailed(place)
        done = place.done
        try:
            self._prepare(place, first=not rows)
            for step in steps_after(self.migration, place.done):
                if self.cancelling():
                    raise MigrationFailed(Failure(kind="cancelled", message="cancelled by the operator"))
                if step.alone is None:
                    self._together(step)
                else:
                    self._alone(step, step.alone, begun=place.begun and step.numbers[0] == place.done + 1)
                done = step.numbers[-1]
                failpoint("migrate.step_done")
            self._finish()
        except MigrationFailed as error:
            raise MigrationFailed(self._told(error.failure, done)) from error
        except psycopg.Error as error:
            failure = sql_failure(error, lost=not self.session.alive)
            failure = replace(failure, message=f"keeping the progress of the migration: {failure.message}")
            raise MigrationFailed(self._told(failure, done)) from error

    def _told(self, failure: Failure, done: int) -> Failure:
        """Says that what is done stays."""
        stays = f"the {done} statement(s) before it stay; running again goes on from there"
        if failure.kind == "connection_lost":
            stays = "what was done stays; running again looks, and goes on from there"
        elif not done:
            stays = ""
        return replace(
            failure,
            migration=self.migration.version,
            file=self.migration.file,
            statements_kept=done,
            next_step="; ".join(filter(None, [failure.next_step if failure.kind != "connection_lost" else "", stays])),
        )

    def _prepare(self, place: Place, *, first: bool) -> None:
        self.session.begin(lock_seconds=self.lock_seconds)
        if first:
            self.session.query(tenant_sql.SQL_CREATE_SCHEMA)
            self.session.query(tenant_sql.PROGRESS_CREATE_TABLE)
            self.session.query(tenant_sql.PROGRESS_ADD, [*self._key, [STARTED], [self.migration.checksum]])
        self.folder.began(self.session, self.migration)
        self.session.commit()
        self.session.allow_steps(lock_seconds=self.lock_seconds, statement_seconds=self.statement_seconds)
        for segment in session_settings(self.migration, place.done):
            self.session.send(self.migration, segment)

    def _together(self, step: Step) -> None:
        self.session.begin_step()
        try:
            self.session.run(self.migration, step.segments)
            self.session.query(tenant_sql.PROGRESS_ADD, [*self._key, list(step.numbers), list(step.checksums)])
            failpoint("migrate.step_ran")
            self.session.commit()
        except psycopg.Error as error:
            self.session.rollback()
            failure = sql_failure(error, lost=not self.session.alive, committing=True)
            raise MigrationFailed(replace(failure, statement=step.numbers[-1])) from error
        except MigrationFailed:
            self.session.rollback()
            raise

    def _finish(self) -> None:
        self.session.begin(lock_seconds=self.lock_seconds)
        try:
            self.folder.record(self.session, self.migration)
            self.session.query(tenant_sql.PROGRESS_DELETE, self._key)
            failpoint("migrate.applied")
            self.session.commit()
        except psycopg.Error:
            self.session.rollback()
            raise

    @property
    def _key(self) -> list[str]:
        return [self.folder.name, self.migration.version]

    # ------------------------------------------------------------------------- a statement that no transaction holds

    def _alone(self, step: Step, statement: Alone, *, begun: bool) -> None:
        (number,), (checksum,), (segment,) = step.numbers, step.checksums, step.segments
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                if self._took_place(statement, begun=begun):
                    break
                if not begun:
                    self.session.query(tenant_sql.PROGRESS_BEGIN, [*self._key, number, checksum])
                    begun = True
                failpoint("migrate.step_begun")
                self.session.send(self.migration, segment)
                failpoint("migrate.step_ran")
                break
            except MigrationFailed as error:
                failure = replace(error.failure, statement=number)
            except psycopg.Error as error:
                failure = sql_failure(error, lost=not self.session.alive)
                message = f"before or after it, looking for what an attempt left: {failure.message}"
                failure = replace(failure, message=message, statement=number)
            if not self.session.alive:
                raise MigrationFailed(failure)
            if failure.sqlstate in _WAITED:
                failure = self.session.with_holders(failure, waited_seconds=self.lock_seconds)
            if failure.sqlstate not in _WAITED or attempt == ATTEMPTS_MAX or not self._pause(attempt):
                ours = begun and failure.sqlstate != _IN_WORK
                raise MigrationFailed(self._left_behind(failure, statement, number) if ours else failure)
        if self.session.query(tenant_sql.PROGRESS_FINISH, [*self._key, number]) == []:
            # It was there before us, and nothing was begun.
            self.session.query(tenant_sql.PROGRESS_ADD, [*self._key, [number], [checksum]])

    def _pause(self, attempt: int) -> bool:
        """Waits before the next attempt; false when the operator cancels meanwhile."""
        until = time.monotonic() + PAUSE_SECONDS_FIRST * 2 ** (attempt - 1)
        while time.monotonic() < until:
            if self.cancelling():
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _took_place(self, statement: Alone, *, begun: bool) -> bool:
        """Whether the statement needs not be sent any more, once what a broken attempt left is mended."""
        query = self.session.query
        match statement:
            case CreateIndex():
                return self._index_is_there(statement, begun=begun)
            case DropIndex():
                return begun and query(tenant_sql.TABLE_EXISTS, [statement.name]) == [(False,)]
            case Reindex() if begun:
                named = statement.name if statement.kind in {"index", "table"} else None
                for (leftover,) in query(tenant_sql.REINDEX_LEFTOVERS, [named, named]):
                    self.session.command(tenant_sql.drop_index(str(leftover)))
            case DetachPartition() if begun:
                pending = query(tenant_sql.DETACHING, [statement.table, statement.partition])
                if pending == [(True,)]:
                    self.session.command(tenant_sql.finish_detaching(statement.table, statement.partition))
                return pending != [(False,)]
            case Database() if begun:
                return query(tenant_sql.DATABASE_EXISTS, [statement.name]) == [(statement.verb == "create",)]
            case _:
                pass
        return False

    def _index_is_there(self, statement: CreateIndex, *, begun: bool) -> bool:
        found = self.session.query(tenant_sql.INDEX_OF_TABLE, [statement.table, statement.name])
        if not found:
            return False
        ((qualified, valid, in_work, indexdef),) = found
        if valid:
            # Of an attempt whose answer was lost, or made by hand before.
            if begun or statement.if_not_exists or same_definition(statement, str(indexdef)):
                return True
            raise MigrationFailed(
                Failure(
                    kind="sql",
                    sqlstate="42P07",
                    message=f"the index {statement.name} exists here with another definition",
                    detail=str(indexdef)[:ERROR_TEXT_LENGTH_MAX],
                    next_step="drop it in this tenant, or give the migration's index another name; then run again",
                )
            )
        if in_work:
            message = f"the index {statement.name} is being built by another session"
            raise MigrationFailed(
                Failure(kind="sql", sqlstate=_IN_WORK, message=message, next_step="run again when it is built")
            )
        self.session.command(tenant_sql.drop_index(str(qualified)))
        return False

    def _left_behind(self, failure: Failure, statement: Alone, number: int) -> Failure:
        """Mends at once what the failed statement left: an invalid index costs every write, and may refuse some."""
        if isinstance(statement, DetachPartition):
            return failure
        try:
            if isinstance(statement, CreateIndex | Reindex):
                self._took_place(statement, begun=True)
            self.session.query(tenant_sql.PROGRESS_TAKE_BACK, [*self._key, number])
        except (MigrationFailed, psycopg.Error):
            what = "an invalid index is left" if isinstance(statement, CreateIndex | Reindex) else "it is unfinished"
            return replace(failure, message=f"{failure.message} ({what} until the next run)")
        return failure
