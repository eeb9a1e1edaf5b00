"""Providers, regions and residency; a grace period before deletion; ready projects; usage, events and jobs.

Only adds, and widens what is allowed: a program of the release before runs on it unharmed. Its rows belong to the
provider that the fleet is opened with, which is what that release knows.
"""

from __future__ import annotations

from typing import Final

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0002"
down_revision = "0001"

_STATEMENTS: Final = (
    """
    CREATE TABLE provider (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        name text NOT NULL,
        kind text NOT NULL,
        api_url text,
        api_ca text,
        secret_from text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        removed_at timestamptz,
        CONSTRAINT provider_pkey PRIMARY KEY (id),
        CONSTRAINT provider_name_check CHECK (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(name) <= 48),
        CONSTRAINT provider_kind_check CHECK (kind IN ('cell', 'neon', 'postgres')),
        CONSTRAINT provider_secret_from_check CHECK (secret_from ~ '^(home|env:.+|file:/.+)$')
    )
    """,
    "CREATE UNIQUE INDEX provider_name_key ON provider (name) WHERE removed_at IS NULL",
    """
    INSERT INTO provider (id, name, kind, secret_from)
        VALUES ('00000000-0000-4000-8000-000000000001', 'home', 'cell', 'home')
    """,
    """
    CREATE TABLE region (
        slug text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT region_pkey PRIMARY KEY (slug),
        CONSTRAINT region_slug_check CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 48)
    )
    """,
    """
    CREATE TABLE residency (
        slug text NOT NULL,
        region_patterns text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT residency_pkey PRIMARY KEY (slug),
        CONSTRAINT residency_slug_check CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$'),
        CONSTRAINT residency_region_patterns_check CHECK (cardinality(region_patterns) > 0)
    )
    """,
    """
    CREATE TABLE provider_region (
        provider_id uuid NOT NULL,
        region_slug text NOT NULL,
        provider_region text NOT NULL,
        projects_max integer,
        accepts_new boolean NOT NULL DEFAULT true,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT provider_region_pkey PRIMARY KEY (provider_id, region_slug),
        CONSTRAINT provider_region_projects_max_check CHECK (projects_max > 0),
        CONSTRAINT provider_region_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES provider (id),
        CONSTRAINT provider_region_region_slug_fkey FOREIGN KEY (region_slug) REFERENCES region (slug)
    )
    """,
    "CREATE INDEX provider_region_region_slug_idx ON provider_region (region_slug)",
    """
    ALTER TABLE customer ADD COLUMN residency_slug text
        CONSTRAINT customer_residency_slug_fkey REFERENCES residency (slug)
    """,
    "CREATE INDEX customer_residency_slug_idx ON customer (residency_slug)",
    """
    ALTER TABLE plan
        ADD COLUMN branches_max integer,
        ADD COLUMN cu_min numeric(6, 2),
        ADD COLUMN cu_max numeric(6, 2),
        ADD COLUMN suspend_seconds integer,
        ADD COLUMN history_seconds integer,
        ADD COLUMN quota_active_seconds bigint,
        ADD COLUMN quota_compute_seconds bigint,
        ADD COLUMN quota_written_bytes bigint,
        ADD COLUMN quota_sent_bytes bigint,
        ADD COLUMN quota_logical_bytes bigint,
        ADD COLUMN backup_cron text,
        ADD COLUMN backup_keep_days integer,
        ADD CONSTRAINT plan_branches_max_check CHECK (branches_max > 0),
        ADD CONSTRAINT plan_cu_check CHECK (cu_min > 0 AND cu_max >= cu_min),
        ADD CONSTRAINT plan_suspend_seconds_check CHECK (suspend_seconds >= -1),
        ADD CONSTRAINT plan_history_seconds_check CHECK (history_seconds >= 0),
        ADD CONSTRAINT plan_quota_check CHECK (
            least(quota_active_seconds, quota_compute_seconds, quota_written_bytes, quota_sent_bytes,
                  quota_logical_bytes) > 0
        )
    """,
    """
    ALTER TABLE project
        ADD COLUMN provider_id uuid NOT NULL DEFAULT '00000000-0000-4000-8000-000000000001'
            CONSTRAINT project_provider_id_fkey REFERENCES provider (id),
        ADD COLUMN leaving_at timestamptz,
        ADD COLUMN purge_at timestamptz,
        DROP CONSTRAINT project_state_check,
        ADD CONSTRAINT project_state_check CHECK (state IN ('creating', 'ready', 'leaving', 'deleting', 'deleted')),
        DROP CONSTRAINT project_ready_at_check,
        ADD CONSTRAINT project_ready_at_check CHECK (state NOT IN ('ready', 'leaving') OR ready_at IS NOT NULL),
        ADD CONSTRAINT project_leaving_at_check CHECK (
            (state = 'leaving') <= (num_nulls(leaving_at, purge_at) = 0)
        ),
        DROP CONSTRAINT project_ready_is_reachable_check,
        ADD CONSTRAINT project_ready_is_reachable_check CHECK (
            state NOT IN ('ready', 'leaving')
            OR num_nulls(provider_project_id, region, pg_version, database_name, role_name) = 0
        )
    """,
    "DROP INDEX project_provider_project_id_key",
    """
    CREATE UNIQUE INDEX project_provider_id_provider_project_id_key ON project (provider_id, provider_project_id)
    """,
    "CREATE INDEX project_purge_at_idx ON project (purge_at) WHERE state = 'leaving'",
    """
    CREATE TABLE contact (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        customer_id uuid NOT NULL,
        kind text NOT NULL,
        email citext NOT NULL,
        name text,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT contact_pkey PRIMARY KEY (id),
        CONSTRAINT contact_email_check CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
        CONSTRAINT contact_kind_check CHECK (kind IN ('owner', 'billing', 'technical', 'security')),
        CONSTRAINT contact_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customer (id)
    )
    """,
    "CREATE UNIQUE INDEX contact_customer_id_kind_email_key ON contact (customer_id, kind, email)",
    "CREATE INDEX contact_email_idx ON contact (email)",
    """
    CREATE TABLE subscription (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        customer_id uuid NOT NULL,
        plan_slug text NOT NULL,
        started_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CONSTRAINT subscription_pkey PRIMARY KEY (id),
        CONSTRAINT subscription_ended_at_check CHECK (ended_at >= started_at),
        CONSTRAINT subscription_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customer (id),
        CONSTRAINT subscription_plan_slug_fkey FOREIGN KEY (plan_slug) REFERENCES plan (slug) ON UPDATE CASCADE
    )
    """,
    """
    CREATE UNIQUE INDEX subscription_current_customer_id_key ON subscription (customer_id) WHERE ended_at IS NULL
    """,
    "CREATE INDEX subscription_customer_id_started_at_idx ON subscription (customer_id, started_at DESC)",
    "CREATE INDEX subscription_plan_slug_idx ON subscription (plan_slug)",
    """
    INSERT INTO subscription (customer_id, plan_slug, started_at, ended_at)
        SELECT id, plan_slug, created_at, deleted_at FROM customer
    """,
    """
    CREATE FUNCTION customer_subscription() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE subscription SET ended_at = greatest(now(), started_at)
            WHERE customer_id = NEW.id AND ended_at IS NULL;
        IF NEW.deleted_at IS NULL THEN
            INSERT INTO subscription (customer_id, plan_slug) VALUES (NEW.id, NEW.plan_slug);
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER customer_subscribes AFTER INSERT ON customer
        FOR EACH ROW EXECUTE FUNCTION customer_subscription()
    """,
    """
    CREATE TRIGGER customer_changes_plan AFTER UPDATE OF plan_slug, deleted_at ON customer
        FOR EACH ROW WHEN ((OLD.plan_slug, OLD.deleted_at) IS DISTINCT FROM (NEW.plan_slug, NEW.deleted_at))
        EXECUTE FUNCTION customer_subscription()
    """,
    """
    CREATE TABLE ready_project (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        provider_id uuid NOT NULL,
        state text NOT NULL DEFAULT 'making',
        wanted_region text,
        wanted_pg_version smallint,
        provider_project_id text,
        region text,
        pg_version smallint,
        database_name text,
        role_name text,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT ready_project_pkey PRIMARY KEY (id),
        CONSTRAINT ready_project_state_check
            CHECK ((state = 'making') OR (state = 'ready' AND num_nulls(
                provider_project_id, region, pg_version, database_name, role_name) = 0)),
        CONSTRAINT ready_project_provider_id_fkey FOREIGN KEY (provider_id) REFERENCES provider (id)
    )
    """,
    "CREATE INDEX ready_project_provider_id_state_idx ON ready_project (provider_id, state, created_at)",
    """
    CREATE TABLE deletion (
        project_id uuid NOT NULL,
        slug text NOT NULL,
        name text NOT NULL,
        provider_project_ids text[] NOT NULL,
        requested_by text NOT NULL,
        requested_at timestamptz NOT NULL,
        purged_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT deletion_pkey PRIMARY KEY (project_id),
        CONSTRAINT deletion_project_id_fkey FOREIGN KEY (project_id) REFERENCES project (id)
    )
    """,
    "CREATE INDEX deletion_slug_idx ON deletion (slug)",
    """
    CREATE TABLE usage_day (
        project_id uuid NOT NULL,
        day date NOT NULL,
        active_seconds bigint NOT NULL,
        compute_seconds bigint NOT NULL,
        written_bytes bigint NOT NULL,
        sent_bytes bigint NOT NULL,
        storage_bytes bigint NOT NULL,
        collected_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT usage_day_pkey PRIMARY KEY (project_id, day),
        CONSTRAINT usage_day_positive_check
            CHECK (least(active_seconds, compute_seconds, written_bytes, sent_bytes, storage_bytes) >= 0),
        CONSTRAINT usage_day_project_id_fkey FOREIGN KEY (project_id) REFERENCES project (id)
    )
    """,
    "CREATE INDEX usage_day_day_idx ON usage_day (day)",
    """
    CREATE TABLE event (
        id bigint GENERATED ALWAYS AS IDENTITY,
        at timestamptz NOT NULL DEFAULT now(),
        actor text NOT NULL,
        verb text NOT NULL,
        customer_id uuid,
        slug text,
        detail jsonb NOT NULL DEFAULT '{}'::jsonb,
        CONSTRAINT event_pkey PRIMARY KEY (id),
        CONSTRAINT event_customer_id_fkey FOREIGN KEY (customer_id) REFERENCES customer (id)
    )
    """,
    "CREATE INDEX event_at_idx ON event (at)",
    "CREATE INDEX event_customer_id_id_idx ON event (customer_id, id DESC)",
    """
    CREATE TABLE job (
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        kind text NOT NULL,
        arguments jsonb NOT NULL,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        cancelled_at timestamptz,
        finished_at timestamptz,
        CONSTRAINT job_pkey PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX job_created_at_idx ON job (created_at DESC)",
    """
    CREATE TABLE job_batch (
        job_id uuid NOT NULL,
        number integer NOT NULL,
        state text NOT NULL DEFAULT 'waiting',
        fence bigint NOT NULL DEFAULT 0,
        worker text,
        claimed_at timestamptz,
        finished_at timestamptz,
        CONSTRAINT job_batch_pkey PRIMARY KEY (job_id, number),
        CONSTRAINT job_batch_state_check CHECK (state IN ('waiting', 'running', 'done', 'cancelled')),
        CONSTRAINT job_batch_job_id_fkey FOREIGN KEY (job_id) REFERENCES job (id) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX job_batch_unfinished_idx ON job_batch (job_id) WHERE state IN ('waiting', 'running')",
    """
    CREATE TABLE job_item (
        job_id uuid NOT NULL,
        subject text NOT NULL,
        batch_number integer NOT NULL,
        state text NOT NULL DEFAULT 'waiting',
        input jsonb NOT NULL DEFAULT '{}'::jsonb,
        result jsonb,
        error text,
        attempts smallint NOT NULL DEFAULT 0,
        finished_at timestamptz,
        CONSTRAINT job_item_pkey PRIMARY KEY (job_id, subject),
        CONSTRAINT job_item_state_check CHECK (state IN ('waiting', 'done', 'failed')),
        CONSTRAINT job_item_job_id_batch_number_fkey FOREIGN KEY (job_id, batch_number)
            REFERENCES job_batch (job_id, number) ON DELETE CASCADE
    )
    """,
    "CREATE INDEX job_item_job_id_batch_number_idx ON job_item (job_id, batch_number)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
    # In a schema of its own: an operator who looks at the catalog sees the catalog.
    connection = op.get_bind()
    connection.exec_driver_sql("CREATE SCHEMA procrastinate")
    before = connection.exec_driver_sql("SELECT current_setting('search_path')").scalar_one()
    connection.exec_driver_sql("SET LOCAL search_path = procrastinate")
    connection.exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
    connection.exec_driver_sql("SELECT set_config('search_path', %s, true)", (before,))
