"""Usage as operators read it: lines for tenants, for days, or for each tenant's each day, with what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final, Literal, Protocol
from uuid import UUID

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog import usage as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.catalog.usage import Amounts, Totals, Used

By = Literal["tenant", "day"]

PERIOD_DAYS_MAX: Final = 1_100
"""Three years and a little."""
_HOUR: Final = Decimal(3600)
_GIB: Final = Decimal(2**30)
_MONTH_DAYS: Final = Decimal(30)
_EXACT: Final = Decimal("0.000001")


class PriceTable(Protocol):
    """``[prices]`` of tenantry.toml."""

    @property
    def currency(self) -> str: ...
    @property
    def compute_hour(self) -> float: ...
    @property
    def storage_gib_month(self) -> float: ...
    @property
    def written_gib(self) -> float: ...
    @property
    def sent_gib(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Period:
    since: date
    until: date
    """The last day of it."""

    @property
    def days(self) -> int:
        return (self.until - self.since).days + 1

    def each(self) -> Iterator[date]:
        return (self.since + timedelta(days=number) for number in range(self.days))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One tenant's, one day's, or all. What it is not about is None."""

    day: date | None = None
    tenant: str | None = None
    tenant_id: UUID | None = None
    name: str | None = None
    plan: str | None = None
    deleted: bool | None = None
    tenants: int = 1
    active_seconds: int
    compute_seconds: int
    written_bytes: int
    sent_bytes: int
    storage_bytes: int
    """On average over the days of the line's period."""
    storage_byte_days: int
    cost: Decimal | None
    """None where there are no prices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    since: date
    until: date
    by: By
    tenant: str | None
    """None: of all tenants."""
    currency: str | None
    """None where there are no prices."""
    lines: list[Line]
    total: Line


def period_of(since: date | None, until: date | None, today: date) -> Period:
    """By default this month so far; of days that are to come none. Pure. Raises InvalidInput."""
    last = today if until is None else min(until, today)
    first = last.replace(day=1) if since is None else since
    if first > last:
        raise InvalidInput(
            f"{first} is after {last}",
            next_step="usage is counted up to today (UTC)" if first > today else "say --since before --until",
        )
    if (last - first).days >= PERIOD_DAYS_MAX:
        raise InvalidInput(f"from {first} to {last} are more than {PERIOD_DAYS_MAX} days")
    return Period(first, last)


def has_prices(prices: PriceTable) -> bool:
    return any((prices.compute_hour, prices.storage_gib_month, prices.written_gib, prices.sent_gib))


def cost(amounts: Amounts, prices: PriceTable) -> Decimal | None:
    """Exact to a millionth of the currency. A price is the decimal number that the file says. Pure."""
    if not has_prices(prices):
        return None
    total = (
        Decimal(str(prices.compute_hour)) * amounts.compute_seconds / _HOUR
        + Decimal(str(prices.storage_gib_month)) * amounts.storage_byte_days / _GIB / _MONTH_DAYS
        + Decimal(str(prices.written_gib)) * amounts.written_bytes / _GIB
        + Decimal(str(prices.sent_gib)) * amounts.sent_bytes / _GIB
    )
    return total.quantize(_EXACT)


def report(
    catalog: Catalog, period: Period, prices: PriceTable, *, by: By, tenant: Tenant | None, limit: int | None = None
) -> Report:
    """From the catalog alone. The total is of all; ``limit`` keeps the tenants that used most."""
    lines: list[Line]
    with catalog.transaction() as connection:
        if by == "day" or tenant is not None:
            days = rows.usage_of_days(
                connection, period.since, period.until, tenant=None if tenant is None else tenant.id
            )
            amounts = rows.added(each.amounts for _, each in days)
            if by == "day":
                total = Totals(tenants=max((each.tenants for _, each in days), default=0), amounts=amounts)
                lines = [_line(each.amounts, 1, prices, day=day, tenants=each.tenants) for day, each in days]
            else:
                assert tenant is not None
                total = Totals(tenants=1 if days else 0, amounts=amounts)
                lines = [_of_tenant(_as_used(tenant, amounts), period.days, prices)] if days else []
        else:
            total, used = rows.usage_of_tenants(connection, period.since, period.until, limit=limit)
            lines = [_of_tenant(each, period.days, prices) for each in used]
    return Report(
        since=period.since,
        until=period.until,
        by=by,
        tenant=None if tenant is None else tenant.slug,
        currency=prices.currency if has_prices(prices) else None,
        lines=lines,
        total=_line(total.amounts, period.days, prices, tenants=total.tenants),
    )


def each_day_of_each(catalog: Catalog, period: Period, prices: PriceTable, *, tenant: Tenant | None) -> Iterator[Line]:
    """A line for each tenant and day, a day at a time: no more than that is ever held."""
    if tenant is not None:
        with catalog.transaction() as connection:
            days = rows.usage_of_days(connection, period.since, period.until, tenant=tenant.id)
        for day, each in days:
            yield _of_tenant(_as_used(tenant, each.amounts), 1, prices, day=day)
        return
    for day in period.each():
        with catalog.transaction() as connection:
            used = rows.usage_on_day(connection, day)
        for one in used:
            yield _of_tenant(one, 1, prices, day=day)


def _as_used(tenant: Tenant, amounts: Amounts) -> Used:
    return Used(
        tenant_id=tenant.id,
        slug=tenant.slug,
        name=tenant.name,
        plan=tenant.plan,
        deleted=tenant.state == "deleted",
        amounts=amounts,
    )


def _of_tenant(used: Used, days: int, prices: PriceTable, *, day: date | None = None) -> Line:
    line = _line(used.amounts, days, prices, day=day)
    return Line(
        day=day,
        tenant=used.slug,
        tenant_id=used.tenant_id,
        name=used.name,
        plan=used.plan,
        deleted=used.deleted,
        active_seconds=line.active_seconds,
        compute_seconds=line.compute_seconds,
        written_bytes=line.written_bytes,
        sent_bytes=line.sent_bytes,
        storage_bytes=line.storage_bytes,
        storage_byte_days=line.storage_byte_days,
        cost=line.cost,
    )


def _line(amounts: Amounts, days: int, prices: PriceTable, *, day: date | None = None, tenants: int = 1) -> Line:
    return Line(
        day=day,
        tenants=tenants,
        active_seconds=amounts.active_seconds,
        compute_seconds=amounts.compute_seconds,
        written_bytes=amounts.written_bytes,
        sent_bytes=amounts.sent_bytes,
        storage_bytes=amounts.storage_byte_days // days,
        storage_byte_days=amounts.storage_byte_days,
        cost=cost(amounts, prices),
    )
