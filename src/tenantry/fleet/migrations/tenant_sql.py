"""All SQL of ours that runs inside tenants. Migrations bring their own; nothing else is sent.

Functions are named with ``pg_catalog``: a tenant may have functions of the same name and a ``search_path`` of its own.
"""

from __future__ import annotations

from typing import Final, LiteralString

ADVISORY_LOCK_KEY: Final = 0x74656E616E747279  # "tenantry"
"""One runner at a time inside a database; the number is public so that other tools can hold it too."""

LEDGER_ROWS_MAX: Final = 10_000
"""A ledger belongs to the tenant, who may fill it with anything: rows and texts read from it are bounded."""
LEDGER_SECONDS_MAX: Final = 30
"""The statement timeout of our own statements, for a ledger that somebody made into a slow view."""

_BEGIN_WRITING: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""READ COMMITTED is needed, whatever the tenant's default: the ledger is read after the lock was waited for."""
_BEGIN_READING: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
_SET_TIMEOUTS: Final = "SET LOCAL lock_timeout = {lock_ms}; SET LOCAL statement_timeout = {statement_ms}"
_TAKE_LOCK: Final = f"SELECT pg_catalog.pg_advisory_xact_lock({ADVISORY_LOCK_KEY})"
_TELL_POSITION: Final = "SELECT pg_catalog.pg_current_wal_insert_lsn()::text, pg_catalog.clock_timestamp()"
COMMIT: Final[LiteralString] = "COMMIT"
ROLLBACK: Final[LiteralString] = "ROLLBACK"


def set_timeouts(*, lock_seconds: float, statement_seconds: float) -> bytes:
    """Bounds for the rest of the transaction; 0 is none."""
    return _SET_TIMEOUTS.format(
        lock_ms=round(lock_seconds * 1000), statement_ms=round(statement_seconds * 1000)
    ).encode()


def begin_locked(*, lock_seconds: float, position: bool = False) -> bytes:
    """Begins, in one message: the transaction, the bounds for our own statements, the lock; then asks, if wanted, for
    the position in the log, behind which nobody's migration can be any more."""
    # Waiting for the lock counts as running the statement.
    timeouts = set_timeouts(lock_seconds=lock_seconds, statement_seconds=lock_seconds + LEDGER_SECONDS_MAX)
    asked = [_TELL_POSITION.encode()] if position else []
    return b"; ".join([_BEGIN_WRITING.encode(), timeouts, _TAKE_LOCK.encode(), *asked])


def begin_reading(*, lock_seconds: float) -> bytes:
    """Begins a transaction that can change nothing, and takes no lock."""
    timeouts = set_timeouts(lock_seconds=lock_seconds, statement_seconds=lock_seconds + LEDGER_SECONDS_MAX)
    return b"; ".join([_BEGIN_READING.encode(), timeouts])


TABLE_EXISTS: Final[LiteralString] = "SELECT pg_catalog.to_regclass(%s::text) IS NOT NULL"

# Drizzle's ledger: the statements of drizzle-orm's migrator, with its names.
DRIZZLE_TABLE: Final[LiteralString] = "drizzle.__drizzle_migrations"
DRIZZLE_CREATE_SCHEMA: Final[LiteralString] = 'CREATE SCHEMA IF NOT EXISTS "drizzle"'
DRIZZLE_CREATE_TABLE: Final[LiteralString] = """\
CREATE TABLE IF NOT EXISTS "drizzle"."__drizzle_migrations" (
    id SERIAL PRIMARY KEY,
    hash text NOT NULL,
    created_at bigint
)"""
DRIZZLE_READ: Final[LiteralString] = (
    'SELECT created_at::text, pg_catalog.left(hash, 128) FROM "drizzle"."__drizzle_migrations" LIMIT %s'
)
DRIZZLE_INSERT: Final[LiteralString] = (
    'INSERT INTO "drizzle"."__drizzle_migrations" ("hash", "created_at") VALUES (%s, %s)'
)

# Our own ledger, for folders of plain SQL.
SQL_TABLE: Final[LiteralString] = "tenantry.migrations"
SQL_CREATE_SCHEMA: Final[LiteralString] = "CREATE SCHEMA IF NOT EXISTS tenantry"
SQL_CREATE_TABLE: Final[LiteralString] = """\
CREATE TABLE IF NOT EXISTS tenantry.migrations (
    version text PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    applied_by text NOT NULL DEFAULT CURRENT_USER
)"""
SQL_READ: Final[LiteralString] = (
    "SELECT pg_catalog.left(version, 128), pg_catalog.left(checksum, 128) FROM tenantry.migrations LIMIT %s"
)
SQL_INSERT: Final[LiteralString] = "INSERT INTO tenantry.migrations (version, name, checksum) VALUES (%s, %s, %s)"
