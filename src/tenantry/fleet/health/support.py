"""Until when the community mends each major version of Postgres. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Final

LAST_DAY: Final[Mapping[int, date]] = {
    14: date(2026, 11, 12),
    15: date(2027, 11, 11),
    16: date(2028, 11, 9),
    17: date(2029, 11, 8),
    18: date(2030, 11, 14),
}
"""https://www.postgresql.org/support/versioning/: the day of the last minor release."""
SOON_DAYS: Final = 180


def support(major: int, today: date) -> str | None:
    """A sentence where its support has ended or soon does; None where all is well, or nothing is known."""
    last = LAST_DAY.get(major)
    if last is None or (last - today).days > SOON_DAYS:
        return None
    if today > last:
        return f"Postgres {major} gets no more fixes since {last}"
    return f"Postgres {major} gets no more fixes after {last}"
