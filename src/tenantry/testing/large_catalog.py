"""Fills a catalog with as many customers as the largest fleets have, in seconds: rows alone, no projects."""

# ruff: noqa: S608 - its SQL is put together from its own text and from numbers
from __future__ import annotations

from typing import Final
from uuid import UUID

import psycopg

TENANTS_USED: Final = 60
"""One in so many tenants has usage: of HISTORY_DAYS days."""
HISTORY_DAYS: Final = 200
JOBS: Final = 2_000
_FILLED: Final = ("customer", "project", "usage_day", "event", "deletion", "job", "job_batch", "job_item")
_CUSTOMER: Final = "('00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"
_PROJECT: Final = "('00000000-0000-4000-9000-' || lpad(to_hex(i), 12, '0'))::uuid"


def customer_id(number: int) -> UUID:
    return UUID(f"00000000-0000-4000-8000-{number:012x}")


def tenant_id(number: int) -> UUID:
    return UUID(f"00000000-0000-4000-9000-{number:012x}")


def slug_of(number: int, customers: int) -> str:
    """Slugs are in another order than the rows are."""
    return f"customer-{number * 7919 % customers}"


def fill(url: str, customers: int) -> None:
    """``url``: an empty catalog of this release, as its owner. Leaves it as autovacuum would."""
    everybody = f"generate_series(1, {customers}) AS i"
    statements = [
        "INSERT INTO plan (slug, name, projects_max, price_usd_monthly) VALUES ('rare', 'Rare', 1, 1)",
        f"""
        INSERT INTO customer (id, slug, name, email, plan_slug, deleted_at)
        SELECT {_CUSTOMER}, 'customer-' || (i::bigint * 7919 % {customers}), 'Customer ' || i,
            'c' || i || '@example.com',
            CASE WHEN i % 20011 = 5 THEN 'rare' WHEN i % 100 = 0 THEN 'business' WHEN i % 10 = 0 THEN 'scale'
                ELSE 'launch' END,
            CASE WHEN i % 50 = 0 THEN now() END
        FROM {everybody}
        """,
        f"""
        INSERT INTO project (
            id, customer_id, provider_project_id, region, pg_version, database_name, role_name, state,
            schema_version, schema_format, schema_fingerprint, schema_seen_at, ready_at, leaving_at, purge_at,
            deleting_at, deleted_at
        )
        SELECT {_PROJECT}, {_CUSTOMER}, 'cool-sun-' || i,
            CASE WHEN i % 20011 = 6 THEN 'sa-1' WHEN i % 100 = 7 THEN 'ap-1' WHEN i % 5 < 3 THEN 'eu-1' ELSE 'us-1' END,
            18, 'neondb', 'neondb_owner', state, '0003_c', 'drizzle', 'f', now(), now() - interval '90 days',
            CASE state WHEN 'leaving' THEN now() END,
            CASE state WHEN 'leaving' THEN now() - interval '1 hour' * (i / 1000 % 100 - 90) END,
            CASE WHEN state IN ('deleting', 'deleted') THEN now() END, CASE state WHEN 'deleted' THEN now() END
        FROM (
            SELECT i, CASE WHEN i % 50 = 0 THEN 'deleted' WHEN i % 10007 = 1 THEN 'creating'
                WHEN i % 10007 = 2 THEN 'deleting' WHEN i % 1000 = 3 THEN 'leaving' ELSE 'ready' END AS state
            FROM {everybody}
        ) AS chosen
        """,
        f"""
        INSERT INTO usage_day (
            project_id, day, active_seconds, compute_seconds, written_bytes, sent_bytes, storage_bytes
        )
        SELECT {_PROJECT}, current_date - d, i % 1000, i % 500, i, i * 2, 20000000
        FROM generate_series({HISTORY_DAYS - 1}, 0, -1) AS d, generate_series(1, {customers}, {TENANTS_USED}) AS i
        """,
        f"""
        INSERT INTO event (at, actor, verb, customer_id, slug)
        SELECT now() - interval '1 second' * j, 'ops@host', CASE WHEN j % 20000 = 1 THEN 'rename' ELSE 'create' END,
            {_CUSTOMER}, 'x'
        FROM (SELECT j, 1 + j % {customers} AS i FROM generate_series({customers}, 1, -1) AS j) AS chosen
        """,
        f"""
        INSERT INTO deletion (project_id, slug, name, provider_project_ids, requested_by, requested_at, purged_at)
        SELECT {_PROJECT}, 'customer-' || i, 'Customer', '{{}}', 'ops@host', now(), now() - interval '1 minute' * i
        FROM generate_series(50, {customers}, 50) AS i
        """,
        f"""
        INSERT INTO job (id, kind, arguments, created_by, created_at, finished_at)
        SELECT {_PROJECT}, CASE WHEN i % 4 = 0 THEN 'create' ELSE 'suspend' END, '{{}}', 'ops@host',
            now() - interval '1 minute' * i, now()
        FROM generate_series(1, {JOBS}) AS i
        """,
        "INSERT INTO job_batch (job_id, number, state) SELECT id, 0, 'done' FROM job",
        """
        INSERT INTO job_item (job_id, subject, batch_number, state)
        SELECT id, 'tenant-' || n, 0, 'done' FROM job, generate_series(1, 20) AS n
        """,
    ]
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET maintenance_work_mem = '128MB'")
        tables = [list(_FILLED)]
        # What is checked or kept row by row takes most of the time; made afterwards, it takes a moment.
        keys = db.execute(
            """
            SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
            WHERE conrelid = ANY (%s::regclass[]) AND contype = 'f'
            """,
            tables,
        ).fetchall()
        indexes = db.execute(
            """
            SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
            WHERE indrelid = ANY (%s::regclass[]) AND NOT indisprimary
            """,
            tables,
        ).fetchall()
        before = [
            "ALTER TABLE customer DISABLE TRIGGER USER",
            *(f"ALTER TABLE {table} DROP CONSTRAINT {name}" for table, name, _ in keys),
            *(f"DROP INDEX {name}" for name, _ in indexes),
        ]
        after = [
            *(definition for _, definition in indexes),
            *(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}" for table, name, definition in keys),
            "ALTER TABLE customer ENABLE TRIGGER USER",
            f"VACUUM ANALYZE {', '.join(_FILLED)}",
        ]
        for statement in (*before, *statements, *after):
            db.execute(statement.encode())
