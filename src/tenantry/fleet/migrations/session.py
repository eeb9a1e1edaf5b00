"""One connection to one tenant: opening it within bounds, its transactions, and the place of an error in its file.

A migration's segment is sent as it stands in one simple-protocol message, as psql and node-postgres do, so what
works with them works here; the number of results that came before the error tells which statement failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final, LiteralString

import psycopg
import stamina
from psycopg import errors as pg
from psycopg import generators, pq
from psycopg.conninfo import conninfo_to_dict

from tenantry.errors import Defect
from tenantry.fleet.migrations import tenant_sql, tool_sql
from tenantry.fleet.migrations.formats.base import Migration, Segment
from tenantry.fleet.migrations.restore_point import RestorePoint
from tenantry.fleet.migrations.results import Failure, MigrationFailed
from tenantry.fleet.migrations.sqlstates import NEXT_STEPS
from tenantry.postgres.lsn import Lsn, parse_lsn

CONNECT_ATTEMPTS_MAX: Final = 6
CONNECT_PAUSE_SECONDS_FIRST: Final = 0.1
CONNECT_PAUSE_SECONDS_MAX: Final = 2.0
CANCEL_SECONDS_MAX: Final = 5.0
ERROR_TEXT_LENGTH_MAX: Final = 2_000
"""Characters of a server's message that are kept; a migration may raise a text of any length."""

_FINAL_WORDS: Final = ("password authentication failed", "does not exist", "no pg_hba.conf entry", "unknown endpoint")
"""Refusals that asking again does not change. libpq gives no SQLSTATE for a failed connection, only the text."""

LOCK_PAUSE_SECONDS: Final = 0.1
"""Between two askings for another runner's lock."""

KEEPALIVE_IDLE_SECONDS: Final = 30
KEEPALIVE_INTERVAL_SECONDS: Final = 10
KEEPALIVE_COUNT: Final = 3
"""A long statement has no timeout of ours, so a vanished host is noticed by TCP, within a minute."""


class Refused(MigrationFailed):
    """The tenant's server answered, and does not let this login in."""


class Stopped(Exception):
    """The run is being stopped, and this tenant's transaction has not begun."""


def connect(
    dsn: str, *, deadline_seconds: float, connect_seconds: float, stopping: Callable[[], bool]
) -> psycopg.Connection:
    """A connection in autocommit mode, tried again within the deadline while the tenant wakes or restarts.

    Raises MigrationFailed of the kind ``connect`` (Refused where trying again changes nothing), or Stopped.
    """
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Its message quotes the string, which has the password in it.
        raise Defect("the tenant's connection string is not one that libpq reads") from None

    def once() -> psycopg.Connection:
        if stopping():
            raise Stopped
        return psycopg.connect(
            dsn,
            autocommit=True,
            prepare_threshold=None,
            connect_timeout=max(2, round(connect_seconds)),
            application_name="tenantry migrate",
            client_encoding="utf8",
            keepalives_idle=KEEPALIVE_IDLE_SECONDS,
            keepalives_interval=KEEPALIVE_INTERVAL_SECONDS,
            keepalives_count=KEEPALIVE_COUNT,
        )

    # The machinery of retrying costs a tenant a tenth of the client's time, and nearly none needs it.
    try:
        return once()
    except psycopg.OperationalError as error:
        if not _worth_another_try(error):
            raise _not_connected(error) from error
    try:
        for attempt in stamina.retry_context(
            on=_worth_another_try,
            attempts=CONNECT_ATTEMPTS_MAX,
            timeout=deadline_seconds,
            wait_initial=CONNECT_PAUSE_SECONDS_FIRST,
            wait_max=CONNECT_PAUSE_SECONDS_MAX,
        ):
            with attempt:
                return once()
    except psycopg.OperationalError as error:
        raise _not_connected(error) from error
    raise Defect("retrying ended without a connection and without an error")


def _not_connected(error: psycopg.OperationalError) -> MigrationFailed:
    kind = MigrationFailed if _worth_another_try(error) else Refused
    return kind(
        Failure(
            kind="connect",
            sqlstate=error.sqlstate,
            message=shortened(" ".join(str(error).split())),
            next_step="see that the tenant's endpoint answers (`tenantry psql`), then run again",
        )
    )


def _worth_another_try(error: Exception) -> bool:
    return isinstance(error, psycopg.OperationalError) and not any(word in str(error) for word in _FINAL_WORDS)


