"""The SQL of ours that runs in tenants whose migrations a tool applies: its sessions, and the ledgers of tools."""

from __future__ import annotations

from typing import Final, LiteralString, cast

END_SESSIONS: Final[LiteralString] = """\
SELECT count(*) FILTER (WHERE NOT pg_catalog.pg_terminate_backend(pid, 10000)),
    pg_catalog.set_config('idle_session_timeout', '0', false)
FROM pg_catalog.pg_stat_activity
WHERE application_name = %s AND datname = pg_catalog.current_database() AND usename = SESSION_USER
    AND pid <> pg_catalog.pg_backend_pid()"""
"""Ends the sessions of one name, waits until they are gone, and counts those that are not. Our own session, whose lock
must outlast the tool, is not ended for being idle."""


def quoted(table: str) -> LiteralString:
    """A table's name, with or without its schema, as SQL has it."""
    return cast("LiteralString", ".".join('"' + part.replace('"', '""') + '"' for part in table.split(".")))


_ALEMBIC_READ: Final[LiteralString] = "SELECT pg_catalog.left(version_num, 128) FROM {} LIMIT %s"


def alembic_read(table: str) -> LiteralString:
    """Alembic's ledger, in the table that the project keeps it in: the heads that are applied."""
    return _ALEMBIC_READ.format(quoted(table))


DJANGO_TABLE: Final[LiteralString] = "django_migrations"
DJANGO_READ: Final[LiteralString] = (
    "SELECT pg_catalog.left(app, 255), pg_catalog.left(name, 255) FROM django_migrations ORDER BY id LIMIT %s"
)

# The ledger of commands, which have none that we know of.
COMMAND_TABLE: Final[LiteralString] = "tenantry.migrations_by_command"
COMMAND_CREATE_TABLE: Final[LiteralString] = """\
CREATE TABLE IF NOT EXISTS tenantry.migrations_by_command (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    applied_by text NOT NULL DEFAULT CURRENT_USER
)"""
COMMAND_READ: Final[LiteralString] = (
    "SELECT pg_catalog.left(version, 255), pg_catalog.left(checksum, 128)"
    " FROM tenantry.migrations_by_command ORDER BY id LIMIT %s"
)
COMMAND_INSERT: Final[LiteralString] = "INSERT INTO tenantry.migrations_by_command (version, checksum) VALUES (%s, %s)"
