"""Which backups there are, and when there will be others, as the catalog knows."""

from __future__ import annotations

from typing import Final

from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog.backups import BackupRecord, Standing
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import TenantId

PAGE: Final = 1_000


def list_backups(
    catalog: Catalog, tenant_id: TenantId | None, *, everything: bool = False, limit: int
) -> list[BackupRecord]:
    """The newest first: those that can be restored or are under way, or all that there ever were."""
    with catalog.transaction() as connection:
        return rows.backups_page(
            connection, tenant_id=tenant_id, states=() if everything else ("done", "running"), limit=limit
        )


def schedules(catalog: Catalog, slug: str | None) -> list[Standing]:
    """How ready tenants stand, in the order of their slugs; or one of them."""
    found: list[Standing] = []
    while True:
        with catalog.transaction() as connection:
            page = rows.standings_page(
                connection, slugs=None if slug is None else [slug], after=found[-1].slug if found else "", limit=PAGE
            )
        found += page
        if len(page) < PAGE:
            return found
