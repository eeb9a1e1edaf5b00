"""Providers, the regions they serve, and residency: every question and change, each in the caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from sqlalchemy import Connection, Executable, RowMapping, and_, delete, func, literal, select, text, true, update
from sqlalchemy.dialects.postgresql import insert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import ProviderId, ProviderKind, ProviderRecord, Residency, Serving

_PROVIDER: Final = select(
    models.Provider.id,
    models.Provider.name,
    models.Provider.kind,
    models.Provider.api_url,
    models.Provider.api_ca,
    models.Provider.secret_from,
    models.Provider.created_at,
    models.Provider.removed_at,
)
_THERE: Final = models.Provider.removed_at.is_(None)
_ALIVE: Final = models.Project.state != "deleted"


def _provider(row: RowMapping) -> ProviderRecord:
    fields = dict(row)
    fields["kind"] = cast(ProviderKind, fields["kind"])
    return ProviderRecord(**fields)


def _one(connection: Connection, query: Executable) -> ProviderRecord | None:
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _provider(row)


def providers(connection: Connection) -> list[ProviderRecord]:
    """Those that were not removed, oldest first."""
    query = _PROVIDER.where(_THERE).order_by(models.Provider.created_at, models.Provider.name)
    return [_provider(row) for row in connection.execute(query).mappings()]


def provider_by_id(connection: Connection, provider: ProviderId) -> ProviderRecord | None:
    """Also one that was removed."""
    return _one(connection, _PROVIDER.where(models.Provider.id == provider))


def provider_by_name(connection: Connection, name: str) -> ProviderRecord | None:
    return _one(connection, _PROVIDER.where(models.Provider.name == name, _THERE))


def add_provider(
    connection: Connection, *, name: str, kind: ProviderKind, api_url: str | None, api_ca: str | None, secret_from: str
) -> tuple[ProviderRecord, bool]:
    """The provider of this name, and whether it was written now."""
    values = {"name": name, "kind": kind, "api_url": api_url, "api_ca": api_ca, "secret_from": secret_from}
    written = connection.execute(
        insert(models.Provider)
        .values(**values)
        .on_conflict_do_nothing(index_elements=["name"], index_where=text("removed_at IS NULL"))
        .returning(models.Provider.id)
    ).first()
    found = provider_by_name(connection, name)
    assert found is not None, "the provider just written is there"
    return found, written is not None


def change_reach(
    connection: Connection, provider: ProviderId, *, api_url: str | None, api_ca: str | None, secret_from: str
) -> None:
    """Where it is, and where its secret is read, from now on."""
    table = models.Provider
    values = {"api_url": api_url, "api_ca": api_ca, "secret_from": secret_from}
    connection.execute(update(table).where(table.id == provider).values(values))


def hold_provider(connection: Connection, provider: ProviderId) -> None:
    """Until the transaction ends nothing is placed there."""
    connection.execute(select(models.Provider.id).where(models.Provider.id == provider).with_for_update())


def holdings(connection: Connection, provider: ProviderId) -> tuple[int, int]:
    """How many tenants live there, and how many projects wait there for one."""
    tenants = select(func.count()).where(models.Project.provider_id == provider, _ALIVE).scalar_subquery()
    waiting = select(func.count()).where(models.ReadyProject.provider_id == provider).scalar_subquery()
    row = connection.execute(select(tenants, waiting)).one()
    return int(row[0]), int(row[1])


def remove_provider(connection: Connection, provider: ProviderId) -> None:
    """It serves nothing any more; the row stays, for what was there. The caller holds it and has looked."""
    table, served = models.Provider, models.ProviderRegion
    connection.execute(delete(served).where(served.provider_id == provider))
    connection.execute(update(table).where(table.id == provider).values(removed_at=func.now()))


# -- regions -------------------------------------------------------------------------------------------------


def regions(connection: Connection) -> list[str]:
    return list(connection.execute(select(models.Region.slug).order_by(models.Region.slug)).scalars())


def serve_region(
    connection: Connection,
    provider: ProviderId,
    region: str,
    *,
    provider_region: str | None,
    projects_max: int | None,
    unlimited: bool,
    accepts_new: bool | None,
) -> None:
    """Makes the region, and the provider serve it. None leaves what is there; a new one opens without a limit."""
    connection.execute(insert(models.Region).values(slug=region).on_conflict_do_nothing())
    fresh = insert(models.ProviderRegion).values(
        provider_id=provider,
        region_slug=region,
        provider_region=provider_region or region,
        projects_max=projects_max,
        accepts_new=accepts_new is not False,
    )
    said: dict[str, object] = {}
    if provider_region is not None:
        said["provider_region"] = provider_region
    if projects_max is not None or unlimited:
        said["projects_max"] = projects_max
    if accepts_new is not None:
        said["accepts_new"] = accepts_new
    keys = ["provider_id", "region_slug"]
    connection.execute(
        fresh.on_conflict_do_update(index_elements=keys, set_=said)
        if said
        else fresh.on_conflict_do_nothing(index_elements=keys)
    )


def leave_region(connection: Connection, provider: ProviderId, region: str) -> bool:
    """The provider serves the region no more, and a region that nobody serves is none. False: it did not."""
    served = models.ProviderRegion
    gone = connection.execute(delete(served).where(served.provider_id == provider, served.region_slug == region))
    left = select(served.provider_id).where(served.region_slug == region).exists()
    connection.execute(delete(models.Region).where(models.Region.slug == region, ~left))
    return gone.rowcount == 1


def servings(connection: Connection, *, region: str | None = None) -> list[Serving]:
    """Who serves what, in the order of providers and regions."""
    return [_serving(row) for row in connection.execute(_servings(region)).mappings()]


def hold_servings(connection: Connection, *, region: str | None = None) -> list[Serving]:
    """The same for who is about to place something: nobody else places there until the transaction ends."""
    served = models.ProviderRegion
    # Providers first, as their removal does: it holds the provider, looks what lives there, and takes its regions.
    connection.execute(
        select(models.Provider.id).where(_THERE).order_by(models.Provider.id).with_for_update(read=True, key_share=True)
    )
    # Locked, and counted after that: what the one before us has placed is seen.
    connection.execute(
        select(served.provider_id)
        .where(true() if region is None else served.region_slug == region)
        .order_by(served.provider_id, served.region_slug)
        .with_for_update()
    )
    return servings(connection, region=region)


def _servings(region: str | None) -> Executable:
    served = models.ProviderRegion
    here = and_(models.Project.provider_id == served.provider_id, models.Project.region == served.region_slug, _ALIVE)
    waiting = and_(
        models.ReadyProject.provider_id == served.provider_id,
        models.ReadyProject.wanted_region == served.region_slug,
    )
    living = select(func.count()).select_from(models.Project).where(here).correlate(served).scalar_subquery()
    ready = select(func.count()).select_from(models.ReadyProject).where(waiting).correlate(served).scalar_subquery()
    return (
        select(
            served.provider_id,
            models.Provider.name.label("provider"),
            served.region_slug.label("region"),
            served.provider_region,
            living.label("projects"),
            ready.label("ready"),
            served.projects_max,
            served.accepts_new,
        )
        .join(models.Provider, models.Provider.id == served.provider_id)
        .where(_THERE, literal(True) if region is None else served.region_slug == region)
        .order_by(models.Provider.name, served.region_slug)
    )


def _serving(row: RowMapping) -> Serving:
    return Serving(**row)


def serving_of(connection: Connection, provider: ProviderId, region: str) -> str | None:
    """What the provider calls the region; None where it does not serve it (any more)."""
    served = models.ProviderRegion
    return connection.execute(
        select(served.provider_region).where(served.provider_id == provider, served.region_slug == region)
    ).scalar_one_or_none()


def tenants_in(connection: Connection, provider: ProviderId, region: str) -> int:
    query = select(func.count()).where(models.Project.provider_id == provider, models.Project.region == region, _ALIVE)
    return connection.execute(query).scalar_one()


# -- residency -----------------------------------------------------------------------------------------------


def residencies(connection: Connection) -> list[Residency]:
    table = models.Residency
    rows = connection.execute(select(table.slug, table.region_patterns).order_by(table.slug))
    return [Residency(slug=slug, region_patterns=tuple(patterns)) for slug, patterns in rows]


def hold_residency(connection: Connection, slug: str) -> Residency | None:
    """The rule, which does not change until the transaction ends."""
    table = models.Residency
    query = select(table.slug, table.region_patterns).where(table.slug == slug).with_for_update(read=True)
    row = connection.execute(query).one_or_none()
    return None if row is None else Residency(slug=row[0], region_patterns=tuple(row[1]))


def put_residency(connection: Connection, slug: str, region_patterns: Sequence[str]) -> None:
    rule = insert(models.Residency).values(slug=slug, region_patterns=list(region_patterns))
    connection.execute(
        rule.on_conflict_do_update(index_elements=["slug"], set_={"region_patterns": list(region_patterns)})
    )


def drop_residency(connection: Connection, slug: str) -> bool:
    """False: there was none. The catalog's own key refuses it while a customer, also a former one, has it."""
    table = models.Residency
    return connection.execute(delete(table).where(table.slug == slug)).rowcount == 1


def regions_of_residents(connection: Connection, slug: str) -> list[tuple[str | None, int]]:
    """Where the living tenants of a residency are, and how many."""
    query = (
        select(models.Project.region, func.count())
        .join(models.Customer, models.Customer.id == models.Project.customer_id)
        .where(models.Customer.residency_slug == slug, _ALIVE)
        .group_by(models.Project.region)
    )
    return [(region, count) for region, count in connection.execute(query)]
