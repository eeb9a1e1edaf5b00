"""Plans, customers, their projects and payments; what runs of migrations left to be done."""

from __future__ import annotations

from typing import Final

from alembic import op

revision = "0001"
down_revision = None

_STATEMENTS: Final = (
    "CREATE EXTENSION IF NOT EXISTS citext",
    """
    CREATE TABLE plan (
        slug text CONSTRAINT plan_pkey PRIMARY KEY,
        name text NOT NULL,
        projects_max integer NOT NULL,
        price_usd_monthly numeric(10, 2) NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT plan_projects_max_check CHECK (projects_max > 0),
        CONSTRAINT plan_price_check CHECK (price_usd_monthly >= 0)
    )
    """,
    """
    INSERT INTO plan (slug, name, projects_max, price_usd_monthly) VALUES
        ('launch', 'Launch', 100, 19),
        ('scale', 'Scale', 1000, 69),
        ('business', 'Business', 5000, 700)
    """,
    """
    CREATE TABLE customer (
        id uuid DEFAULT gen_random_uuid() CONSTRAINT customer_pkey PRIMARY KEY,
        slug text NOT NULL,
        name text NOT NULL,
        email citext,
        plan_slug text NOT NULL CONSTRAINT customer_plan_slug_fkey REFERENCES plan (slug) ON UPDATE CASCADE,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        deleted_at timestamptz,
        CONSTRAINT customer_slug_check CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 48),
        CONSTRAINT customer_name_check CHECK (length(btrim(name)) BETWEEN 1 AND 200),
        CONSTRAINT customer_email_check CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$')
    )
    """,
    "CREATE UNIQUE INDEX customer_slug_key ON customer (slug) WHERE deleted_at IS NULL",
    "CREATE INDEX customer_plan_slug_idx ON customer (plan_slug)",
    "CREATE INDEX customer_email_idx ON customer (email)",
    """
    CREATE TABLE project (
        id uuid DEFAULT gen_random_uuid() CONSTRAINT project_pkey PRIMARY KEY,
        customer_id uuid NOT NULL CONSTRAINT project_customer_id_fkey REFERENCES customer (id),
        provider_project_id text,
        region text,
        pg_version smallint,
        database_name text,
        role_name text,
        state text NOT NULL DEFAULT 'creating',
        schema_version text,
        schema_format text,
        schema_fingerprint text,
        schema_seen_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        ready_at timestamptz,
        deleting_at timestamptz,
        deleted_at timestamptz,
        CONSTRAINT project_state_check CHECK (state IN ('creating', 'ready', 'deleting', 'deleted')),
        CONSTRAINT project_ready_at_check CHECK (state <> 'ready' OR ready_at IS NOT NULL),
        CONSTRAINT project_ready_is_reachable_check CHECK (
            state <> 'ready' OR num_nulls(provider_project_id, region, pg_version, database_name, role_name) = 0
        ),
        CONSTRAINT project_deleting_at_check CHECK (
            (state IN ('deleting', 'deleted')) = (deleting_at IS NOT NULL)
        ),
        CONSTRAINT project_deleted_at_check CHECK ((state = 'deleted') = (deleted_at IS NOT NULL)),
        CONSTRAINT project_schema_seen_check CHECK (
            num_nulls(schema_format, schema_fingerprint, schema_seen_at) IN (0, 3)
            AND (schema_version IS NULL OR schema_format IS NOT NULL)
        )
    )
    """,
    "CREATE UNIQUE INDEX project_live_customer_id_key ON project (customer_id) WHERE state <> 'deleted'",
    "CREATE INDEX project_customer_id_idx ON project (customer_id)",
    "CREATE UNIQUE INDEX project_provider_project_id_key ON project (provider_project_id)",
    "CREATE INDEX project_unfinished_idx ON project (created_at) WHERE state IN ('creating', 'deleting')",
    "CREATE INDEX project_schema_version_idx ON project (schema_version) WHERE state = 'ready'",
    """
    CREATE TABLE payment (
        id uuid DEFAULT gen_random_uuid() CONSTRAINT payment_pkey PRIMARY KEY,
        customer_id uuid NOT NULL CONSTRAINT payment_customer_id_fkey REFERENCES customer (id),
        amount numeric(12, 2) NOT NULL,
        currency character(3) NOT NULL,
        reference text,
        paid_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT payment_amount_check CHECK (amount > 0),
        CONSTRAINT payment_currency_check CHECK (currency ~ '^[A-Z]{3}$')
    )
    """,
    "CREATE INDEX payment_customer_id_paid_at_idx ON payment (customer_id, paid_at DESC)",
    "CREATE UNIQUE INDEX payment_reference_key ON payment (reference)",
    """
    CREATE TABLE migration_run (
        id text CONSTRAINT migration_run_pkey PRIMARY KEY,
        format text NOT NULL,
        directory text NOT NULL,
        target text,
        started_at timestamptz NOT NULL,
        finished_at timestamptz,
        interrupted boolean NOT NULL DEFAULT false,
        counts jsonb NOT NULL,
        CONSTRAINT migration_run_finished_at_check CHECK (finished_at >= started_at)
    )
    """,
    "CREATE INDEX migration_run_started_at_idx ON migration_run (started_at DESC)",
    """
    CREATE TABLE migration_failure (
        run_id text NOT NULL CONSTRAINT migration_failure_run_id_fkey
            REFERENCES migration_run (id) ON DELETE CASCADE,
        project_id uuid NOT NULL CONSTRAINT migration_failure_project_id_fkey REFERENCES project (id),
        slug text NOT NULL,
        sqlstate text,
        result jsonb NOT NULL,
        failed_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT migration_failure_pkey PRIMARY KEY (run_id, project_id)
    )
    """,
    "CREATE INDEX migration_failure_project_id_idx ON migration_failure (project_id)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    for table in ("migration_failure", "migration_run", "payment", "project", "customer", "plan"):
        op.execute(f"DROP TABLE {table}")
