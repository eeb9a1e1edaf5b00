"""Usage as it is told: periods, sums by tenant and day, what it costs, who is idle and who is noisy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog import usage as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId, Tenant, TenantId
from tenantry.fleet.catalog.usage import Amounts, Used
from tenantry.fleet.settings import Prices
from tenantry.fleet.usage.outliers import noisy
from tenantry.fleet.usage.report import Period, cost, each_day_of_each, period_of, report

if TYPE_CHECKING:
    from conftest import Metered

HOME = ProviderId(HOME_PROVIDER)
GIB = 2**30
TODAY = date(2026, 11, 24)
PERIOD = Period(date(2026, 11, 1), date(2026, 11, 10))
FREE = Prices()
PRICES = Prices(currency="EUR", compute_hour=0.16, storage_gib_month=0.35, written_gib=0.1, sent_gib=0.09)


def put(catalog: Catalog, tenant: Tenant, day: date, **amounts: int) -> None:
    assert tenant.project_id is not None
    with catalog.transaction() as connection:
        rows.put_usage(
            connection, tenant.provider_id, datetime.now(UTC), {(tenant.project_id, day): Amounts(**amounts)}
        )


@pytest.mark.parametrize(
    ("since", "until", "period"),
    [
        (None, None, Period(date(2026, 11, 1), TODAY)),
        (None, date(2026, 10, 15), Period(date(2026, 10, 1), date(2026, 10, 15))),
        (date(2026, 10, 15), None, Period(date(2026, 10, 15), TODAY)),
        (TODAY, date(2027, 1, 1), Period(TODAY, TODAY)),
    ],
)
def test_a_period_is_this_month_and_never_the_future(since: date | None, until: date | None, period: Period) -> None:
    assert period_of(since, until, TODAY) == period


def test_a_period_that_is_none_says_why() -> None:
    with pytest.raises(InvalidInput, match="is after") as raised:
        period_of(date(2026, 12, 1), None, TODAY)
    assert "up to today" in raised.value.next_step
    with pytest.raises(InvalidInput, match="is after") as raised:
        period_of(date(2026, 11, 3), date(2026, 11, 2), TODAY)
    assert raised.value.next_step == "say --since before --until"
    with pytest.raises(InvalidInput, match="more than 1100 days"):
        period_of(date(2020, 1, 1), None, TODAY)


def test_what_it_costs_is_exact() -> None:
    used = Amounts(
        compute_seconds=3 * 3600, storage_byte_days=60 * GIB, written_bytes=10 * GIB, sent_bytes=GIB, active_seconds=9
    )
    # 3 * 0.16 + 2 GiB months * 0.35 + 1.00 + 0.09
    assert cost(used, PRICES) == Decimal("2.270000")
    assert cost(Amounts(compute_seconds=1), PRICES) == Decimal("0.000044")
    assert cost(used, FREE) is None


def test_tenants_are_told_with_their_sums_and_those_that_used_most_first(metered: Metered) -> None:
    small, big = metered.tenant("small"), metered.tenant("big", plan="scale")
    gone = metered.tenant("gone")
    for number in range(4):
        put(metered.catalog, small, date(2026, 11, 2 + number), compute_seconds=10, storage_byte_days=5 * GIB)
    put(metered.catalog, big, date(2026, 11, 3), compute_seconds=7200, sent_bytes=GIB, active_seconds=60)
    put(metered.catalog, big, date(2026, 10, 31), compute_seconds=7200)
    put(metered.catalog, gone, date(2026, 11, 10), compute_seconds=20)
    metered.delete(gone)
    again = metered.tenant("gone")  # another customer of the same slug
    put(metered.catalog, again, date(2026, 11, 11), compute_seconds=20)

    told = report(metered.catalog, PERIOD, PRICES, by="tenant", tenant=None)
    assert [(line.tenant, line.deleted, line.compute_seconds, line.plan) for line in told.lines] == [
        ("big", False, 7200, "scale"),
        ("small", False, 40, "launch"),
        ("gone", True, 20, "launch"),
    ]
    # Twenty GiB days in ten days: two GiB on average.
    assert (told.lines[1].storage_bytes, told.lines[1].storage_byte_days) == (2 * GIB, 20 * GIB)
    assert told.lines[0].cost == Decimal("0.410000")
    assert (told.total.tenants, told.total.compute_seconds, told.currency) == (3, 7260, "EUR")

    first = report(metered.catalog, PERIOD, FREE, by="tenant", tenant=None, limit=1)
    assert [line.tenant for line in first.lines] == ["big"]
    assert (first.total.tenants, first.total.compute_seconds) == (3, 7260)
    assert (first.total.cost, first.currency) == (None, None)


def test_days_are_told_of_one_and_of_all(metered: Metered) -> None:
    one, other = metered.tenant("one"), metered.tenant("other")
    put(metered.catalog, one, date(2026, 11, 2), compute_seconds=1, storage_byte_days=GIB)
    put(metered.catalog, other, date(2026, 11, 2), compute_seconds=2)
    put(metered.catalog, other, date(2026, 11, 4), compute_seconds=4)
    told = report(metered.catalog, PERIOD, FREE, by="day", tenant=None)
    assert [(line.day, line.tenants, line.compute_seconds) for line in told.lines] == [
        (date(2026, 11, 2), 2, 3),
        (date(2026, 11, 4), 1, 4),
    ]
    assert told.total.compute_seconds == 7
    told = report(metered.catalog, PERIOD, FREE, by="day", tenant=one)
    assert [(line.day, line.storage_bytes) for line in told.lines] == [(date(2026, 11, 2), GIB)]
    told = report(metered.catalog, PERIOD, FREE, by="tenant", tenant=other)
    assert [(line.tenant, line.compute_seconds) for line in told.lines] == [("other", 6)]
    nothing = report(metered.catalog, Period(TODAY, TODAY), FREE, by="tenant", tenant=None)
    assert (nothing.lines, nothing.total.tenants) == ([], 0)

    lines = list(each_day_of_each(metered.catalog, PERIOD, FREE, tenant=None))
    assert [(line.day, line.tenant, line.compute_seconds) for line in lines] == [
        (date(2026, 11, 2), "one", 1),
        (date(2026, 11, 2), "other", 2),
        (date(2026, 11, 4), "other", 4),
    ]
    assert [line.day for line in each_day_of_each(metered.catalog, PERIOD, FREE, tenant=other)] == [
        date(2026, 11, 2),
        date(2026, 11, 4),
    ]


def test_idle_is_who_was_there_and_was_not_used(metered: Metered, today: date) -> None:
    used, unused, never, young = (metered.tenant(slug) for slug in ("used", "unused", "never", "young"))
    other, _ = metered.add("elsewhere")
    metered.tenant("untold", other)
    with metered.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE project SET ready_at = now() - interval '90 days'")
        connection.exec_driver_sql("UPDATE project SET ready_at = now() WHERE id = %s", (young.id,))
    put(metered.catalog, used, today - timedelta(days=29), compute_seconds=1)
    put(metered.catalog, unused, today - timedelta(days=31), sent_bytes=1, storage_byte_days=7)
    put(metered.catalog, unused, today, storage_byte_days=9)  # it is kept, and nobody uses it
    put(metered.catalog, never, today, storage_byte_days=3)
    with metered.catalog.transaction() as connection:
        found = rows.idle_tenants(connection, today - timedelta(days=30), [HOME])
    assert [(each.slug, each.last_active, each.storage_bytes) for each in found] == [
        ("never", None, 3),
        ("unused", today - timedelta(days=31), 9),
    ]


def uses(compute: Sequence[int] = (), **others: Sequence[int]) -> list[Used]:
    columns = {"compute_seconds": compute, **others}
    length = max(len(column) for column in columns.values())
    return [
        Used(
            tenant_id=TenantId(uuid4()),
            slug=f"t{number}",
            name="",
            plan="launch",
            deleted=False,
            amounts=Amounts(**{name: column[number] for name, column in columns.items() if number < len(column)}),
        )
        for number in range(length)
    ]


def test_noisy_is_ten_times_the_median_and_enough_to_disturb_somebody() -> None:
    assert [(each.used.slug, each.times) for each in noisy(uses([4_000] * 9 + [40_000, 39_999]), 1)] == [("t9", 10.0)]
    # Ten times next to nothing is still next to nothing.
    assert noisy(uses([1] * 9 + [3_599]), 1) == []
    assert [each.used.slug for each in noisy(uses([1] * 9 + [3_600]), 1)] == ["t9"]
    # What is little in a day is less in a month.
    assert noisy(uses([1] * 9 + [3_600]), 30) == []


def test_noisy_is_compared_with_those_that_use_any_and_not_with_those_that_sleep() -> None:
    assert noisy(uses([0] * 100 + [50_000] * 6), 1) == []
    assert noisy(uses([0] * 100 + [1, 1, 1, 50_000]), 1) == []  # too few to compare with
    assert [each.used.slug for each in noisy(uses([0] * 100 + [1, 1, 1, 1, 50_000]), 1)] == ["t104"]


def test_noisy_names_what_is_furthest_out_and_who_first() -> None:
    found = noisy(
        uses(
            [3_600] * 5 + [36_000, 0],
            sent_bytes=[GIB] * 5 + [GIB * 50, 20 * GIB],
            storage_byte_days=[GIB] * 7,
        ),
        1,
    )
    assert [(each.used.slug, each.measure, each.amount, each.times) for each in found] == [
        ("t5", "sent", 50 * GIB, 50.0),
        ("t6", "sent", 20 * GIB, 20.0),
    ]
    kept = noisy(uses(storage_byte_days=[30 * GIB] * 9 + [30 * 30 * GIB]), 30)
    assert [(each.measure, each.amount) for each in kept] == [("storage", 30 * GIB)]
