"""Schemas as the catalog remembers them: what a version's is, and what was last seen of each tenant's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Connection, delete, func, literal, select, values
from sqlalchemy import column as sql_column
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.types import Integer, Text

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import ProviderId

REFERENCES_KEPT: Final = 200
"""Schemas of versions that are remembered; one has some hundred kilobytes at most."""
SEEN_AT_A_TIME: Final = 1_000

Standing = Literal["same", "drifted", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What was seen of one tenant's schema."""

    slug: str
    fingerprint: str
    version: str | None
    standing: Standing
    expected: str | None
    differences: int
    seen_at: datetime | None = None
    """When; None for now."""


def reference(
    connection: Connection, provider_id: ProviderId, *, format: str, chain: str, pg_version: int, algorithm: int
) -> list[object] | None:
    """The objects of what was made once."""
    table = models.SchemaReference
    found: list[object] | None = connection.execute(
        select(table.objects).where(
            table.provider_id == provider_id,
            table.format == format,
            table.chain == chain,
            table.pg_version == pg_version,
            table.algorithm == algorithm,
        )
    ).scalar_one_or_none()
    return found


def keep_reference(
    connection: Connection,
    provider_id: ProviderId,
    *,
    format: str,
    chain: str,
    pg_version: int,
    algorithm: int,
    version: str | None,
    fingerprint: str,
    objects: Sequence[object],
) -> None:
    """The last one made counts. The oldest beyond REFERENCES_KEPT are forgotten."""
    table = models.SchemaReference
    row = insert(table).values(
        provider_id=provider_id,
        format=format,
        chain=chain,
        pg_version=pg_version,
        algorithm=algorithm,
        version=version,
        fingerprint=fingerprint,
        objects=list(objects),
    )
    connection.execute(
        row.on_conflict_do_update(
            index_elements=["provider_id", "format", "chain", "pg_version", "algorithm"],
            set_={
                "version": row.excluded.version,
                "fingerprint": row.excluded.fingerprint,
                "objects": row.excluded.objects,
                "made_at": func.now(),
            },
        )
    )
    oldest_kept = select(table.made_at).order_by(table.made_at.desc()).offset(REFERENCES_KEPT - 1).limit(1)
    connection.execute(delete(table).where(table.made_at < oldest_kept.scalar_subquery()))


def saw(connection: Connection, sightings: Sequence[Sighting], *, algorithm: int) -> None:
    """Remembers them; the last look counts. Tenants that were deleted meanwhile are passed over."""
    table, customer, project = models.SchemaSeen, models.Customer, models.Project
    for first in range(0, len(sightings), SEEN_AT_A_TIME):
        said = values(
            sql_column("slug", Text),
            sql_column("fingerprint", Text),
            sql_column("version", Text),
            sql_column("standing", Text),
            sql_column("expected", Text),
            sql_column("differences", Integer),
            name="said",
        ).data(
            [
                (each.slug, each.fingerprint, each.version, each.standing, each.expected, each.differences)
                for each in sightings[first : first + SEEN_AT_A_TIME]
            ]
        )
        rows = (
            select(
                *(project.id, said.c.fingerprint, literal(algorithm, Integer)),
                *(said.c.version, said.c.standing, said.c.expected, said.c.differences),
            )
            .select_from(said)
            .join(customer, customer.slug == said.c.slug)
            .join(project, project.customer_id == customer.id)
            .where(customer.deleted_at.is_(None), project.state != "deleted")
        )
        columns = ["fingerprint", "algorithm", "version", "standing", "expected", "differences"]
        added = insert(table).from_select(["project_id", *columns], rows)
        connection.execute(
            added.on_conflict_do_update(
                index_elements=["project_id"],
                set_={name: added.excluded[name] for name in columns} | {"seen_at": func.now()},
            )
        )


def drifted(connection: Connection, *, algorithm: int, limit: int) -> list[Sighting]:
    """Living tenants whose schema was not their version's when somebody last looked, by their slugs."""
    return _sightings(connection, algorithm=algorithm, limit=limit, only="drifted")


def sightings(connection: Connection, *, algorithm: int, limit: int) -> list[Sighting]:
    """What was last seen of living tenants, by their slugs."""
    return _sightings(connection, algorithm=algorithm, limit=limit)


def _sightings(connection: Connection, *, algorithm: int, limit: int, only: Standing | None = None) -> list[Sighting]:
    table, customer, project = models.SchemaSeen, models.Customer, models.Project
    query = (
        select(
            customer.slug, table.fingerprint, table.version, table.standing, table.expected, table.differences,
            table.seen_at,
        )
        .join(project, project.id == table.project_id)
        .join(customer, customer.id == project.customer_id)
        .where(project.state == "ready", table.algorithm == algorithm)
    )  # fmt: skip
    if only is not None:
        query = query.where(table.standing == only)
    found = connection.execute(query.order_by(customer.slug).limit(limit)).mappings()
    return [Sighting(**row) for row in found]
