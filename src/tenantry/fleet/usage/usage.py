"""Usage of one fleet, as the command line and the passes ask for it."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from tenantry.errors import NotFound, NotSupported, TenantryError
from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog import usage as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderRecord, Tenant
from tenantry.fleet.catalog.usage import Idle
from tenantry.fleet.providers.open import Providers
from tenantry.fleet.usage.collect import Collected, collect, collect_of_tenant
from tenantry.fleet.usage.outliers import Noisy, noisy
from tenantry.fleet.usage.report import By, Line, Period, PriceTable, Report, each_day_of_each, report

IDLE_DAYS: Final = 30
FORGOTTEN_MAX: Final = 50_000
"""Days of tenants that one call forgets: a pass each hour keeps up with a fleet of any size that there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unused:
    """Who was not used, and which providers cannot tell."""

    days: int
    tenants: Sequence[Idle]
    not_known: Sequence[str]
    """Providers without metered usage, and those that never told any: their tenants are in no list."""


class Usage:
    """Threads may share it."""

    def __init__(self, catalog: Catalog, opened: Providers) -> None:
        self._catalog = catalog
        self._opened = opened

    def collect(self) -> builtins.list[Collected]:
        return collect(self._catalog, self._opened.opened)

    def collect_pass(self, keep_days: int) -> builtins.list[str]:
        """A sentence for each provider that something is to be said of; what went wrong comes first."""
        found = sorted(self.collect(), key=lambda each: (each.problem is None, not each.metered))
        said = [each.sentence() for each in found if each.problem is not None or not each.metered or each.rows]
        forgotten = self.forget(keep_days)
        if forgotten:
            said.append(f"{forgotten} days of tenants are older than {keep_days} days, and forgotten")
        return said

    def forget(self, keep_days: int) -> int:
        """Days that are older go; says how many days of tenants that were. What is left the next call finds."""
        with self._catalog.transaction() as connection:
            oldest = rows.clock(connection).date() - timedelta(days=keep_days)
            return rows.forget_usage(connection, oldest, limit=FORGOTTEN_MAX)

    def collect_of(self, tenant: Tenant, since: date) -> Collected:
        """One tenant's. Raises NotSupported where its provider has no metered usage."""
        with self._catalog.transaction() as connection:
            record = providers.provider_by_id(connection, tenant.provider_id)
            last = rows.collected_at(connection).get(tenant.provider_id)
        if record is None:
            raise NotFound(f"there is no provider {tenant.provider_id}")
        try:
            written = collect_of_tenant(self._catalog, record, self._opened.opened(record), tenant, since)
        except NotSupported:
            raise
        except TenantryError as error:
            return Collected(
                provider=record.name, metered=True, at=last, problem=error.message, next_step=error.next_step
            )
        return Collected(provider=record.name, metered=True, since=since, rows=written, at=last)

    def known(self) -> builtins.list[Collected]:
        """How each provider stands, without asking any."""
        with self._catalog.transaction() as connection:
            known = providers.providers(connection)
            last = rows.collected_at(connection)
        return [
            Collected(provider=record.name, metered=self._metered(record), at=last.get(record.id)) for record in known
        ]

    def report(
        self, period: Period, prices: PriceTable, *, by: By, tenant: Tenant | None = None, limit: int | None = None
    ) -> Report:
        return report(self._catalog, period, prices, by=by, tenant=tenant, limit=limit)

    def each_day_of_each(self, period: Period, prices: PriceTable, *, tenant: Tenant | None = None) -> Iterator[Line]:
        return each_day_of_each(self._catalog, period, prices, tenant=tenant)

    def noisy(self, period: Period) -> builtins.list[Noisy]:
        with self._catalog.transaction() as connection:
            _, tenants = rows.usage_of_tenants(connection, period.since, period.until)
        return noisy([each for each in tenants if not each.deleted], period.days)

    def idle(self, days: int = IDLE_DAYS) -> Unused:
        """Ready tenants that were there before, and that nobody has used for ``days`` days."""
        with self._catalog.transaction() as connection:
            known = providers.providers(connection)
            last = rows.collected_at(connection)
            today = rows.clock(connection).date()
            telling = [record for record in known if record.id in last]
            found = rows.idle_tenants(connection, today - timedelta(days=days), [record.id for record in telling])
        silent = [record.name for record in known if record.id not in last]
        return Unused(days=days, tenants=found, not_known=silent)

    def _metered(self, record: ProviderRecord) -> bool:
        try:
            return "usage" in self._opened.opened(record).features
        except TenantryError:  # its secret is on another machine
            return True
