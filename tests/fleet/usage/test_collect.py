"""Collecting usage: late, twice, in the wrong order and with one provider away, the catalog has what was said last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast

import pytest

from tenantry.errors import NotSupported, Unavailable
from tenantry.fleet.catalog import usage as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord
from tenantry.fleet.catalog.usage import Amounts
from tenantry.fleet.usage import collect as collecting
from tenantry.fleet.usage import usage as using
from tenantry.fleet.usage.collect import DAYS_MAX, collect, collect_of_tenant, first_open_day

if TYPE_CHECKING:
    from conftest import Metered

Stored = Callable[[], dict[tuple[str, date], tuple[int, ...]]]
HOME = ProviderId(HOME_PROVIDER)
DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("collected", "first"),
    [
        (None, date(2026, 9, 27)),
        (datetime(2026, 1, 1, tzinfo=UTC), date(2026, 9, 27)),
        (datetime(2026, 11, 24, 11, 59, tzinfo=UTC), date(2026, 11, 24)),
        # Yesterday may still change until its meters have had their time.
        (datetime(2026, 11, 24, 5, 59, tzinfo=UTC), date(2026, 11, 23)),
        # A catalog tells times in a zone of its own; days are of UTC.
        (datetime(2026, 11, 24, 7, 59, tzinfo=timezone(timedelta(hours=2))), date(2026, 11, 23)),
        (datetime(2026, 11, 20, 12, 0, tzinfo=UTC), date(2026, 11, 20)),
    ],
)
def test_asked_are_the_days_that_may_still_change(collected: datetime | None, first: date) -> None:
    assert first_open_day(collected, datetime(2026, 11, 24, 12, tzinfo=UTC)) == first


def test_the_first_time_all_that_is_remembered_is_asked_for_and_then_what_is_open(
    metered: Metered, stored: Stored, today: date
) -> None:
    acme = metered.tenant("acme")
    assert acme.project_id is not None
    metered.home.used = {
        (acme.project_id, today - 3 * DAY): (60, 30, 1, 2, 3),
        (acme.project_id, today): (10, 5, 6, 7, 8),
    }
    (first,) = collect(metered.catalog, metered.opened)
    assert (first.provider, first.metered, first.problem, first.rows) == ("home", True, None, 2)
    assert metered.home.asked == [(today - DAYS_MAX * DAY, today, None)]
    assert stored() == {("acme", today - 3 * DAY): (60, 30, 1, 2, 3), ("acme", today): (10, 5, 6, 7, 8)}

    metered.home.used[acme.project_id, today] = (20, 6, 6, 7, 8)
    (second,) = collect(metered.catalog, metered.opened)
    assert second.rows == 1
    assert metered.home.asked[1][0] >= today - DAY
    assert stored()["acme", today] == (20, 6, 6, 7, 8)

    (third,) = collect(metered.catalog, metered.opened)
    assert (third.rows, third.at is not None) == (0, True)


def test_what_was_asked_later_wins_whoever_writes_first(metered: Metered, stored: Stored, today: date) -> None:
    acme = metered.tenant("acme")
    assert acme.project_id is not None
    with metered.catalog.transaction() as connection:
        early, late = rows.clock(connection), rows.clock(connection) + timedelta(seconds=1)
        said = {(acme.project_id, today): Amounts(compute_seconds=9)}
        assert rows.put_usage(connection, HOME, late, said) == 1
        stale = {(acme.project_id, today): Amounts(compute_seconds=4)}
        assert rows.put_usage(connection, HOME, early, stale) == 0
        rows.mark_collected(connection, HOME, late)
        rows.mark_collected(connection, HOME, early)
        assert rows.collected_at(connection) == {HOME: late}
    assert stored()["acme", today][1] == 9


def test_projects_that_no_tenant_has_are_left_out_and_a_deleted_tenants_last_day_is_not(
    metered: Metered, stored: Stored, today: date
) -> None:
    gone = metered.tenant("gone")
    assert gone.project_id is not None
    metered.delete(gone)
    other, _ = metered.add("elsewhere")
    same = metered.tenant("same", other)
    assert same.project_id is not None
    metered.home.used = {
        (gone.project_id, today): (1, 1, 1, 1, 1),
        (same.project_id, today): (2, 2, 2, 2, 2),  # another provider's project of the same id
    }
    collect(metered.catalog, metered.opened)
    assert stored() == {("gone", today): (1, 1, 1, 1, 1)}


def test_a_provider_that_is_away_leaves_the_others_collected_and_is_asked_again(
    metered: Metered, stored: Stored, today: date
) -> None:
    away, meter = metered.add("away")
    there, other = metered.add("there")
    lost, kept = metered.tenant("lost", away), metered.tenant("kept", there)
    assert lost.project_id is not None
    assert kept.project_id is not None
    meter.used = {(lost.project_id, today - DAY): (1, 1, 1, 1, 1), (lost.project_id, today): (2, 2, 2, 2, 2)}
    meter.failure, meter.fails_after = Unavailable("provider away does not answer", next_step="see that it runs"), 1
    other.used = {(kept.project_id, today): (3, 3, 3, 3, 3)}

    found = {each.provider: each for each in collect(metered.catalog, metered.opened)}
    assert found["away"].problem == "provider away does not answer"
    assert found["away"].next_step == "see that it runs"
    assert (found["away"].at, found["there"].problem, found["home"].problem) == (None, None, None)
    assert ("kept", today) in stored()

    meter.failure = None
    found = {each.provider: each for each in collect(metered.catalog, metered.opened)}
    assert found["away"].problem is None
    assert meter.asked[1][0] == today - DAYS_MAX * DAY
    assert {key for key in stored() if key[0] == "lost"} == {("lost", today - DAY), ("lost", today)}


def test_one_whose_secret_is_elsewhere_and_one_without_meters_are_said(metered: Metered) -> None:
    plain, meter = metered.add("plain")
    meter.features = frozenset()
    hidden, _ = metered.add("hidden")

    def opened(record: ProviderRecord) -> object:
        if record.id == hidden:
            raise Unavailable("the secret of provider hidden is not on this machine")
        return metered.opened(record)

    found = {each.provider: each for each in collect(metered.catalog, opened)}  # pyright: ignore[reportArgumentType]
    assert found["plain"].sentence() == "provider plain has no metered usage"
    assert "hidden was not collected: the secret" in found["hidden"].sentence()
    assert plain not in {HOME}


def test_a_provider_that_does_not_come_to_an_end_is_given_up(
    metered: Metered, today: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = metered.tenant("acme")
    assert acme.project_id is not None
    metered.home.used = {(acme.project_id, today): (1, 1, 1, 1, 1)}
    monkeypatch.setattr(collecting, "PROVIDER_SECONDS_MAX", -1.0)
    (found,) = collect(metered.catalog, metered.opened)
    assert found.problem is not None
    assert "was still telling its usage" in found.problem


def test_one_tenant_is_asked_for_alone(metered: Metered, stored: Stored, today: date) -> None:
    acme, other = metered.tenant("acme"), metered.tenant("other")
    assert acme.project_id is not None
    assert other.project_id is not None
    metered.home.used = {
        (acme.project_id, today): (1, 1, 1, 1, 1),
        (other.project_id, today): (2, 2, 2, 2, 2),
    }
    record = ProviderRecord(
        id=HOME, name="home", kind="cell", api_url=None, api_ca=None, secret_from="home",
        created_at=datetime.now(UTC), removed_at=None,
    )  # fmt: skip
    opened = metered.opened(record)
    assert collect_of_tenant(metered.catalog, record, opened, acme, today - 200 * DAY) == 1
    assert metered.home.asked == [(today - DAYS_MAX * DAY, today, [acme.project_id])]
    assert set(stored()) == {("acme", today)}
    metered.home.features = frozenset()
    with pytest.raises(NotSupported, match="does not have metered usage"):
        collect_of_tenant(metered.catalog, record, opened, acme, today)


def test_four_that_collect_at_once_write_the_same(metered: Metered, stored: Stored, today: date) -> None:
    for number in range(300):
        tenant = metered.tenant(f"t{number:03}")
        assert tenant.project_id is not None
        metered.home.used[tenant.project_id, today] = (number, number, 1, 1, 1)
    gate = threading.Barrier(4)

    def work(number: int) -> str | None:
        gate.wait(30)
        catalog = Catalog(metered.catalog.url)
        try:
            return collect(catalog, metered.opened)[0].problem
        finally:
            catalog.close()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [None] * 4
    assert len(stored()) == 300
    assert stored()["t299", today] == (299, 299, 1, 1, 1)


def test_what_is_older_than_is_kept_goes_the_oldest_first(
    metered: Metered, stored: Stored, today: date, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = metered.tenant("acme")
    assert acme.project_id is not None
    days = [today - age * DAY for age in (1, 400, 401, 500)]
    with metered.catalog.transaction() as connection:
        said = {(acme.project_id, day): Amounts(active_seconds=1) for day in days}
        assert rows.put_usage(connection, HOME, datetime.now(UTC), said) == 4
    usage = using.Usage(metered.catalog, cast("Any", metered))
    monkeypatch.setattr(using, "FORGOTTEN_MAX", 1)
    assert usage.forget(400) == 1
    assert {day for _, day in stored()} == set(days[:3])
    assert "1 days of tenants are older than 400 days, and forgotten" in usage.collect_pass(400)
    assert {day for _, day in stored()} == set(days[:2])
    assert usage.forget(400) == 0
