"""Which backups there are, as the catalog knows them."""

from __future__ import annotations

from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog.backups import BackupRecord
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import TenantId


def list_backups(
    catalog: Catalog, tenant_id: TenantId | None, *, everything: bool = False, limit: int
) -> list[BackupRecord]:
    """The newest first: those that can be restored or are under way, or all that there ever were."""
    with catalog.transaction() as connection:
        return rows.backups_page(
            connection, tenant_id=tenant_id, states=() if everything else ("done", "running"), limit=limit
        )
