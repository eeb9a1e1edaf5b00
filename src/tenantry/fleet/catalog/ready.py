"""Projects that wait for a tenant: made beforehand and claimed by one. Each function runs in the caller's transaction.

A row goes ``making -> ready -> (claimed: gone)``, and back to ``making`` when its project must not be given to anybody:
nobody claims what is not ``ready``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, NewType
from uuid import UUID

from sqlalchemy import Connection, delete, func, insert, or_, select, text, update

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import ProviderId
from tenantry.neon.ids import ProjectId

ReadyId = NewType("ReadyId", UUID)
"""Becomes the TenantId of whoever claims it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyProject:
    id: ReadyId
    provider_id: ProviderId
    state: Literal["making", "ready"]
    wanted_region: str | None
    """The fleet's region; None: the provider's own default."""
    wanted_pg_version: int | None
    project_id: ProjectId | None
    region: str | None
    pg_version: int | None
    database_name: str | None
    role_name: str | None
    created_at: datetime


_TABLE: Final = models.ReadyProject
_READY: Final = select(
    _TABLE.id,
    _TABLE.provider_id,
    _TABLE.state,
    _TABLE.wanted_region,
    _TABLE.wanted_pg_version,
    _TABLE.provider_project_id.label("project_id"),
    _TABLE.region,
    _TABLE.pg_version,
    _TABLE.database_name,
    _TABLE.role_name,
    _TABLE.created_at,
)


def ready_projects(connection: Connection) -> list[ReadyProject]:
    """All of them, oldest first: as many as the operator wants to be kept, times the places."""
    rows = connection.execute(_READY.order_by(_TABLE.created_at, _TABLE.id)).mappings()
    return [ReadyProject(**row) for row in rows]


def add_ready(
    connection: Connection, provider_id: ProviderId, *, region: str | None, pg_version: int | None, count: int
) -> None:
    """That so many more shall be made."""
    values = {"provider_id": provider_id, "wanted_region": region, "wanted_pg_version": pg_version}
    connection.execute(insert(_TABLE), [values] * count)


def hold_ready(connection: Connection, ready: ReadyId) -> ReadyProject | None:
    """Held against claims and other passes until the transaction ends; None when somebody has it, or it is gone."""
    row = connection.execute(_READY.where(_TABLE.id == ready).with_for_update(skip_locked=True)).mappings().first()
    return None if row is None else ReadyProject(**row)


def claim_ready(
    connection: Connection, provider_id: ProviderId, *, region: str | None, pg_version: int | None
) -> ReadyProject | None:
    """Takes the oldest that fits out of the pool, for whoever commits this transaction. Waits for nobody.

    Without a wish only what was made without one fits: it is the provider's choice then.
    """
    fits = (
        select(_TABLE.id)
        .where(
            _TABLE.provider_id == provider_id,
            _TABLE.state == "ready",
            _TABLE.wanted_region.is_(None)
            if region is None
            else or_(_TABLE.wanted_region == region, _TABLE.wanted_region.is_(None) & (_TABLE.region == region)),
            _TABLE.wanted_pg_version.is_(None) if pg_version is None else _TABLE.pg_version == pg_version,
        )
        .order_by(_TABLE.created_at, _TABLE.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    found = connection.execute(fits).scalar_one_or_none()
    if found is None:
        return None
    row = connection.execute(_READY.where(_TABLE.id == found)).mappings().one()
    connection.execute(delete(_TABLE).where(_TABLE.id == found))
    return ReadyProject(**row)


def mark_made(
    connection: Connection,
    ready: ReadyId,
    *,
    project_id: ProjectId,
    region: str,
    pg_version: int,
    database_name: str,
    role_name: str,
) -> None:
    """It may be claimed. The caller holds it."""
    connection.execute(
        update(_TABLE)
        .where(_TABLE.id == ready)
        .values(
            state="ready",
            provider_project_id=project_id,
            region=region,
            pg_version=pg_version,
            database_name=database_name,
            role_name=role_name,
        )
    )


def mark_unmade(connection: Connection, ready: ReadyId) -> None:
    """Nobody may claim it any more. The caller holds it."""
    connection.execute(
        update(_TABLE)
        .where(_TABLE.id == ready)
        .values(
            state="making", provider_project_id=None, region=None, pg_version=None, database_name=None, role_name=None
        )
    )


def drop_ready(connection: Connection, ready: ReadyId) -> None:
    """Its project is gone, or never was. The caller holds it."""
    connection.execute(delete(_TABLE).where(_TABLE.id == ready))


def count_ready(connection: Connection) -> int:
    """How many may be claimed."""
    return connection.execute(select(func.count()).where(_TABLE.state == "ready")).scalar_one()


def hold_pool(connection: Connection) -> None:
    """One pass at a time counts what there is and says what more shall be made."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('tenantry ready projects', 0))"))
