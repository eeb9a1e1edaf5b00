"""What tenants used, day by day: every question and change, each in the caller's transaction.

A row says what one tenant used on one day (UTC), as it was when its provider was asked. Asking late, twice, or at once
from two machines is harmless: what was asked later wins, and what did not change is not written again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, cast

from sqlalchemy import Connection, RowMapping, text

from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.neon.ids import ProjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    active_seconds: int = 0
    compute_seconds: int = 0
    """Of one compute unit."""
    written_bytes: int = 0
    sent_bytes: int = 0
    storage_byte_days: int = 0
    """Bytes kept for a day: of one day the most that was kept on it, of several days the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What one tenant used in some time."""

    tenant_id: TenantId
    slug: str
    """Of a deleted tenant the slug that it had; another may have it now."""
    name: str
    plan: str
    deleted: bool
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    tenants: int
    amounts: Amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """A tenant that nobody has used for a while."""

    tenant_id: TenantId
    slug: str
    name: str
    plan: str
    last_active: date | None
    """None: on no day that is known."""
    storage_bytes: int
    """On the last day that is known."""


# ------------------------------------------------------------------------------------------------- collecting


def clock(connection: Connection) -> datetime:
    """The catalog's, which all of its programs share, in UTC: its days are those of usage."""
    return cast(datetime, connection.execute(text("SELECT clock_timestamp()")).scalar_one()).astimezone(UTC)


def collected_at(connection: Connection) -> dict[ProviderId, datetime]:
    """When each provider was last asked that told everything; others are not in it."""
    rows = connection.execute(
        text("SELECT id, usage_collected_at FROM provider WHERE usage_collected_at IS NOT NULL AND removed_at IS NULL")
    )
    return {ProviderId(row[0]): row[1] for row in rows}


def put_usage(
    connection: Connection, provider: ProviderId, asked_at: datetime, used: Mapping[tuple[ProjectId, date], Amounts]
) -> int:
    """Writes what a provider said when it was asked at ``asked_at``; returns how many days of tenants it changed.

    Projects that no tenant has are left out. What was written by somebody who asked later stays.
    """
    written = connection.execute(
        text(
            """
            INSERT INTO usage_day (
                project_id, day, active_seconds, compute_seconds, written_bytes, sent_bytes, storage_bytes, collected_at
            )
            SELECT project.id, said.day, said.active, said.compute, said.written, said.sent, said.storage, :asked_at
            FROM unnest(
                CAST(:projects AS text[]), CAST(:days AS date[]), CAST(:active AS bigint[]), CAST(:compute AS bigint[]),
                CAST(:written AS bigint[]), CAST(:sent AS bigint[]), CAST(:storage AS bigint[])
            ) AS said (project, day, active, compute, written, sent, storage)
            JOIN project ON project.provider_id = :provider AND project.provider_project_id = said.project
            -- Two that collect at once take their rows in one order.
            ORDER BY project.id, said.day
            ON CONFLICT (project_id, day) DO UPDATE SET
                active_seconds = excluded.active_seconds, compute_seconds = excluded.compute_seconds,
                written_bytes = excluded.written_bytes, sent_bytes = excluded.sent_bytes,
                storage_bytes = excluded.storage_bytes, collected_at = excluded.collected_at
            WHERE usage_day.collected_at <= excluded.collected_at AND (
                usage_day.active_seconds, usage_day.compute_seconds, usage_day.written_bytes, usage_day.sent_bytes,
                usage_day.storage_bytes
            ) IS DISTINCT FROM (
                excluded.active_seconds, excluded.compute_seconds, excluded.written_bytes, excluded.sent_bytes,
                excluded.storage_bytes
            )
            """
        ),
        {
            "provider": provider,
            "asked_at": asked_at,
            "projects": [project for project, _ in used],
            "days": [day for _, day in used],
            "active": [each.active_seconds for each in used.values()],
            "compute": [each.compute_seconds for each in used.values()],
            "written": [each.written_bytes for each in used.values()],
            "sent": [each.sent_bytes for each in used.values()],
            "storage": [each.storage_byte_days for each in used.values()],
        },
    )
    return written.rowcount


