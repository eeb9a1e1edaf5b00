"""Times as they are typed: local where no zone is said, exact to the microsecond, and never guessed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.cli.moments import Point, in_words, parse_point, parse_time
from tenantry.errors import InvalidInput
from tenantry.runtime.spans import SPAN_MAX, parse_span

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 24, 10, 42, 7, tzinfo=UTC)  # 11:42:07 in Berlin

moments = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1))  # noqa: DTZ001
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@settings(deadline=None, max_examples=60)
@given(moments, offsets)
def test_a_time_with_its_zone_is_that_time_to_the_microsecond(moment: datetime, offset: timezone) -> None:
    meant = moment.replace(tzinfo=offset)
    for typed in (meant.isoformat(), meant.isoformat(sep=" "), f" {meant.isoformat()} "):
        assert parse_point(typed, NOW, zone=BERLIN) == Point(at=meant)


@settings(deadline=None, max_examples=60)
@given(moments)
def test_a_time_without_a_zone_is_local_or_refused(moment: datetime) -> None:
    try:
        point = parse_point(moment.isoformat(), NOW, zone=BERLIN)
    except InvalidInput as refusal:
        assert "clocks change" in refusal.message
        return
    assert point.local
    assert point.at is not None
    assert point.at.astimezone(BERLIN).replace(tzinfo=None) == moment


@settings(deadline=None, max_examples=60)
@given(moments.map(lambda moment: moment.replace(tzinfo=UTC)))
def test_what_is_shown_can_be_typed_again(moment: datetime) -> None:
    shown = in_words(Point(at=moment), NOW, zone=BERLIN)
    assert parse_point(shown.partition(", ")[0], NOW, zone=BERLIN) == Point(at=moment)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 86_399_999_999))
def test_a_time_of_day_is_today_or_still_to_come(microseconds: int) -> None:
    clock = (datetime(2026, 11, 24, tzinfo=BERLIN) + timedelta(microseconds=microseconds)).timetz()
    today = datetime(2026, 11, 24, tzinfo=BERLIN).replace(
        hour=clock.hour, minute=clock.minute, second=clock.second, microsecond=clock.microsecond
    )
    typed = clock.replace(tzinfo=None).isoformat()
    if today > NOW:
        with pytest.raises(InvalidInput, match="still to come"):
            parse_point(typed, NOW, zone=BERLIN)
    else:
        assert parse_point(typed, NOW, zone=BERLIN) == Point(at=today, local=True)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, int(SPAN_MAX / timedelta(milliseconds=1))))
def test_spans_add_up(milliseconds: int) -> None:
    span = timedelta(milliseconds=milliseconds)
    seconds, rest = divmod(milliseconds, 1000)
    typed = "".join(
        f"{number}{unit}"
        for number, unit in (
            (seconds // 86_400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s"),
            (rest, "ms"),
        )
        if number
    )  # fmt: skip
    assert parse_span(typed) == parse_span(typed.upper()) == span
    assert parse_point(f"{typed} ago", NOW) == Point(at=NOW - span)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30))
def test_anything_else_is_refused_and_never_a_failure(text: str) -> None:
    for parse in (lambda: parse_point(text, NOW), lambda: parse_time(text, NOW), lambda: parse_span(text)):
        try:
            parse()
        except InvalidInput as refusal:
            assert refusal.message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("10:41", "2026-11-24T10:41:00+01:00"),
        ("9:05", "2026-11-24T09:05:00+01:00"),
        ("10:41:07.250001", "2026-11-24T10:41:07.250001+01:00"),
        ("10:41Z", "2026-11-24T10:41:00+00:00"),
        ("2026-11-24T10:41:07Z", "2026-11-24T10:41:07+00:00"),
        ("2026-11-24 10:41", "2026-11-24T10:41:00+01:00"),
        ("2026-11-24", "2026-11-24T00:00:00+01:00"),
        ("5m ago", "2026-11-24T10:37:07+00:00"),
        ("1.5 h ago", "2026-11-24T09:12:07+00:00"),
        ("1h 30m Ago", "2026-11-24T09:12:07+00:00"),
    ],
)
def test_what_operators_type(typed: str, meant: str) -> None:
    assert parse_point(typed, NOW, zone=BERLIN).at == datetime.fromisoformat(meant)


def test_today_is_the_day_of_the_zone_that_is_said() -> None:
    late = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)  # the 25th in Berlin
    assert parse_point("00:15", late, zone=BERLIN).at == datetime(2026, 11, 24, 23, 15, tzinfo=UTC)
    assert parse_point("00:15Z", late, zone=BERLIN).at == datetime(2026, 11, 24, 0, 15, tzinfo=UTC)


@pytest.mark.parametrize("typed", ["2026-03-29T02:30", "2026-10-25T02:30"])
def test_a_time_that_the_clocks_skip_or_show_twice_needs_its_zone(typed: str) -> None:
    with pytest.raises(InvalidInput, match="clocks change") as refused:
        parse_point(typed, NOW, zone=BERLIN)
    assert f"{typed}:00Z" in refused.value.next_step


def test_a_position_is_a_position() -> None:
    assert parse_point("0/1a2b3c8", NOW) == Point(lsn="0/1A2B3C8")
    with pytest.raises(InvalidInput, match="a position, not a time"):
        parse_time("0/1A2B3C8", NOW)


@pytest.mark.parametrize(
    "typed", ["", "soon", "25:00", "m ago", "-5m ago", "0s", "5", "5x", "1000000000000w", "5m ago ago"]
)
def test_what_is_no_time_says_what_would_be_one(typed: str) -> None:
    with pytest.raises(InvalidInput):
        parse_point(typed, NOW)
    with pytest.raises(InvalidInput):
        parse_span(typed)
