"""Say when a tenant's database may be changed: its maintenance window, which runs of migrations wait for."""

from __future__ import annotations

from tenantry.fleet.catalog import events, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.tenants.find import find_tenant
from tenantry.runtime.windows import parse_window


def set_window(catalog: Catalog, name: str, window: str | None) -> Tenant:
    """None: at any time. Raises NotFound, and InvalidInput for what is no window."""
    if window is not None:
        parse_window(window)
    found = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        tenant = queries.set_window(connection, found.id, window)
        if found.maintenance_window != window:
            events.record(connection, "window", tenant, window=window or "any time")
    return tenant
