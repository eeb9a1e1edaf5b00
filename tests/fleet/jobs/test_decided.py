"""What is decided without a catalog: when a pass is due, what is worth another attempt, which host is direct."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import conninfo

from tenantry.errors import (
    Conflict,
    HistoryGap,
    InvalidInput,
    LimitReached,
    Locked,
    QuotaExceeded,
    TenantryError,
    Unavailable,
)
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.jobs import LastRun, job_state
from tenantry.fleet.jobs.batch import AGAIN_SECONDS_MAX, again_after, worth_another
from tenantry.fleet.jobs.jobs import Jobs, actor
from tenantry.fleet.jobs.kinds import Pass, kinds, passes
from tenantry.fleet.jobs.queue import direct
from tenantry.fleet.jobs.schedule import is_due, next_time, previous_time
from tenantry.fleet.main import Fleet
from tenantry.fleet.providers.neon_account import NeonAccount

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def at(**later: float) -> datetime:
    return NOON + timedelta(**later)


def ran(at: datetime, *, unfinished: bool = False) -> LastRun:
    return LastRun(created_at=at, unfinished=unfinished)


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        (at(), None, True),
        (at(seconds=30), None, True),
        (at(minutes=2), None, False),  # missed, and not made up for
        (at(seconds=30), ran(at(minutes=-5)), True),
        (at(seconds=30), ran(at(seconds=1)), False),  # somebody has begun it
        (at(seconds=30), ran(at()), False),
        (at(seconds=30), ran(at(minutes=-5), unfinished=True), False),  # the last one is still at it
        (at(minutes=5), ran(at(seconds=1)), True),
    ],
)
def test_when_a_pass_of_every_five_minutes_is_due(now: datetime, last: LastRun | None, due: bool) -> None:
    assert is_due("*/5 * * * *", now, last) is due


def test_schedules_are_of_utc_whatever_zone_the_catalog_answers_in() -> None:
    here = at().astimezone().replace(microsecond=5)
    assert previous_time("0 12 * * *", here) == NOON
    assert next_time("0 12 * * *", here) == NOON + timedelta(days=1)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unavailable("x"), True),
        (Locked("x"), True),
        (LimitReached("x"), True),
        (QuotaExceeded("x"), False),
        (HistoryGap("x"), False),
        (Conflict("x"), False),
        (InvalidInput("x"), False),
    ],
)
def test_what_is_worth_another_attempt(error: TenantryError, again: bool) -> None:
    assert worth_another(error) is again


def test_attempts_are_further_and_further_apart_within_a_bound() -> None:
    assert [again_after(number, 1.0) for number in (1, 2, 3)] == [1.0, 2.0, 4.0]
    assert again_after(1_000, 1.0) == AGAIN_SECONDS_MAX


@pytest.mark.parametrize(
    ("given", "host", "options"),
    [
        ("postgresql://u:p@ep-a-b-1-pooler.eu.aws.neon.tech/d", "ep-a-b-1.eu.aws.neon.tech", None),
        ("postgresql://u:p@ep-a-b-1.eu.aws.neon.tech/d", "ep-a-b-1.eu.aws.neon.tech", None),
        ("postgresql://u:p@localhost:1/d?options=endpoint%3Dep-a-b-1-pooler", "localhost", "endpoint=ep-a-b-1"),
        (
            "postgresql://u:p@h/d?options=endpoint%3Dep-a-b-1-pooler%20-c%20search_path%3Dx-pooler",
            "h",
            "endpoint=ep-a-b-1 -c search_path=x-pooler",
        ),
        ("host=db.ep-pooler.example dbname=d", "db.ep-pooler.example", None),
    ],
)
def test_the_queue_goes_around_a_pooler(given: str, host: str, options: str | None) -> None:
    fields = conninfo.conninfo_to_dict(direct(given))
    assert (fields["host"], fields.get("options")) == (host, options)
    assert fields.get("password") == conninfo.conninfo_to_dict(given).get("password")


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"begun": False, "cancelled": False, "finished": False, "waiting": 2, "failed": 0}, "waiting"),
        ({"begun": True, "cancelled": False, "finished": False, "waiting": 2, "failed": 1}, "running"),
        ({"begun": True, "cancelled": True, "finished": False, "waiting": 2, "failed": 0}, "cancelling"),
        ({"begun": True, "cancelled": True, "finished": True, "waiting": 2, "failed": 1}, "cancelled"),
        ({"begun": True, "cancelled": True, "finished": True, "waiting": 0, "failed": 0}, "done"),
        ({"begun": True, "cancelled": False, "finished": True, "waiting": 0, "failed": 1}, "failed"),
    ],
)
def test_a_jobs_state(facts: dict[str, bool | int], state: str) -> None:
    assert job_state(**facts) == state  # pyright: ignore[reportArgumentType]


def test_every_kind_and_pass_has_a_name_of_its_own_and_a_schedule_that_can_be(catalog: Catalog) -> None:
    fleet = Fleet(catalog, NeonAccount.at("http://127.0.0.1:1/api/v2", "nobody calls it"))
    known = [*(kind.name for kind in kinds(fleet)), *(each.name for each in passes(fleet))]
    assert len(known) == len(set(known))
    for each in passes(fleet):
        assert len(each.cron.split()) == 5
        assert previous_time(each.cron, NOON) <= NOON < next_time(each.cron, NOON)


def test_a_pass_keeps_a_bounded_record() -> None:
    from tenantry.fleet.jobs.kinds import SAID_MAX, Item  # noqa: PLC0415

    kind = Pass("tidy", "* * * * *", lambda: ["x"] * (SAID_MAX + 1)).as_kind()
    assert kind.work(Item(subject="tidy")) == {"said": ["x"] * SAID_MAX}


def test_who_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENANTRY_ACTOR", raising=False)
    assert "@" in actor()
    monkeypatch.setenv("TENANTRY_ACTOR", "deploy-bot")
    assert actor() == "deploy-bot"


@pytest.mark.parametrize("name", ["", "abc", "ACME", "%", "g000", "0" * 40])
def test_what_is_no_jobs_id_is_not_looked_for(catalog: Catalog, name: str) -> None:
    jobs = Jobs(catalog, None)  # pyright: ignore[reportArgumentType] - it has no part in this
    find: Callable[[str], object] = jobs.find
    with pytest.raises(InvalidInput, match="not a job's id"):
        find(name)
