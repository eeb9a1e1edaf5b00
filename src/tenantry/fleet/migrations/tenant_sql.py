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

_BEGIN_READING: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
_SET_TIMEOUTS: Final = "SET LOCAL lock_timeout = {lock_ms}; SET LOCAL statement_timeout = {statement_ms}"
_TRY_LOCK: Final = f"SELECT pg_catalog.pg_try_advisory_xact_lock({ADVISORY_LOCK_KEY})"
TELL_POSITION: Final[LiteralString] = (
    "SELECT pg_catalog.pg_current_wal_insert_lsn()::text, pg_catalog.clock_timestamp()"
)
HOLD_LOCK: Final[LiteralString] = "SELECT pg_catalog.pg_try_advisory_lock(%s)"
"""The same lock for the session, taken while the transaction holds it. Ends with the connection."""
BEGIN: Final[LiteralString] = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""READ COMMITTED is needed, whatever the tenant's default: the ledger is read after the lock was taken."""
COMMIT: Final[LiteralString] = "COMMIT"
ROLLBACK: Final[LiteralString] = "ROLLBACK"


def set_timeouts(*, lock_seconds: float, statement_seconds: float) -> bytes:
    """Bounds for the rest of the transaction; 0 is none."""
    return _SET_TIMEOUTS.format(
        lock_ms=round(lock_seconds * 1000), statement_ms=round(statement_seconds * 1000)
    ).encode()


def set_session_timeouts(*, lock_seconds: float, statement_seconds: float) -> bytes:
    """The same for the session, until a migration sets others."""
    return set_timeouts(lock_seconds=lock_seconds, statement_seconds=statement_seconds).replace(b"SET LOCAL", b"SET")


def begin(*, lock_seconds: float) -> bytes:
    """Begins, with the bounds for our own statements."""
    timeouts = set_timeouts(lock_seconds=lock_seconds, statement_seconds=LEDGER_SECONDS_MAX)
    return b"; ".join([BEGIN.encode(), timeouts])


def begin_locked(*, lock_seconds: float, position: bool = False) -> bytes:
    """Begins, in one message: the transaction, the bounds for our own statements, the lock if it is free; then asks, if
    wanted, for the position in the log, behind which nobody's migration can be when the lock is ours.

    Never waits for the lock inside a transaction: CREATE INDEX CONCURRENTLY of whoever holds it would wait for ours.
    """
    asked = [TELL_POSITION.encode()] if position else []
    return b"; ".join([begin(lock_seconds=lock_seconds), _TRY_LOCK.encode(), *asked])


def begin_reading(*, lock_seconds: float) -> bytes:
    """Begins a transaction that can change nothing, and takes no lock."""
    timeouts = set_timeouts(lock_seconds=lock_seconds, statement_seconds=LEDGER_SECONDS_MAX)
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

# The same ledger as drizzle-orm 1.x has it: migrations are known by their names.
DRIZZLE_V1_CREATE_TABLE: Final[LiteralString] = """\
CREATE TABLE IF NOT EXISTS "drizzle"."__drizzle_migrations" (
    id SERIAL PRIMARY KEY,
    hash text NOT NULL,
    created_at bigint,
    name text,
    applied_at timestamp with time zone DEFAULT now()
)"""
DRIZZLE_V1_READ: Final[LiteralString] = (
    "SELECT pg_catalog.left(pg_catalog.to_jsonb(m) ->> 'name', 256), created_at::text, pg_catalog.left(hash, 128)"
    ' FROM "drizzle"."__drizzle_migrations" m LIMIT %s'
)
"""Reads the older form too, which has no names."""
DRIZZLE_V1_HAS_NAMES: Final[LiteralString] = (
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attname = 'name' AND NOT attisdropped"
    " AND attrelid = pg_catalog.to_regclass('drizzle.__drizzle_migrations'))"
)
DRIZZLE_V1_ADD_NAME: Final[LiteralString] = (
    'ALTER TABLE "drizzle"."__drizzle_migrations" ADD COLUMN IF NOT EXISTS "name" text'
)
DRIZZLE_V1_ADD_TIME: Final[LiteralString] = (
    'ALTER TABLE "drizzle"."__drizzle_migrations"'
    ' ADD COLUMN IF NOT EXISTS "applied_at" timestamp with time zone DEFAULT now()'
)
DRIZZLE_V1_SET_NAME: Final[LiteralString] = (
    'UPDATE "drizzle"."__drizzle_migrations" SET "name" = %s, "applied_at" = NULL'
    " WHERE created_at = %s AND hash = %s AND name IS NULL"
)
DRIZZLE_V1_INSERT: Final[LiteralString] = (
    'INSERT INTO "drizzle"."__drizzle_migrations" ("hash", "created_at", "name") VALUES (%s, %s, %s)'
)

