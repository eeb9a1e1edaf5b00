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

BEGIN: Final[LiteralString] = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
"""READ COMMITTED is needed, whatever the tenant's default: the ledger is read after the lock was waited for."""
BEGIN_READING: Final[LiteralString] = "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
COMMIT: Final[LiteralString] = "COMMIT"
ROLLBACK: Final[LiteralString] = "ROLLBACK"
SET_TIMEOUTS: Final[LiteralString] = (
    "SELECT pg_catalog.set_config('lock_timeout', %s, true), pg_catalog.set_config('statement_timeout', %s, true)"
)
TAKE_LOCK: Final[LiteralString] = "SELECT pg_catalog.pg_advisory_xact_lock(%s::bigint)"
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