class TenantSession:
    """A tenant's connection and its open transaction. One thread uses it; ``cancel`` may come from another."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        self.held = False
        """Whether the lock outlasts the transaction: then parts of the work may be committed already."""

    def query(self, sql: LiteralString, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """One statement of ours; its rows, or none."""
        cursor = self._connection.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def begin_reading(self, *, lock_seconds: float) -> None:
        """Opens a transaction that can change nothing; it waits for no other runner."""
        self._connection.execute(tenant_sql.begin_reading(lock_seconds=lock_seconds))

    def begin_locked(self, *, lock_seconds: float, position: bool = False) -> RestorePoint | None:
        """Opens the transaction and waits, as long as the lock timeout says, for another runner to finish.

        With ``position`` it returns where the log of the tenant's server was then. Our own bounds hold until
        ``allow_statements``. Raises MigrationFailed (``locked``).
        """
        deadline = time.monotonic() + lock_seconds
        while (told := self._try_locked(lock_seconds, position=position)) is None:
            self.rollback()
            if time.monotonic() >= deadline:
                raise MigrationFailed(
                    Failure(
                        kind="locked",
                        sqlstate=pg.LockNotAvailable.sqlstate,
                        message="another runner is migrating this tenant",
                        next_step="run again when it has finished",
                    )
                )
            time.sleep(LOCK_PAUSE_SECONDS)
        for lsn, at in told:
            return RestorePoint(kind="lsn", value=str(lsn), at=at)
        return None

    def _try_locked(self, lock_seconds: float, *, position: bool) -> list[Any] | None:
        """The rows that tell the position, which may be none; or None when the lock is another's."""
        cursor = self._connection.execute(tenant_sql.begin_locked(lock_seconds=lock_seconds, position=position))
        while cursor.description is None:
            assert cursor.nextset(), "the lock is asked for"
        if cursor.fetchall() != [(True,)]:
            return None
        return cursor.fetchall() if cursor.nextset() else []

    def hold_lock(self) -> None:
        """Keeps the lock that this transaction has until the connection is closed."""
        if self.query(tenant_sql.HOLD_LOCK, [tenant_sql.ADVISORY_LOCK_KEY]) != [(True,)]:
            raise Defect("the lock of this very transaction is not to be had for its session")
        self.held = True

    def begin(self, *, lock_seconds: float) -> None:
        """Opens a further transaction under the lock that the session holds."""
        self._connection.execute(tenant_sql.begin(lock_seconds=lock_seconds))

    def begin_step(self) -> None:
        """Opens a transaction with the bounds that the session has."""
        self._connection.execute(tenant_sql.BEGIN)

    def allow_steps(self, *, lock_seconds: float, statement_seconds: float) -> None:
        """The bounds of statements that run in no transaction; 0 seconds is no bound."""
        self._connection.execute(
            tenant_sql.set_session_timeouts(lock_seconds=lock_seconds, statement_seconds=statement_seconds)
        )

    def command(self, sql: bytes) -> None:
        """One statement that ``tenant_sql`` made, outside a transaction."""
        self._connection.execute(sql)

    def position(self) -> Lsn:
        """Where the log of the tenant's server is."""
        [(lsn, _)] = self.query(tenant_sql.TELL_POSITION)
        return parse_lsn(str(lsn))

    @property
    def pid(self) -> int:
        """The server's process of this session."""
        return self._connection.info.backend_pid

    def place(self) -> dict[str, str]:
        """The libpq keywords that lead here, the password among them; what is everybody's default is left out.

        So is what only our own libpq knows: a tool brings another.
        """
        return {
            each.keyword.decode(): each.val.decode()
            for each in self._connection.pgconn.info
            if each.val and each.val != each.compiled and not each.keyword.startswith(b"scram_")
        }

    def end_sessions(self, application_name: str) -> None:
        """Ends the other sessions of that name in this database, and waits until they are gone.

        Raises MigrationFailed (``locked``) when they do not go.
        """
        [(left, _)] = self.query(tool_sql.END_SESSIONS, [application_name])
        if left:
            raise MigrationFailed(
                Failure(
                    kind="locked",
                    message=f"{left} sessions of a tool that was killed are still at work in this tenant",
                    next_step="wait until they have ended (pg_stat_activity), then run again",
                )
            )

    def with_holders(self, failure: Failure, *, waited_seconds: float) -> Failure:
        """Names the oldest transactions of others that were open when a wait began, to whom Postgres shows them."""
        try:
            holders = self.query(tenant_sql.HOLDERS, [waited_seconds])
        except psycopg.Error:
            return failure
        said = ", ".join(
            f"session {pid} ({name or 'no application name'}, {state}) for {seconds} s"
            for pid, name, state, seconds in holders
        )
        return replace(failure, held_by=said or None)

    def allow_statements(self, *, lock_seconds: float, statement_seconds: float) -> None:
        """The bounds for the migrations' own statements; 0 seconds is no bound."""
        self._connection.execute(
            tenant_sql.set_timeouts(lock_seconds=lock_seconds, statement_seconds=statement_seconds)
        )

    def run(self, migration: Migration, segments: Sequence[Segment] | None = None) -> None:
        """Sends the migration's segments, or these of them, inside the open transaction.

        Raises MigrationFailed with the statement's place.
        """
        for segment in migration.segments if segments is None else segments:
            self.send(migration, segment)
        if not self._in_transaction:
            raise Defect(f"{migration.file} left the transaction it was run in", migration=migration.version)

    def send(self, migration: Migration, segment: Segment) -> None:
        """Sends one segment in one message. Raises MigrationFailed with the statement's place."""
        try:
            done, error = self._send(segment.text)
        except psycopg.OperationalError as broken:
            failure = replace(sql_failure(broken, lost=True), migration=migration.version, file=migration.file)
            raise MigrationFailed(failure) from broken
        if error is not None:
            plain = sql_failure(error, lost=not self.alive)
            raise MigrationFailed(_placed(plain, error, migration, segment, done)) from error

    def _send(self, text: str) -> tuple[int, psycopg.Error | None]:
        """How many statements succeeded, and the error of the one after them."""
        connection = self._connection
        connection.pgconn.send_query(text.encode())
        done = 0
        for result in connection.wait(generators.execute(connection.pgconn)):
            if result.status in {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH}:
                # Only closing leaves the copy mode from here; the transaction goes with it.
                connection.close()
                return done, pg.FeatureNotSupported("COPY from or to the client is not possible in a migration")
            if result.status == pq.ExecStatus.FATAL_ERROR:
                return done, pg.error_from_result(result, encoding="utf-8")
            done += result.status != pq.ExecStatus.EMPTY_QUERY
        return done, None

    @property
    def _in_transaction(self) -> bool:
        return self._connection.pgconn.transaction_status == pq.TransactionStatus.INTRANS

    def commit(self) -> None:
        """Commits. Raises psycopg.Error when the server refuses, Defect when it rolled back instead."""
        cursor = self._connection.execute(tenant_sql.COMMIT)
        if cursor.statusmessage != tenant_sql.COMMIT:
            raise Defect(f"the server answered {cursor.statusmessage} to COMMIT")

    def rollback(self) -> None:
        """Ends the transaction without a trace; safe on a connection that is gone."""
        try:
            if self.alive:
                self.query(tenant_sql.ROLLBACK)
        except psycopg.Error:
            # A server that does not take the ROLLBACK has lost the connection, and rolls back because of that.
            return

    @property
    def alive(self) -> bool:
        return not self._connection.closed and not self._connection.broken

    def cancel(self) -> None:
        """Asks the server to end the statement that runs now; what cannot be asked is left to run."""
        try:
            self._connection.cancel_safe(timeout=CANCEL_SECONDS_MAX)
        except psycopg.Error:
            # The connection is gone, or its server unreachable: then there is nothing to cancel, or no way to.
            return