# Prisma's ledger: the table and the rows of its schema engine.
PRISMA_TABLE: Final[LiteralString] = "public._prisma_migrations"
PRISMA_CREATE_TABLE: Final[LiteralString] = """\
CREATE TABLE IF NOT EXISTS public._prisma_migrations (
    id VARCHAR(36) PRIMARY KEY NOT NULL,
    checksum VARCHAR(64) NOT NULL,
    finished_at TIMESTAMPTZ,
    migration_name VARCHAR(255) NOT NULL,
    logs TEXT,
    rolled_back_at TIMESTAMPTZ,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    applied_steps_count INTEGER NOT NULL DEFAULT 0
)"""
PRISMA_READ: Final[LiteralString] = (
    "SELECT pg_catalog.left(migration_name, 256), pg_catalog.left(checksum, 128), finished_at IS NOT NULL"
    " FROM public._prisma_migrations"
    " WHERE rolled_back_at IS NULL LIMIT %s"
)
PRISMA_TRY_LOCK: Final[LiteralString] = "SELECT pg_catalog.pg_try_advisory_xact_lock(72707369)"
"""The lock that Prisma's migrate commands hold."""
PRISMA_BEGIN: Final[LiteralString] = (
    "INSERT INTO public._prisma_migrations (id, checksum, migration_name, started_at)"
    " SELECT %s, %s, %s, pg_catalog.clock_timestamp() WHERE NOT EXISTS ("
    "SELECT FROM public._prisma_migrations WHERE migration_name = %s AND rolled_back_at IS NULL)"
)
PRISMA_FINISH: Final[LiteralString] = (
    "UPDATE public._prisma_migrations"
    " SET finished_at = pg_catalog.clock_timestamp(), applied_steps_count = applied_steps_count + 1"
    " WHERE migration_name = %s AND rolled_back_at IS NULL AND finished_at IS NULL RETURNING 1"
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

SQL_DELETE: Final[LiteralString] = "DELETE FROM tenantry.migrations WHERE version = %s RETURNING 1"

# How far a migration that no transaction can hold has come. Empty unless one is under way or was broken off.
PROGRESS_TABLE: Final[LiteralString] = "tenantry.migration_progress"
PROGRESS_CREATE_TABLE: Final[LiteralString] = """\
CREATE TABLE IF NOT EXISTS tenantry.migration_progress (
    format text NOT NULL,
    version text NOT NULL,
    statement integer NOT NULL,
    checksum text NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    done_at timestamptz,
    PRIMARY KEY (format, version, statement)
)"""
PROGRESS_READ: Final[LiteralString] = (
    "SELECT pg_catalog.left(version, 256), statement, pg_catalog.left(checksum, 128), done_at IS NOT NULL"
    " FROM tenantry.migration_progress WHERE format = %s ORDER BY version, statement LIMIT %s"
)
PROGRESS_BEGIN: Final[LiteralString] = (
    "INSERT INTO tenantry.migration_progress (format, version, statement, checksum) VALUES (%s, %s, %s, %s)"
)
PROGRESS_FINISH: Final[LiteralString] = (
    "UPDATE tenantry.migration_progress SET done_at = pg_catalog.clock_timestamp()"
    " WHERE format = %s AND version = %s AND statement = %s RETURNING 1"
)
PROGRESS_TAKE_BACK: Final[LiteralString] = (
    "DELETE FROM tenantry.migration_progress WHERE format = %s AND version = %s AND statement = %s AND done_at IS NULL"
)
PROGRESS_ADD: Final[LiteralString] = (
    "INSERT INTO tenantry.migration_progress (format, version, statement, checksum, done_at)"
    " SELECT %s, %s, step.number, step.checksum, pg_catalog.clock_timestamp()"
    " FROM ROWS FROM (pg_catalog.unnest(%s::integer[]), pg_catalog.unnest(%s::text[])) AS step (number, checksum)"
)
PROGRESS_DELETE: Final[LiteralString] = "DELETE FROM tenantry.migration_progress WHERE format = %s AND version = %s"

# What a statement that no transaction can hold has made, or left behind.
_QUALIFIED: Final[LiteralString] = "pg_catalog.format('%%I.%%I', n.nspname, c.relname)"
_IN_WORK: Final[LiteralString] = (
    "EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p"
    " WHERE p.datname = pg_catalog.current_database() AND p.index_relid = i.indexrelid)"
)
_INDEXES: Final[LiteralString] = (
    "pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid AND c.relkind = 'i'"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
)
INDEX_OF_TABLE: Final[LiteralString] = (
    f"SELECT {_QUALIFIED}, i.indisvalid AND i.indisready AND i.indislive, {_IN_WORK},"  # noqa: S608 - constants only
    f" pg_catalog.pg_get_indexdef(i.indexrelid) FROM {_INDEXES}"
    " WHERE i.indrelid = pg_catalog.to_regclass(%s::text) AND c.relname = %s"
)
RELATION_EXISTS: Final[LiteralString] = "SELECT pg_catalog.to_regclass(%s::text) IS NOT NULL"
DATABASE_EXISTS: Final[LiteralString] = "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %s)"
REINDEX_LEFTOVERS: Final[LiteralString] = (
    f"SELECT {_QUALIFIED} FROM {_INDEXES}"  # noqa: S608 - constants only
    f" WHERE NOT i.indisvalid AND NOT {_IN_WORK} AND c.relname ~ '_cc(new|old)[0-9]*$' AND n.nspname <> 'pg_toast'"
    " AND (%s::text IS NULL OR i.indrelid = (SELECT coalesce(x.indrelid, r.oid) FROM pg_catalog.pg_class r"
    " LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = r.oid WHERE r.oid = pg_catalog.to_regclass(%s::text)))"
)
"""Of the table or index named, or of the whole database. Those in pg_toast belong to nobody who could drop them."""
DETACHING: Final[LiteralString] = (
    "SELECT inhdetachpending FROM pg_catalog.pg_inherits"
    " WHERE inhparent = pg_catalog.to_regclass(%s::text) AND inhrelid = pg_catalog.to_regclass(%s::text)"
)
HOLDERS: Final[LiteralString] = (
    "SELECT a.pid, pg_catalog.left(a.application_name, 64), a.state,"
    " pg_catalog.floor(EXTRACT(epoch FROM pg_catalog.clock_timestamp() - a.xact_start))::integer"
    " FROM pg_catalog.pg_stat_activity a WHERE a.datname = pg_catalog.current_database()"
    " AND a.pid <> pg_catalog.pg_backend_pid() AND a.backend_type = 'client backend'"
    " AND a.xact_start < pg_catalog.clock_timestamp() - %s * interval '1 second' ORDER BY a.xact_start LIMIT 3"
)
"""The oldest transactions of others that were open when a wait of so many seconds began."""


def drop_index(qualified: str) -> bytes:
    """Drops an index whose name the server has quoted itself (``format('%I')``)."""
    return f"DROP INDEX CONCURRENTLY IF EXISTS {qualified}".encode()


def finish_detaching(table: str, partition: str) -> bytes:
    """Ends what a broken DETACH PARTITION CONCURRENTLY began; names as the migration writes them."""
    return f"ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE".encode()


# What a rehearsal measures, on a branch that nobody else uses.
STRONG_LOCKS: Final = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")
"""Locks of tables that keep others from writing; the last one keeps them from reading too."""
TABLES_MAX: Final = 5_000
"""Tables that are measured."""
LOCKS_OF_OTHERS: Final[LiteralString] = """\
SELECT DISTINCT l.relation::bigint, n.nspname::text, c.relname::text, l.mode
FROM pg_catalog.pg_locks AS l
JOIN pg_catalog.pg_class AS c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid AND a.usesysid IS NOT NULL
WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid() AND l.mode = ANY (%s)
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
    AND c.relkind IN ('r', 'p', 'm')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_temp_'
LIMIT %s"""
"""Autovacuum has no user. A table that is being made is not seen from outside, and keeps nobody out."""
OWN_LOCKS: Final[LiteralString] = """\
SELECT DISTINCT relation::bigint, mode FROM pg_catalog.pg_locks
WHERE locktype = 'relation' AND granted AND pid = pg_catalog.pg_backend_pid() AND mode = ANY (%s) LIMIT %s"""
MEASURE: Final[LiteralString] = """\
SELECT c.oid::bigint, n.nspname::text, c.relname::text, pg_catalog.pg_relation_filenode(c.oid)::bigint,
    CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_catalog.pg_relation_size(c.oid) END,
    pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)
        + pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid),
    pg_catalog.pg_stat_get_xact_tuples_returned(c.oid)
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_temp_' LIMIT %s"""
"""Each table: where its rows lie (another file: it was rewritten), bytes, and rows written and read by now in this
transaction."""
