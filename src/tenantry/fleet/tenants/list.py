"""List tenants, from the catalog alone: nobody is woken and no provider is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant, TenantState

PAGE: Final = 1_000


def list_tenants(
    catalog: Catalog,
    *,
    states: Sequence[TenantState] = (),
    plan: str | None = None,
    region: str | None = None,
    after: str = "",
    limit: int | None = None,
) -> Iterator[Tenant]:
    """Living tenants in the order of their slugs, those behind ``after``: of these states, this plan, this region.

    Each page is a transaction of its own, so a long listing holds nothing back.
    """
    left = limit
    while left is None or left > 0:
        wanted = PAGE if left is None else min(PAGE, left)
        with catalog.transaction() as connection:
            page = queries.tenants_page(connection, after=after, limit=wanted, states=states, plan=plan, region=region)
        yield from page
        if len(page) < wanted:
            return
        after = page[-1].slug
        left = None if left is None else left - len(page)
