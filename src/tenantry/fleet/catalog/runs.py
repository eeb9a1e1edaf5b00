"""Runs of migrations as the catalog remembers them. Each function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, Text, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import Run

RUNS_KEPT: Final = 100
"""Runs of migrations that the catalog remembers."""
_LIVE: Final = models.Project.state != "deleted"


def begin_run(
    connection: Connection,
    *,
    run_id: str,
    format: str,
    directory: str,
    target: str | None,
    started_at: datetime,
    counts: Mapping[str, object],
) -> None:
    """A run of migrations starts. The oldest runs beyond RUNS_KEPT are forgotten, with their failures."""
    table = models.MigrationRun
    connection.execute(
        insert(table).values(
            id=run_id, format=format, directory=directory, target=target, started_at=started_at, counts=counts
        )
    )
    kept = select(table.id).order_by(table.started_at.desc(), table.id.desc()).limit(RUNS_KEPT)
    connection.execute(delete(table).where(table.id.not_in(kept)))


def add_failure(
    connection: Connection, run_id: str, slug: str, *, sqlstate: str | None, result: Mapping[str, object]
) -> None:
    """What failed for one tenant of a run; the last report counts. A tenant deleted meanwhile is passed over."""
    table = models.MigrationFailure
    tenant = select(
        literal(run_id), models.Project.id, literal(slug), literal(sqlstate, Text()), literal(result, JSONB())
    ).join(models.Customer, models.Customer.id == models.Project.customer_id)
    values = insert(table).from_select(
        ["run_id", "project_id", "slug", "sqlstate", "result"],
        tenant.where(models.Customer.slug == slug, models.Customer.deleted_at.is_(None), _LIVE),
    )
    connection.execute(
        values.on_conflict_do_update(
            index_elements=["run_id", "project_id"],
            set_={"sqlstate": values.excluded.sqlstate, "result": values.excluded.result, "failed_at": func.now()},
        )
    )


def end_run(
    connection: Connection,
    run_id: str,
    *,
    finished_at: datetime | None,
    interrupted: bool,
    counts: Mapping[str, object],
) -> None:
    table = models.MigrationRun
    connection.execute(
        update(table).where(table.id == run_id).values(finished_at=finished_at, interrupted=interrupted, counts=counts)
    )


def latest_run(connection: Connection) -> Run | None:
    """The run that began last, with the tenants that failed in it."""
    table, failure = models.MigrationRun, models.MigrationFailure
    row = (
        connection.execute(select(table.__table__).order_by(table.started_at.desc(), table.id.desc()).limit(1))
        .mappings()
        .one_or_none()
    )
    if row is None:
        return None
    failures = connection.execute(select(failure.result).where(failure.run_id == row["id"]).order_by(failure.slug))
    return Run(
        id=row["id"],
        format=row["format"],
        directory=row["directory"],
        target=row["target"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        interrupted=row["interrupted"],
        counts=row["counts"],
        failures=tuple(failures.scalars()),
    )
