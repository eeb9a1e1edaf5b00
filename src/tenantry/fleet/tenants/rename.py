"""Rename a tenant: its customer's name, its slug if that is wanted, and its project at the provider."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.errors import Conflict, NotFound, TenantryError
from tenantry.fleet.catalog import events, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.tenants.settle import settle
from tenantry.fleet.tenants.slugs import checked_slug, clean_name, same_name
from tenantry.runtime.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class Renamed:
    tenant: Tenant
    was: Tenant
    new: bool
    """False when it was called so already."""
    note: str | None = None
    """What is still to be done, by a pass."""


def rename_tenant(
    catalog: Catalog, provider_of: ProviderOf, name: str, new_name: str, *, slug: str | None = None
) -> Renamed:
    """The slug stays unless one is given; the connection string stays in any case. The old slug is free at once.

    Raises NotFound, Conflict for a slug that another has, or a tenant that is not there yet or any more.
    """
    wanted = clean_name(new_name)
    found = _find(catalog, name, wanted, None if slug is None else checked_slug(slug))
    with catalog.transaction() as connection:
        was = queries.hold_tenant(connection, found.id)
        if was.state not in ("ready", "leaving"):
            raise Conflict(f"{was.slug} is {was.state}", next_step="rename it when it is ready")
        tenant, new_slug = was, slug or was.slug
        other = queries.tenant_by_slug(connection, new_slug)
        if other is not None and other.id != was.id:
            raise Conflict(f"the slug {new_slug} belongs to {other.name!r}", next_step="choose another one with --slug")
        if (was.name, was.slug) != (wanted, new_slug):
            tenant = queries.rename_customer(connection, was.id, name=wanted, slug=new_slug)
            events.record(connection, "rename", was, name=wanted, slug=new_slug if new_slug != was.slug else None)
    failpoint("rename_tenant.recorded")
    note = None
    try:
        settle(catalog, provider_of, tenant, limits=False)
    except TenantryError as error:
        note = f"its project's name follows: {error.message}"
    return Renamed(tenant, was, new=tenant != was, note=note)


def _find(catalog: Catalog, name: str, wanted: str, slug: str | None) -> Tenant:
    """Also when it was renamed by this very command before, and has its old slug no more."""
    try:
        return find_tenant(catalog, name)
    except NotFound:
        if slug is None:
            raise
        with catalog.transaction() as connection:
            renamed = queries.tenant_by_slug(connection, slug)
        if renamed is None or not same_name(renamed.name, wanted):
            raise
        return renamed
