"""Runs of migrations in waves: what was planned, who works on which tenant, and what became of each.

Only adds. A run of the release before goes on to be written as it was: it is ``running`` until it has an end.
"""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0009"
down_revision = "0008"

_STATEMENTS: Final = (
    """
    CREATE TABLE migration_folder (
        digest text CONSTRAINT migration_folder_pkey PRIMARY KEY,
        content bytea NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT migration_folder_content_check CHECK (octet_length(content) <= 33554432)
    )
    """,
    """
    ALTER TABLE migration_run
        ADD COLUMN state text NOT NULL DEFAULT 'running',
        ADD COLUMN reason text,
        ADD COLUMN created_by text,
        ADD COLUMN plan jsonb NOT NULL DEFAULT '{}'::jsonb,
        ADD COLUMN folder_digest text
            CONSTRAINT migration_run_folder_digest_fkey REFERENCES migration_folder (digest),
        ADD COLUMN fingerprint text,
        ADD CONSTRAINT migration_run_state_check
            CHECK (state IN ('planned', 'running', 'paused', 'stopped', 'aborted', 'finished'))
    """,
    "UPDATE migration_run SET state = CASE WHEN finished_at IS NULL THEN 'aborted' ELSE 'finished' END",
    """
    CREATE INDEX migration_run_open_idx ON migration_run (state)
        WHERE state IN ('planned', 'running', 'paused', 'stopped')
    """,
    "CREATE INDEX migration_run_folder_digest_idx ON migration_run (folder_digest)",
    """
    CREATE TABLE migration_wave (
        run_id text NOT NULL CONSTRAINT migration_wave_run_id_fkey REFERENCES migration_run (id) ON DELETE CASCADE,
        number integer NOT NULL,
        name text NOT NULL,
        state text NOT NULL DEFAULT 'waiting',
        worker text,
        claimed_at timestamptz,
        started_at timestamptz,
        finished_at timestamptz,
        verdict jsonb,
        CONSTRAINT migration_wave_pkey PRIMARY KEY (run_id, number),
        CONSTRAINT migration_wave_state_check
            CHECK (state IN ('waiting', 'running', 'judging', 'passed', 'failed'))
    )
    """,
    """
    CREATE TABLE migration_tenant (
        run_id text NOT NULL CONSTRAINT migration_tenant_run_id_fkey REFERENCES migration_run (id) ON DELETE CASCADE,
        project_id uuid NOT NULL CONSTRAINT migration_tenant_project_id_fkey REFERENCES project (id),
        slug text NOT NULL,
        provider_id uuid NOT NULL,
        wave integer NOT NULL,
        from_version text,
        pending text[] NOT NULL,
        outcome text,
        applied text[],
        to_version text,
        failure jsonb,
        notes text[],
        restore_point jsonb,
        seconds double precision,
        attempts smallint NOT NULL DEFAULT 0,
        fence bigint NOT NULL DEFAULT 0,
        worker text,
        claimed_at timestamptz,
        opens_at timestamptz,
        closes_at timestamptz,
        finished_at timestamptz,
        CONSTRAINT migration_tenant_pkey PRIMARY KEY (run_id, project_id),
        CONSTRAINT migration_tenant_outcome_check CHECK (outcome IN ('applied', 'current', 'failed', 'gone'))
    )
    """,
    "CREATE INDEX migration_tenant_waiting_idx ON migration_tenant (run_id, wave, slug) WHERE outcome IS NULL",
    "CREATE INDEX migration_tenant_failed_idx ON migration_tenant (run_id, wave) WHERE outcome = 'failed'",
    "CREATE INDEX migration_tenant_claimed_idx ON migration_tenant (run_id, worker) WHERE worker IS NOT NULL",
    "CREATE INDEX migration_tenant_project_id_idx ON migration_tenant (project_id, finished_at DESC)",
    "ALTER TABLE customer ADD COLUMN maintenance_window text",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
