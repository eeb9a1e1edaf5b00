"""Which backups stay: all of some days, or so many of each kind, grandfather, father and son. Pure.

``14d`` keeps every backup that is younger. ``daily=7 weekly=4 monthly=12 yearly=3`` keeps the newest of each of the
last seven days that have one, of the last four weeks, and so on; ``last=3`` the newest three. Whatever is said, the
newest good one stays, the newest that no proof has found bad, and the newest that is verified.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tenantry.errors import InvalidInput, TenantryError
from tenantry.fleet.catalog.backups import BackupRecord
from tenantry.runtime.spans import parse_span

COUNT_MAX: Final = 10_000
_WORD: Final = re.compile(r"([a-z]+)=([0-9]{1,5})")
_PERIODS: Final[dict[str, Callable[[datetime], object]]] = {
    "last": lambda at: at,
    "hourly": lambda at: (at.date(), at.hour),
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: at.year,
}
"""What two backups have in common of which one is enough, in UTC."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Of each kind so many; and all that are younger than ``span``."""

    span: timedelta | None
    counts: dict[str, int]


def parse_keep(text: str) -> Keep:
    """Raises InvalidInput naming the word that is wrong."""
    span: timedelta | None = None
    counts: dict[str, int] = {}
    for word in text.replace(",", " ").split():
        if found := _WORD.fullmatch(word):
            name, count = found[1], int(found[2])
            if name not in _PERIODS:
                raise InvalidInput(f"{word}: there is no {name}", next_step=f"there are {', '.join(_PERIODS)}")
            if name in counts or not 0 < count <= COUNT_MAX:
                raise InvalidInput(f"{word}: once each, and between 1 and {COUNT_MAX}")
            counts[name] = count
            continue
        try:
            read = parse_span(word)
        except TenantryError as error:
            raise InvalidInput(
                f"{word!r} is neither a span nor a kind with a count", next_step="14d, or daily=7 weekly=4 monthly=12"
            ) from error
        if span is not None:
            raise InvalidInput(f"{text!r} says two spans")
        span = read
    if span is None and not counts:
        raise InvalidInput("nothing is said of which backups stay", next_step="14d, or daily=7 weekly=4 monthly=12")
    return Keep(span, counts)


def to_delete(good: Iterable[BackupRecord], keep: Keep, now: datetime) -> list[BackupRecord]:
    """Of one tenant's good backups those that may go, the oldest first."""
    newest_first = sorted(good, key=lambda each: each.started_at, reverse=True)
    stays = {each.id for each in newest_first[:1]}
    stays |= {each.id for each in [each for each in newest_first if each.verified_at is not None][:1]}
    stays |= {each.id for each in [each for each in newest_first if each.doubted_at is None][:1]}
    if keep.span is not None:
        stays |= {each.id for each in newest_first if each.started_at > now - keep.span}
    for name, count in keep.counts.items():
        stays |= {each.id for each in _newest_of_each(newest_first, _PERIODS[name], count)}
    return [each for each in reversed(newest_first) if each.id not in stays]


def _newest_of_each(
    newest_first: Sequence[BackupRecord], period: Callable[[datetime], object], count: int
) -> list[BackupRecord]:
    seen: dict[object, BackupRecord] = {}
    for each in newest_first:
        key = period(each.started_at.astimezone(UTC))
        if key not in seen:
            if len(seen) == count:
                break
            seen[key] = each
    return list(seen.values())
