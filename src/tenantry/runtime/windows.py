"""Maintenance windows: when a tenant's database may be changed, as ``sat,sun 02:00-05:00 Europe/Berlin``. Pure.

Days are those on which the window opens; one that ends at or before the time of its begin ends on the next day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from tenantry.errors import InvalidInput

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM: Final = re.compile(
    r"(?:(?P<days>[a-z,-]+)\s+)?(?P<opens>\d{1,2}:\d{2})\s*-\s*(?P<closes>\d{1,2}:\d{2})(?:\s+(?P<zone>[\w/+-]+))?",
    re.IGNORECASE,
)
_NEXT_STEP: Final = "write it like `sat,sun 02:00-05:00 Europe/Berlin`; days and zone may be left out (every day, UTC)"


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time that comes again each week."""

    days: frozenset[int]
    """0 is Monday."""
    opens: time
    closes: time
    zone: ZoneInfo

    def next(self, now: datetime) -> tuple[datetime, datetime]:
        """When it opens and closes, in UTC: the one that is open at ``now``, or else the next one."""
        return next((opens, closes) for opens, closes in self._from(now) if closes > now)

    def _from(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        day = now.astimezone(self.zone).date() - timedelta(days=1)
        while True:
            if day.weekday() in self.days:
                yield self._on(day)
            day += timedelta(days=1)

    def _on(self, day: date) -> tuple[datetime, datetime]:
        opens = datetime.combine(day, self.opens, self.zone)
        last = day if self.closes > self.opens else day + timedelta(days=1)
        closes = datetime.combine(last, self.closes, self.zone)
        return opens.astimezone(UTC), closes.astimezone(UTC)


@lru_cache(maxsize=1_000)
def parse_window(text: str) -> Window:
    """Raises InvalidInput."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{text!r} is not a maintenance window", next_step=_NEXT_STEP)
    try:
        zone = ZoneInfo(found["zone"] or "UTC")
        window = Window(_days(found["days"]), time.fromisoformat(_two(found["opens"])), _time(found["closes"]), zone)
    except (ValueError, KeyError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise InvalidInput(f"{text!r} is not a maintenance window: {error}", next_step=_NEXT_STEP) from error
    return window


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.partition("-")
        begin, end = _DAYS.index(first[:3]), _DAYS.index((last or first)[:3])
        days.update((begin + offset) % 7 for offset in range((end - begin) % 7 + 1))
    return frozenset(days)


def _time(text: str) -> time:
    # The end of a day is the begin of the next.
    return time() if _two(text) == "24:00" else time.fromisoformat(_two(text))


def _two(text: str) -> str:
    return text.rjust(5, "0")
