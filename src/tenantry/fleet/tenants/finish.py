"""Finish what was interrupted: a pass over the whole catalog that takes no argument and can run at any time."""

from __future__ import annotations

from typing import Final

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.create import finish_creation
from tenantry.fleet.tenants.delete import finish_deletion

PASS_MAX: Final = 1_000
"""Tenants that one pass takes on; the next pass finds the rest."""


def finish_unfinished(catalog: Catalog, provider_of: ProviderOf) -> list[str]:
    """Completes creations and deletions; returns a sentence for each, also for those that failed again."""
    with catalog.transaction() as connection:
        unfinished = queries.unfinished_tenants(connection, limit=PASS_MAX)
    said: list[str] = []
    for tenant in unfinished:
        try:
            if tenant.state == "creating":
                finish_creation(catalog, provider_of, tenant)
                said.append(f"{tenant.slug}: its interrupted creation is complete")
            else:
                finish_deletion(catalog, provider_of, tenant)
                said.append(f"{tenant.slug}: its interrupted deletion is complete")
        except TenantryError as error:
            said.append(f"{tenant.slug}: still {tenant.state}: {error}")
    return said
