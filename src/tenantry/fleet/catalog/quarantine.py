"""Tenants that a run could not migrate and that nobody has migrated since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    slug: str
    run_id: str
    failed_at: datetime
    failure: Mapping[str, object]
    """The runner's own document."""
    attempts: int


def quarantined(connection: Connection, *, limit: int) -> list[Quarantined]:
    """Living tenants whose last visit failed, by their slugs; not those that came to the run's schema otherwise."""
    found = connection.execute(
        text(
            """
            SELECT slug, run_id, failed_at, failure, attempts FROM (
                SELECT DISTINCT ON (tenant.project_id) customer.slug, tenant.run_id, tenant.finished_at AS failed_at,
                    tenant.failure, tenant.attempts
                FROM migration_tenant tenant
                JOIN migration_run run ON run.id = tenant.run_id
                JOIN project ON project.id = tenant.project_id
                JOIN customer ON customer.id = project.customer_id
                WHERE tenant.outcome = 'failed' AND tenant.failure IS NOT NULL AND project.state = 'ready'
                    AND (run.fingerprint IS NULL OR project.schema_fingerprint IS DISTINCT FROM run.fingerprint)
                    AND NOT EXISTS (SELECT FROM migration_tenant later
                        WHERE later.project_id = tenant.project_id AND later.outcome IN ('applied', 'current')
                            AND later.finished_at > tenant.finished_at)
                ORDER BY tenant.project_id, tenant.finished_at DESC
            ) latest ORDER BY slug LIMIT :limit
            """
        ),
        {"limit": limit},
    ).mappings()
    return [Quarantined(**row) for row in found]
