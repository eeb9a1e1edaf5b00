"""Undone migrations: what runs left in tenants, and who was brought back. Each runs in the caller's transaction.

An undo is written down before it begins, with the name under which the tenant's present is kept, and marked done when
the tenant is back: whoever is killed in between finds the name again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import TenantId, TenantState

How = Literal["restore", "down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a run left in one tenant."""

    run_id: str
    tenant_id: TenantId
    slug: str
    """As the tenant is called now."""
    state: TenantState
    outcome: str
    from_version: str | None
    to_version: str | None
    applied: Sequence[str]
    failure: Mapping[str, object] | None
    restore_point: Mapping[str, object] | None
    finished_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRecord:
    run_id: str
    tenant_id: TenantId
    how: How
    preserved_as: str | None
    """The branch that keeps what the tenant was; None where its own migrations took it back."""
    begun_at: datetime
    finished_at: datetime | None
    """None: nobody knows yet whether it was done."""
    version: str | None
    """What the ledger said afterwards."""


def left_by(connection: Connection, run_id: str) -> list[Left]:
    """Of every tenant that the run has finished with, in the order of their slugs."""
    rows = connection.execute(
        text(
            """
            SELECT done.run_id, done.project_id AS tenant_id, customer.slug, project.state, done.outcome,
                done.from_version, done.to_version, coalesce(done.applied, '{}') AS applied, done.failure,
                done.restore_point, done.finished_at
            FROM migration_tenant AS done
            JOIN project ON project.id = done.project_id
            JOIN customer ON customer.id = project.customer_id
            WHERE done.run_id = :run_id AND done.outcome IN ('applied', 'failed') AND done.finished_at IS NOT NULL
            ORDER BY customer.slug
            """
        ),
        {"run_id": run_id},
    )
    return [Left(**cast("Mapping[str, object]", row)) for row in rows.mappings()]  # pyright: ignore[reportArgumentType]


def last_run_of(connection: Connection, tenant: TenantId) -> str | None:
    """The run that changed the tenant last, of those that were not undone."""
    return connection.execute(
        text(
            """
            SELECT done.run_id FROM migration_tenant AS done
            WHERE done.project_id = :tenant AND cardinality(done.applied) > 0 AND NOT EXISTS (
                SELECT FROM migration_undo AS undo
                WHERE undo.run_id = done.run_id AND undo.project_id = done.project_id AND undo.finished_at IS NOT NULL
            )
            ORDER BY done.finished_at DESC LIMIT 1
            """
        ),
        {"tenant": tenant},
    ).scalar_one_or_none()


def changed_since(connection: Connection, run_id: str) -> dict[TenantId, str]:
    """Tenants that a later run changed too, and which one did last; undone ones do not count."""
    rows = connection.execute(
        text(
            """
            SELECT DISTINCT ON (later.project_id) later.project_id, later.run_id
            FROM migration_tenant AS done
            JOIN migration_tenant AS later ON later.project_id = done.project_id AND later.run_id <> done.run_id
                AND later.finished_at > done.finished_at AND cardinality(later.applied) > 0
            WHERE done.run_id = :run_id AND NOT EXISTS (
                SELECT FROM migration_undo AS undo
                WHERE undo.run_id = later.run_id AND undo.project_id = later.project_id
                    AND undo.finished_at IS NOT NULL
            )
            ORDER BY later.project_id, later.finished_at DESC
            """
        ),
        {"run_id": run_id},
    )
    return {TenantId(row[0]): row[1] for row in rows}


def undos(connection: Connection, tenants: Sequence[TenantId]) -> list[UndoRecord]:
    """Every undo of these tenants, of whatever run."""
    table = models.MigrationUndo
    query = select(
        table.run_id,
        table.project_id.label("tenant_id"),
        table.how,
        table.preserved_as,
        table.begun_at,
        table.finished_at,
        table.version,
    ).where(table.project_id.in_(tenants))
    rows = connection.execute(query.order_by(table.begun_at)).mappings()
    return [UndoRecord(**row) for row in rows]


def begin_undo(
    connection: Connection, run_id: str, tenant: TenantId, *, how: How, preserved_as: str | None, by: str
) -> UndoRecord:
    """That it begins, unless it has begun before: what was written down then counts, and is returned."""
    table = models.MigrationUndo
    values = insert(table).values(run_id=run_id, project_id=tenant, how=how, preserved_as=preserved_as, begun_by=by)
    connection.execute(
        values.on_conflict_do_update(
            index_elements=["run_id", "project_id"],
            # Begun one way, it can be ended the other way.
            set_={
                "how": values.excluded.how,
                "preserved_as": func.coalesce(table.preserved_as, values.excluded.preserved_as),
            },
            where=table.finished_at.is_(None),
        )
    )
    [known] = [each for each in undos(connection, [tenant]) if each.run_id == run_id]
    return known


def finish_undo(connection: Connection, run_id: str, tenant: TenantId, *, version: str | None) -> bool:
    """That it is done; False when somebody has said so before."""
    table = models.MigrationUndo
    changed = connection.execute(
        update(table)
        .where(table.run_id == run_id, table.project_id == tenant, table.finished_at.is_(None))
        .values(finished_at=func.now(), version=version)
    )
    return changed.rowcount == 1
