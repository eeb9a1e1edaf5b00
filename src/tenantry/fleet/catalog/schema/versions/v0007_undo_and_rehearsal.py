"""Undone migrations, and rehearsals. Only adds tables: a program of the release before runs on it unharmed."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0007"
down_revision = "0006"

_STATEMENTS: Final = (
    """
    CREATE TABLE migration_undo (
        run_id text NOT NULL,
        project_id uuid NOT NULL,
        how text NOT NULL,
        preserved_as text,
        begun_at timestamptz NOT NULL DEFAULT now(),
        begun_by text NOT NULL,
        finished_at timestamptz,
        version text,
        CONSTRAINT migration_undo_pkey PRIMARY KEY (run_id, project_id),
        CONSTRAINT migration_undo_how_check CHECK (how IN ('restore', 'down')),
        CONSTRAINT migration_undo_preserved_as_check CHECK (how <> 'restore' OR preserved_as IS NOT NULL),
        CONSTRAINT migration_undo_run_id_fkey FOREIGN KEY (run_id) REFERENCES migration_run (id) ON DELETE CASCADE,
        CONSTRAINT migration_undo_project_id_fkey FOREIGN KEY (project_id) REFERENCES project (id)
    )
    """,
    "CREATE INDEX migration_undo_project_id_idx ON migration_undo (project_id)",
    """
    CREATE TABLE migration_rehearsal (
        id text NOT NULL,
        format text NOT NULL,
        directory text NOT NULL,
        checksum text NOT NULL,
        migrations jsonb NOT NULL,
        tenants uuid[] NOT NULL,
        report jsonb,
        passed boolean,
        started_at timestamptz NOT NULL DEFAULT now(),
        started_by text NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        cleared_at timestamptz,
        CONSTRAINT migration_rehearsal_pkey PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX migration_rehearsal_started_at_idx ON migration_rehearsal (started_at DESC)",
    "CREATE INDEX migration_rehearsal_uncleared_idx ON migration_rehearsal (started_at) WHERE cleared_at IS NULL",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
