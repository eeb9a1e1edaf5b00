"""Maintenance windows: when they open and close, in the zone that they are meant in."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.runtime.windows import parse_window


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "now", "opens", "closes"),
    [
        # 2026-11-28 is a Saturday.
        ("sat,sun 02:00-05:00", "2026-11-27T12:00", "2026-11-28T02:00", "2026-11-28T05:00"),
        ("sat,sun 02:00-05:00", "2026-11-28T02:00", "2026-11-28T02:00", "2026-11-28T05:00"),
        ("sat,sun 02:00-05:00", "2026-11-28T05:00", "2026-11-29T02:00", "2026-11-29T05:00"),
        ("sat 02:00-05:00 Europe/Berlin", "2026-11-28T00:30", "2026-11-28T01:00", "2026-11-28T04:00"),
        ("fri-mon 23:00-01:00", "2026-11-28T00:30", "2026-11-27T23:00", "2026-11-28T01:00"),
        ("fri-mon 23:00-01:00", "2026-12-01T02:00", "2026-12-04T23:00", "2026-12-05T01:00"),
        ("2:00-24:00", "2026-11-28T01:00", "2026-11-28T02:00", "2026-11-29T00:00"),
        # On the night of the change to summer time the window is an hour shorter.
        ("01:30-03:30 Europe/Berlin", "2026-03-28T12:00", "2026-03-29T00:30", "2026-03-29T01:30"),
    ],
)
def test_the_window_that_is_open_or_the_next_one(window: str, now: str, opens: str, closes: str) -> None:
    assert parse_window(window).next(at(now)) == (at(opens), at(closes))


@pytest.mark.parametrize(
    "text", ["", "always", "sat", "02:00", "noday 02:00-05:00", "sat 25:00-26:00", "sat 02:00-05:00 Nowhere/City"]
)
def test_what_is_no_window_is_said_with_an_example(text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_window(text)
    assert "sat,sun 02:00-05:00" in raised.value.next_step


@given(now=st.datetimes(timezones=st.just(UTC)).filter(lambda now: 1990 < now.year < 2090))
def test_it_closes_in_the_future_and_within_a_week(now: datetime) -> None:
    opens, closes = parse_window("wed 22:00-04:00 America/New_York").next(now)
    assert opens < closes
    assert now < closes
    assert (closes - now).days <= 7