def mark_collected(connection: Connection, provider: ProviderId, asked_at: datetime) -> None:
    """All that this provider could say at ``asked_at`` is written."""
    connection.execute(
        text(
            "UPDATE provider SET usage_collected_at = greatest(usage_collected_at, CAST(:asked_at AS timestamptz))"
            " WHERE id = :provider"
        ),
        {"provider": provider, "asked_at": asked_at},
    )


def forget_usage(connection: Connection, before: date, *, limit: int) -> int:
    """Days before this one go, the oldest first; says how many rows that were."""
    gone = connection.execute(
        text(
            """
            DELETE FROM usage_day WHERE (project_id, day) IN (
                SELECT project_id, day FROM usage_day WHERE day < :before ORDER BY day, project_id LIMIT :limit
            )
            """
        ),
        {"before": before, "limit": limit},
    )
    return gone.rowcount


# ------------------------------------------------------------------------------------------------- reporting

_SUMS: Final = """
    coalesce(sum(active_seconds), 0) AS active_seconds, coalesce(sum(compute_seconds), 0) AS compute_seconds,
    coalesce(sum(written_bytes), 0) AS written_bytes, coalesce(sum(sent_bytes), 0) AS sent_bytes,
    coalesce(sum(storage_bytes), 0) AS storage_byte_days
"""
_TENANT: Final = """
    project.id AS tenant_id, customer.slug, customer.name, customer.plan_slug AS plan,
    project.state = 'deleted' AS deleted
"""


def usage_of_tenants(
    connection: Connection, since: date, until: date, *, limit: int | None = None
) -> tuple[Totals, list[Used]]:
    """What all tenants used, and each of those that used most compute, then storage: ``limit`` of them, or all."""
    rows = connection.execute(
        text(
            f"""
            WITH used AS MATERIALIZED (
                SELECT project_id, {_SUMS} FROM usage_day WHERE day BETWEEN :since AND :until GROUP BY project_id
            ), total AS (
                SELECT count(*) AS tenants, sum(active_seconds) AS active_seconds,
                    sum(compute_seconds) AS compute_seconds, sum(written_bytes) AS written_bytes,
                    sum(sent_bytes) AS sent_bytes, sum(storage_byte_days) AS storage_byte_days FROM used
            ), page AS (
                SELECT * FROM used ORDER BY compute_seconds DESC, storage_byte_days DESC, project_id LIMIT :limit
            )
            SELECT page.*, {_TENANT}, total.tenants, total.active_seconds AS total_active_seconds,
                total.compute_seconds AS total_compute_seconds, total.written_bytes AS total_written_bytes,
                total.sent_bytes AS total_sent_bytes, total.storage_byte_days AS total_storage_byte_days
            FROM page JOIN project ON project.id = page.project_id JOIN customer ON customer.id = project.customer_id
            CROSS JOIN total
            ORDER BY page.compute_seconds DESC, page.storage_byte_days DESC, customer.slug, project.id
            """  # noqa: S608 - put together from this module's own text
        ),
        {"since": since, "until": until, "limit": limit},
    )
    found = rows.mappings().all()
    if not found:
        return Totals(tenants=0, amounts=Amounts()), []
    total = Totals(tenants=found[0]["tenants"], amounts=_amounts(found[0], "total_"))
    return total, [_used(row) for row in found]


