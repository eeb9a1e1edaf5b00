"""Spans of time as people write them: ``7d``, ``12h``, ``1h30m``. Pure."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from tenantry.errors import InvalidInput

SPAN_MAX: Final = timedelta(days=3660)
"""Ten years: more is a slip of the finger, and near the end of what dates can say."""

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_PART: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d|w) ?")


def parse_span(text: str) -> timedelta:
    """``7d``, ``12h``, ``1h30m``, ``1.5h``, ``250ms``: at least a millisecond. Raises InvalidInput."""
    span, place, typed = timedelta(), 0, text.strip().lower()
    while place < len(typed) and (part := _PART.match(typed, place)) is not None:
        try:
            span += float(part[1]) * _UNITS[part[2]]
        except OverflowError:
            span = timedelta.max
            break
        place = part.end()
    if span > SPAN_MAX:
        raise InvalidInput(f"{text!r} is more than ten years")
    if place < len(typed) or span < _UNITS["ms"]:
        raise InvalidInput(f"{text!r} is not a span of time", next_step="for instance 30m, 12h, 7d or 1h30m")
    return span
