"""Purge what was deleted and whose grace has ended; and see that doors are as they should be.

A pass over the whole catalog, which knows both without asking any provider.
"""

from __future__ import annotations

from typing import Final

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.delete import finish_deletion
from tenantry.fleet.tenants.door import move_door
from tenantry.runtime.failpoints import failpoint

PASS_MAX: Final = 1_000
"""Tenants that one pass takes on of each kind; the next pass finds the rest."""


def pass_(catalog: Catalog, provider_of: ProviderOf) -> list[str]:
    """Returns a sentence for each tenant that it did something for, or could not."""
    with catalog.transaction() as connection:
        doors = queries.doors_to_move(connection, limit=PASS_MAX)
        overdue = queries.overdue_tenants(connection, limit=PASS_MAX)
    said: list[str] = []
    for tenant in doors:
        what = "turned away" if tenant.state == "leaving" else "let in again"
        try:
            if move_door(catalog, provider_of, tenant):
                said.append(f"{tenant.slug}: its clients are {what}")
        except TenantryError as error:
            said.append(f"{tenant.slug}: its clients could not be {what}: {error}")
    for tenant in overdue:
        try:
            if _purge(catalog, provider_of, tenant):
                said.append(f"{tenant.slug}: its grace has ended, and it is purged")
        except TenantryError as error:
            said.append(f"{tenant.slug}: its grace has ended, and it could not be purged: {error}")
    return said


def _purge(catalog: Catalog, provider_of: ProviderOf, known: Tenant) -> bool:
    """False when somebody has called it back meanwhile."""
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, known.id)
        if tenant.state != "leaving" or not queries.is_overdue(connection, tenant):
            return False
        tenant = queries.mark_deleting(connection, tenant.id)
    failpoint("purge.marked")
    finish_deletion(catalog, provider_of, tenant)
    return True
