"""Verifications of backups. Only adds: a program of the release before runs on it unharmed."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0011"
down_revision = "0010"

_STATEMENTS: Final = (
    "ALTER TABLE backup ADD COLUMN doubted_at timestamptz",
    """
    CREATE TABLE backup_verification (
        id uuid NOT NULL,
        backup_id text NOT NULL,
        provider_id uuid NOT NULL,
        state text NOT NULL DEFAULT 'running',
        started_at timestamptz NOT NULL DEFAULT now(),
        started_by text NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        seconds double precision,
        proof jsonb,
        failure jsonb,
        cleared boolean NOT NULL DEFAULT false,
        CONSTRAINT backup_verification_pkey PRIMARY KEY (id),
        CONSTRAINT backup_verification_backup_id_fkey
            FOREIGN KEY (backup_id) REFERENCES backup (id) ON DELETE CASCADE,
        CONSTRAINT backup_verification_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES provider (id),
        CONSTRAINT backup_verification_state_check CHECK (state IN ('running', 'passed', 'failed', 'broken')),
        CONSTRAINT backup_verification_finished_at_check CHECK ((state = 'running') = (finished_at IS NULL))
    )
    """,
    "CREATE INDEX backup_verification_backup_id_idx ON backup_verification (backup_id, started_at DESC)",
    """
    CREATE UNIQUE INDEX backup_verification_running_key ON backup_verification (backup_id) WHERE state = 'running'
    """,
    "CREATE INDEX backup_verification_provider_id_idx ON backup_verification (provider_id)",
    "CREATE INDEX backup_verification_uncleared_idx ON backup_verification (started_at) WHERE NOT cleared",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
