"""What versions' schemas are, and what was last seen of tenants' schemas: for ``tenantry migrate drift``. Only adds."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0008"
down_revision = "0007"

_STATEMENTS: Final = (
    """
    CREATE TABLE schema_reference (
        provider_id uuid NOT NULL CONSTRAINT schema_reference_provider_id_fkey REFERENCES provider (id),
        format text NOT NULL,
        chain text NOT NULL,
        pg_version smallint NOT NULL,
        algorithm smallint NOT NULL,
        version text,
        fingerprint text NOT NULL,
        objects jsonb NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT schema_reference_pkey PRIMARY KEY (provider_id, format, chain, pg_version, algorithm)
    )
    """,
    """
    CREATE TABLE schema_seen (
        project_id uuid CONSTRAINT schema_seen_pkey PRIMARY KEY
            CONSTRAINT schema_seen_project_id_fkey REFERENCES project (id) ON DELETE CASCADE,
        fingerprint text NOT NULL,
        algorithm smallint NOT NULL,
        version text,
        standing text NOT NULL,
        expected text,
        differences integer NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT schema_seen_standing_check CHECK (standing IN ('same', 'drifted', 'unknown'))
    )
    """,
    "CREATE INDEX schema_seen_drifted_idx ON schema_seen (seen_at) WHERE standing = 'drifted'",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