def usage_of_days(
    connection: Connection, since: date, until: date, *, tenant: TenantId | None = None
) -> list[tuple[date, Totals]]:
    """What each day saw used, by one tenant or by all; days on which nothing is known are left out."""
    rows = connection.execute(
        text(
            f"""
            SELECT day, count(*) AS tenants, {_SUMS} FROM usage_day
            WHERE day BETWEEN :since AND :until {"AND project_id = :tenant" if tenant else ""}
            GROUP BY day ORDER BY day
            """  # noqa: S608 - put together from this module's own text
        ),
        {"since": since, "until": until} | ({"tenant": tenant} if tenant else {}),
    )
    return [(row["day"], Totals(tenants=row["tenants"], amounts=_amounts(row))) for row in rows.mappings()]


def usage_on_day(connection: Connection, day: date) -> list[Used]:
    """What each tenant used on one day, in the order of slugs."""
    rows = connection.execute(
        text(
            f"""
            SELECT {_TENANT}, active_seconds, compute_seconds, written_bytes, sent_bytes,
                storage_bytes AS storage_byte_days
            FROM usage_day JOIN project ON project.id = usage_day.project_id
            JOIN customer ON customer.id = project.customer_id
            WHERE day = :day ORDER BY customer.slug, project.id
            """  # noqa: S608 - put together from this module's own text
        ),
        {"day": day},
    )
    return [_used(row) for row in rows.mappings()]


_WAS_USED: Final = "(active_seconds > 0 OR compute_seconds > 0 OR written_bytes > 0 OR sent_bytes > 0)"


def idle_tenants(connection: Connection, since: date, providers: Collection[ProviderId]) -> list[Idle]:
    """Tenants of these providers that were ready before ``since`` and that nobody has used since then.

    The longest unused first.
    """
    rows = connection.execute(
        text(
            f"""
            SELECT project.id AS tenant_id, customer.slug, customer.name, customer.plan_slug AS plan,
                active.day AS last_active, coalesce(kept.storage_bytes, 0) AS storage_bytes
            FROM project JOIN customer ON customer.id = project.customer_id
            LEFT JOIN LATERAL (
                SELECT day FROM usage_day WHERE project_id = project.id AND {_WAS_USED} ORDER BY day DESC LIMIT 1
            ) AS active ON true
            LEFT JOIN LATERAL (
                SELECT storage_bytes FROM usage_day WHERE project_id = project.id ORDER BY day DESC LIMIT 1
            ) AS kept ON true
            WHERE project.state = 'ready' AND project.ready_at < CAST(:since AS date)
                AND project.provider_id = ANY (CAST(:providers AS uuid[]))
                AND NOT EXISTS (
                    SELECT FROM usage_day WHERE project_id = project.id AND day >= :since AND {_WAS_USED})
            ORDER BY active.day NULLS FIRST, customer.slug
            """  # noqa: S608 - put together from this module's own text
        ),
        {"since": since, "providers": list(providers)},
    )
    return [Idle(**row) for row in rows.mappings()]


def added(parts: Iterable[Amounts]) -> Amounts:
    """Pure."""
    known: Sequence[Amounts] = list(parts)
    return Amounts(
        active_seconds=sum(each.active_seconds for each in known),
        compute_seconds=sum(each.compute_seconds for each in known),
        written_bytes=sum(each.written_bytes for each in known),
        sent_bytes=sum(each.sent_bytes for each in known),
        storage_byte_days=sum(each.storage_byte_days for each in known),
    )


def _amounts(row: RowMapping, of: str = "") -> Amounts:
    return Amounts(
        active_seconds=int(row[f"{of}active_seconds"]),
        compute_seconds=int(row[f"{of}compute_seconds"]),
        written_bytes=int(row[f"{of}written_bytes"]),
        sent_bytes=int(row[f"{of}sent_bytes"]),
        storage_byte_days=int(row[f"{of}storage_byte_days"]),
    )


def _used(row: RowMapping) -> Used:
    return Used(
        tenant_id=TenantId(row["tenant_id"]),
        slug=row["slug"],
        name=row["name"],
        plan=row["plan"],
        deleted=row["deleted"],
        amounts=_amounts(row),
    )