def sql_failure(error: psycopg.Error, *, lost: bool, committing: bool = False) -> Failure:
    """What a failed statement of ours, or a failed commit, means for the tenant."""
    message = shortened(error.diag.message_primary or " ".join(str(error).split()))
    if lost:
        return Failure(
            kind="connection_lost",
            sqlstate=error.sqlstate,
            message=f"the connection was lost: {message}",
            next_step="nothing of this run was kept; run again",
        )
    return Failure(
        kind="cancelled" if _by_user(error) else "sql",
        sqlstate=error.sqlstate,
        message=f"the commit failed: {message}" if committing else message,
        detail=shortened(error.diag.message_detail or "") or None,
        hint=shortened(error.diag.message_hint or "") or None,
        next_step=NEXT_STEPS.get(error.sqlstate or "", "mend the cause in this tenant, then run again"),
    )


def _by_user(error: psycopg.Error) -> bool:
    # One SQLSTATE for both: a statement timeout says so in its text.
    return isinstance(error, pg.QueryCanceled) and "timeout" not in (error.diag.message_primary or "")


def _placed(plain: Failure, error: psycopg.Error, migration: Migration, segment: Segment, done: int) -> Failure:
    """The failure of a statement of ``segment``, of which ``done`` succeeded before, placed in its file."""
    place = replace(plain, migration=migration.version, file=migration.file)
    pointer = error.diag.statement_position
    if pointer is not None and pointer.isdigit():
        # A syntax error fails the whole message before its first statement runs: the pointer knows better than done.
        within = int(pointer) - 1
        number = max((i for i, each in enumerate(segment.statements) if each.start <= within), default=done)
        line, column = migration.line_and_column(segment.offset + within)
        place = replace(place, line=line, column=column, position=segment.offset + within + 1)
    else:
        number = done
        if done < len(segment.statements):
            line, _ = migration.line_and_column(segment.offset + segment.statements[done].start)
            place = replace(place, line=line)
    return replace(place, statement=segment.statements_before + number + 1)


def shortened(text: str) -> str:
    return text[:ERROR_TEXT_LENGTH_MAX]
