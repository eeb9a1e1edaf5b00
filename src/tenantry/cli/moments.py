"""Times as operators type them: ``10:41``, ``5m ago``, ISO 8601, a position in the log; and spans: ``7d``, ``1h30m``.

What has no zone is local time, and is shown with its zone before anything is done with it. Pure but for the machine's
own zone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.runtime.spans import parse_span

_AGO: Final = re.compile(r"(.+?) ?\bago", re.IGNORECASE)
_LSN: Final = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")
_CLOCK: Final = re.compile(r"[0-9]{1,2}:[0-9]{2}.*")
_EXAMPLES: Final = "for instance 10:41, '5m ago', 2026-11-24T10:41:07.250 or an LSN like 0/1A2B3C8"


@dataclass(frozen=True, slots=True)
class Point:
    """A time, or else a position in the log."""

    at: datetime | None = None
    lsn: str | None = None
    local: bool = False
    """Whether the time was typed without a zone, and taken as this machine's."""


def parse_point(text: str, now: datetime, *, zone: tzinfo | None = None) -> Point:
    """``TIME|LSN``. ``zone`` stands for the machine's own when None. Raises InvalidInput saying what would be one."""
    typed = text.strip()
    if _LSN.fullmatch(typed):
        return Point(lsn=typed.upper())
    if (found := _AGO.fullmatch(typed)) is not None:
        return Point(at=now.astimezone(UTC) - parse_span(found[1]))
    moment = _clock(typed, now, zone) if _CLOCK.fullmatch(typed) else _iso(typed)
    if moment.tzinfo is not None:
        return Point(at=_in_utc(moment))
    return Point(at=_localized(moment, zone), local=True)


def parse_time(text: str, now: datetime, *, zone: tzinfo | None = None) -> Point:
    """The same where a position cannot be meant."""
    point = parse_point(text, now, zone=zone)
    if point.at is None:
        raise InvalidInput(f"{text!r} is a position, not a time", next_step="give it with --lsn")
    return point


def in_words(point: Point, now: datetime, *, zone: tzinfo | None = None) -> str:
    """The point with its zone and its distance from now, exact enough to be typed again."""
    if point.at is None:
        return f"position {point.lsn}"
    here = point.at.astimezone(zone)
    exact = here.isoformat(sep=" ", timespec="microseconds" if here.microsecond else "seconds")
    note = f" ({here.tzname()}, this machine's zone)" if point.local else ""
    return f"{exact}{note}, {_distance(now - point.at)}"


def _distance(since: timedelta) -> str:
    seconds = abs(since.total_seconds())
    if seconds < 10:
        shown = f"{seconds:.1f} s"
    elif seconds < 120:
        shown = f"{seconds:.0f} s"
    elif seconds < 7200:
        shown = f"{seconds / 60:.0f} min"
    elif seconds < 172_800:
        shown = f"{seconds / 3600:.1f} h"
    else:
        shown = f"{seconds / 86_400:.1f} days"
    return f"{shown} ago" if since >= timedelta() else f"in {shown}"


def _clock(typed: str, now: datetime, zone: tzinfo | None) -> datetime:
    """A time of today, in its own zone or in the machine's. Raises InvalidInput for one that is still to come."""
    hours, colon, rest = typed.partition(":")
    try:
        clock = time.fromisoformat(f"{hours:0>2}{colon}{rest}")
    except ValueError as error:
        raise InvalidInput(f"{typed!r} is not a time of day", next_step=_EXAMPLES) from error
    today = now.astimezone(clock.tzinfo or zone).date()
    moment = datetime.combine(today, clock)
    known = moment if moment.tzinfo is not None else _localized(moment, zone)
    if known > now:
        raise InvalidInput(f"{typed} is still to come today", next_step=f"say which day: {today}T{clock}, for instance")
    return moment


def _iso(typed: str) -> datetime:
    try:
        return datetime.fromisoformat(typed)
    except ValueError as error:
        raise InvalidInput(f"{typed!r} is neither a time nor a position", next_step=_EXAMPLES) from error


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f"{moment.isoformat()} is no time that this machine knows") from error


def _localized(moment: datetime, zone: tzinfo | None) -> datetime:
    """Raises InvalidInput for a time that the clocks of the zone skip, or show twice."""
    try:
        first, second = (
            moment.replace(fold=fold).astimezone() if zone is None else moment.replace(fold=fold, tzinfo=zone)
            for fold in (0, 1)
        )
        if first.utcoffset() == second.utcoffset():
            return first.astimezone(UTC)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f"{moment.isoformat()} is no time that this machine knows") from error
    raise InvalidInput(
        f"the clocks change at {moment.isoformat(sep=' ')}: it happens twice that day, or not at all",
        next_step=f"say the zone: {moment.isoformat()}Z, for instance",
    )
