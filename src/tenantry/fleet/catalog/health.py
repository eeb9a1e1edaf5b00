"""What the catalog says of itself, and of work that stands still, to whoever examines a fleet. Changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, text

from tenantry.fleet.catalog.current import VERSION_TABLE
from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.neon.ids import ProjectId

NAMED_MAX: Final = 20
"""Tenants that are named of many; all of them are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    used: int
    """By everybody, this question included."""
    allowed: int
    """What the server and the role leave to ordinary programs."""
    workers: int
    """Workers that live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Tenants that wait for something to be finished."""

    count: int
    late: int
    """Since longer than it should take."""
    named: Sequence[str]
    """Slugs of the first that are late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """Work that nobody does."""

    waiting: int
    """Batches that nobody has begun for so long."""
    silent: int
    """Batches whose worker has not been heard of for so long."""
    jobs: Sequence[UUID]
    """The first of the jobs that they are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProject:
    """A project that a row names, or is to name."""

    tenant_id: TenantId
    slug: str
    state: str
    project_id: ProjectId | None
    pg_version: int | None
    ready_at: datetime | None


def revision(connection: Connection) -> str | None:
    return connection.execute(
        text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608 - a name of ours
    ).scalar_one_or_none()


def connections(connection: Connection, *, silent_seconds: float) -> Connections:
    row = connection.execute(
        text(
            """
            SELECT
                (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
                least(
                    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                        - coalesce(current_setting('reserved_connections', true)::int, 0),
                    (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
                    (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
                ) AS allowed,
                (SELECT count(*) FROM procrastinate.procrastinate_workers
                    WHERE last_heartbeat > now() - make_interval(secs => :silent)) AS workers
            """
        ),
        {"silent": silent_seconds},
    )
    return Connections(**row.mappings().one())


def unfinished(connection: Connection, *, late_seconds: float) -> Waiting:
    """Creations and deletions that have begun and not ended."""
    return _waiting(
        connection,
        "project.state IN ('creating', 'deleting')",
        "coalesce(project.deleting_at, project.created_at) < now() - make_interval(secs => :late)",
        late_seconds,
    )


def leaving(connection: Connection, *, late_seconds: float) -> Waiting:
    """Tenants in their grace; late are those whose grace has ended."""
    return _waiting(
        connection,
        "project.state = 'leaving'",
        "project.purge_at < now() - make_interval(secs => :late)",
        late_seconds,
    )


def _waiting(connection: Connection, among: str, late: str, late_seconds: float) -> Waiting:
    parameters = {"late": late_seconds}
    count = connection.execute(
        text(f"SELECT count(*) AS count, count(*) FILTER (WHERE {late}) AS late FROM project WHERE {among}"),  # noqa: S608 - this module's own text
        parameters,
    )
    row = count.mappings().one()
    named: Sequence[str] = ()
    if row["late"]:
        named = (
            connection.execute(
                text(
                    "SELECT customer.slug FROM project JOIN customer ON customer.id = project.customer_id"  # noqa: S608 - see above
                    f" WHERE {among} AND {late} ORDER BY project.updated_at, customer.slug LIMIT {NAMED_MAX}"
                ),
                parameters,
            )
            .scalars()
            .all()
        )
    return Waiting(count=row["count"], late=row["late"], named=named)


def still(connection: Connection, *, late_seconds: float) -> Still:
    """Batches that no worker has begun, or whose worker is silent, since ``late_seconds``."""
    row = (
        connection.execute(
            text(
                """
                WITH stuck AS (
                    SELECT job_batch.job_id, job_batch.state, job.created_at
                    FROM job_batch JOIN job ON job.id = job_batch.job_id
                    WHERE job_batch.state IN ('waiting', 'running') AND job.cancelled_at IS NULL
                        AND coalesce(job_batch.claimed_at, job.created_at) < now() - make_interval(secs => :late)
                        -- A batch of a job that is under way has its turn later.
                        AND (job_batch.state = 'running' OR NOT EXISTS (
                            SELECT FROM job_batch AS other WHERE other.job_id = job_batch.job_id
                                AND other.state = 'running' AND other.claimed_at > now() - make_interval(secs => :late)
                        ))
                )
                SELECT count(*) FILTER (WHERE state = 'waiting') AS waiting,
                    count(*) FILTER (WHERE state = 'running') AS silent,
                    coalesce((
                        SELECT array_agg(job_id ORDER BY created_at) FROM (
                            SELECT DISTINCT job_id, created_at FROM stuck ORDER BY created_at LIMIT 5) AS first
                    ), '{}') AS jobs
                FROM stuck
                """
            ),
            {"late": late_seconds},
        )
        .mappings()
        .one()
    )
    return Still(waiting=row["waiting"], silent=row["silent"], jobs=row["jobs"])


def versions(connection: Connection) -> list[tuple[ProviderId, int, int]]:
    """Of tenants that can be used: provider, major version of Postgres, how many."""
    rows = connection.execute(
        text(
            """
            SELECT provider_id, pg_version, count(*) FROM project
            WHERE state IN ('ready', 'leaving') GROUP BY provider_id, pg_version ORDER BY provider_id, pg_version
            """
        )
    )
    return [(ProviderId(row[0]), row[1], row[2]) for row in rows]


def schemas(connection: Connection) -> list[tuple[str | None, str | None, int]]:
    """Of tenants that are ready: format and newest version of what is applied, how many; the most first."""
    rows = connection.execute(
        text(
            """
            SELECT schema_format, schema_version, count(*) FROM project WHERE state = 'ready'
            GROUP BY schema_format, schema_version ORDER BY count(*) DESC, schema_version
            """
        )
    )
    return [(row[0], row[1], row[2]) for row in rows]


_KNOWN: Final = """
    SELECT project.id AS tenant_id, customer.slug, project.state, project.provider_project_id AS project_id,
        project.pg_version, project.ready_at
    FROM project JOIN customer ON customer.id = project.customer_id
"""


def known_projects(
    connection: Connection, provider: ProviderId, *, after: ProjectId | None, limit: int
) -> list[KnownProject]:
    """Projects that living tenants have there, in the order of their ids, those behind ``after``."""
    rows = connection.execute(
        text(
            _KNOWN
            + """
            WHERE project.provider_id = :provider AND project.state <> 'deleted'
                AND project.provider_project_id > :after
            ORDER BY project.provider_project_id LIMIT :limit
            """
        ),
        {"provider": provider, "after": after or "", "limit": limit},
    )
    return [KnownProject(**row) for row in rows.mappings()]


def tenants_of(connection: Connection, ids: Collection[UUID]) -> dict[UUID, KnownProject]:
    """Whose row has one of these ids, also of deleted ones."""
    rows = connection.execute(text(f"{_KNOWN} WHERE project.id = ANY (CAST(:ids AS uuid[]))"), {"ids": list(ids)})
    found = [KnownProject(**row) for row in rows.mappings()]
    return {each.tenant_id: each for each in found}
