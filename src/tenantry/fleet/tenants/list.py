"""List tenants, from the catalog alone: nobody is woken and no provider is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant, TenantState

PAGE: Final = 1_000


def list_tenants(catalog: Catalog, *, states: Sequence[TenantState] = ()) -> Iterator[Tenant]:
    """Living tenants in the order of their slugs; ``states`` keeps only those in one of them.

    Each page is a transaction of its own, so a long listing holds nothing back.
    """
    after = ""
    while True:
        with catalog.transaction() as connection:
            page = queries.tenants_page(connection, after=after, limit=PAGE, states=states)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].slug
