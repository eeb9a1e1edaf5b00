"""Backups: keys of tenants, backups, schedules. Only adds: a program of the release before runs on it unharmed."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0010"
down_revision = "0009"

_STATEMENTS: Final = (
    """
    CREATE TABLE tenant_key (
        id text NOT NULL,
        project_id uuid NOT NULL,
        sealed bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        shredded_at timestamptz,
        CONSTRAINT tenant_key_pkey PRIMARY KEY (id),
        CONSTRAINT tenant_key_project_id_fkey FOREIGN KEY (project_id) REFERENCES project (id),
        CONSTRAINT tenant_key_shredded_at_check CHECK ((shredded_at IS NULL) = (sealed IS NOT NULL))
    )
    """,
    "CREATE UNIQUE INDEX tenant_key_project_id_key ON tenant_key (project_id) WHERE shredded_at IS NULL",
    "CREATE INDEX tenant_key_project_id_idx ON tenant_key (project_id)",
    """
    CREATE TABLE backup (
        id text NOT NULL,
        project_id uuid NOT NULL,
        slug text NOT NULL,
        vault text NOT NULL,
        place text NOT NULL,
        key_id text NOT NULL,
        state text NOT NULL DEFAULT 'running',
        started_at timestamptz NOT NULL DEFAULT now(),
        started_by text NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        manifest_sha256 text,
        size_bytes bigint,
        rows bigint,
        fingerprint text,
        activity jsonb,
        unchanged_at timestamptz,
        failure jsonb,
        verified_at timestamptz,
        CONSTRAINT backup_pkey PRIMARY KEY (id),
        CONSTRAINT backup_project_id_fkey FOREIGN KEY (project_id) REFERENCES project (id),
        CONSTRAINT backup_key_id_fkey FOREIGN KEY (key_id) REFERENCES tenant_key (id),
        CONSTRAINT backup_state_check CHECK (state IN ('running', 'done', 'failed', 'deleting', 'deleted')),
        CONSTRAINT backup_manifest_sha256_check
            CHECK (state IN ('running', 'failed') OR manifest_sha256 IS NOT NULL),
        CONSTRAINT backup_finished_at_check CHECK ((state = 'running') = (finished_at IS NULL))
    )
    """,
    "CREATE INDEX backup_project_id_started_at_idx ON backup (project_id, started_at DESC)",
    "CREATE INDEX backup_done_project_id_idx ON backup (project_id, started_at) WHERE state = 'done'",
    "CREATE INDEX backup_open_idx ON backup (started_at) WHERE state IN ('running', 'deleting')",
    "CREATE INDEX backup_key_id_idx ON backup (key_id)",
    """
    CREATE TABLE backup_schedule (
        project_id uuid NOT NULL,
        cron text,
        keep text,
        set_at timestamptz NOT NULL DEFAULT now(),
        set_by text NOT NULL,
        CONSTRAINT backup_schedule_pkey PRIMARY KEY (project_id),
        CONSTRAINT backup_schedule_project_id_fkey FOREIGN KEY (project_id) REFERENCES project (id)
    )
    """,
    "ALTER TABLE plan ADD COLUMN backup_keep text",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
