"""Tenants' own way back in time, as undoing migrations needs it (``migrations.undo_plan.TimeMachine``)."""

from __future__ import annotations

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.migrations.restore_point import RestorePoint
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.go_back import Past, go_back, look_back


class FleetTimeMachine:
    def __init__(self, catalog: Catalog, provider_of: ProviderOf) -> None:
        self._catalog = catalog
        self._provider_of = provider_of

    def look_back(self, slug: TenantSlug) -> Past:
        return look_back(self._catalog, self._provider_of, slug)

    def go_back(self, slug: TenantSlug, point: RestorePoint, preserved_as: str) -> bool:
        return go_back(
            self._catalog, self._provider_of, slug, kind=point.kind, value=point.value, preserved_as=preserved_as
        )
