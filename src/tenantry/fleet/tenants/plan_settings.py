"""What plans say, as operators type it: ``cu_max=2 history_seconds=7d quota_logical_bytes=10GiB``. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Final

from cronsim import CronSim, CronSimError

from tenantry.errors import InvalidInput
from tenantry.runtime.spans import parse_span

NOTHING: Final = "none"
"""Says that a plan does not say it."""
_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(B|KiB|MiB|GiB|TiB)?", re.IGNORECASE)
_UNITS: Final = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_BIGGEST: Final = 2**62
_KEPT: Final = re.compile(r"[1-9][0-9]{0,4}[dh]|(last|hourly|daily|weekly|monthly|yearly)=[1-9][0-9]{0,3}")
_A_DAY: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""Any will do, to see whether a schedule is one."""


def parse_settings(words: Iterable[str]) -> dict[str, object]:
    """Raises InvalidInput naming the word that is wrong, and what could be meant."""
    said: dict[str, object] = {}
    for word in words:
        key, equals, text = word.partition("=")
        key = key.strip()
        if not equals:
            raise InvalidInput(f"{word!r} is not KEY=VALUE", next_step="for instance cu_max=2")
        if key not in _READERS:
            near = get_close_matches(key, _READERS, n=1)
            raise InvalidInput(
                f"a plan has no {key!r}",
                next_step=f"did you mean {near[0]}?" if near else f"it has {', '.join(_READERS)}",
            )
        if key in said:
            raise InvalidInput(f"{key} is said twice")
        said[key] = _READERS[key](key, text.strip())
    return said


def written(key: str, value: object) -> str:
    """A value as it could be typed again."""
    if value is None:
        return NOTHING
    if key.endswith("_bytes"):
        return _size_text(int(str(value)))
    if key == "suspend_seconds" and value in (0, -1):
        return "default" if value == 0 else "never"
    if key.endswith("_seconds"):
        return _span_text(int(str(value)))
    if key == "backup_keep_days":
        return f"{value}d"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def check_limits(plan: Mapping[str, object]) -> None:
    """What no single setting can be blamed for. Raises InvalidInput."""
    cu_min, cu_max = plan.get("cu_min"), plan.get("cu_max")
    if isinstance(cu_min, Decimal) and isinstance(cu_max, Decimal) and cu_min > cu_max:
        raise InvalidInput(f"cu_min {cu_min} is more than cu_max {cu_max}", next_step="say both")
    if (cu_min is None) != (cu_max is None):
        raise InvalidInput("cu_min and cu_max belong together", next_step="say both, or neither")


def _name(key: str, text: str) -> object:
    if not 1 <= len(text) <= 100:
        raise InvalidInput(f"{key}: between 1 and 100 characters")
    return text


def _count(key: str, text: str) -> object:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise InvalidInput(f"{key}: {text!r} is not a whole number of at least 1")
    return int(text)


def _amount(key: str, text: str) -> object:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0 or amount >= 10**8 or amount != round(amount, 2):
        raise InvalidInput(f"{key}: {text!r} is not an amount of money, for instance 69 or 19.90")
    return amount


def _compute(key: str, text: str) -> object:
    try:
        size = Decimal(text)
    except InvalidOperation:
        size = Decimal(0)
    if not size.is_finite() or not Decimal("0.25") <= size <= 1024 or size != round(size, 2):
        raise InvalidInput(f"{key}: {text!r} is not a number of compute units, for instance 0.25 or 2")
    return size


def _seconds(key: str, text: str) -> object:
    if text.isascii() and text.isdigit():
        span = timedelta(seconds=min(int(text), 10**9))
    else:
        span = parse_span(text)
    if span < timedelta(seconds=1):
        raise InvalidInput(f"{key}: {text!r} is less than a second")
    return int(span.total_seconds())


def _suspend(key: str, text: str) -> object:
    return {"never": -1, "default": 0}[text] if text in ("never", "default") else _seconds(key, text)


def _bytes(key: str, text: str) -> object:
    found = _SIZE.fullmatch(text)
    size = 0 if found is None else int(Decimal(found[1]) * _UNITS[(found[2] or "B").lower()])
    if not 0 < size <= _BIGGEST:
        raise InvalidInput(f"{key}: {text!r} is not a size, for instance 500MiB or 10GiB")
    return size


def _days(key: str, text: str) -> object:
    days = text.removesuffix("d")
    return _count(key, days)


def _cron(key: str, text: str) -> object:
    try:
        CronSim(text, _A_DAY)
    except CronSimError as error:
        raise InvalidInput(
            f"{key}: {text!r} is not a schedule ({error})",
            next_step="five fields, in UTC: '0 3 * * *' is three o'clock",
        ) from error
    return text


def _keep(key: str, text: str) -> object:
    if not text or not all(_KEPT.fullmatch(word) for word in text.split()):
        raise InvalidInput(f"{key}: {text!r} does not say what stays", next_step="14d, or daily=7 weekly=4 monthly=12")
    return " ".join(text.split())


def _or_nothing(reader: Callable[[str, str], object]) -> Callable[[str, str], object]:
    return lambda key, text: None if text == NOTHING else reader(key, text)


_READERS: Final[dict[str, Callable[[str, str], object]]] = {
    "name": _name,
    "price_usd_monthly": _amount,
    "projects_max": _count,
    "branches_max": _or_nothing(_count),
    "cu_min": _or_nothing(_compute),
    "cu_max": _or_nothing(_compute),
    "suspend_seconds": _or_nothing(_suspend),
    "history_seconds": _or_nothing(_seconds),
    "quota_active_seconds": _or_nothing(_seconds),
    "quota_compute_seconds": _or_nothing(_seconds),
    "quota_written_bytes": _or_nothing(_bytes),
    "quota_sent_bytes": _or_nothing(_bytes),
    "quota_logical_bytes": _or_nothing(_bytes),
    "backup_cron": _or_nothing(_cron),
    "backup_keep_days": _or_nothing(_days),
    "backup_keep": _or_nothing(_keep),
}
KEYS: Final = tuple(_READERS)


def _size_text(size: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size % _UNITS[unit.lower()] == 0:
            return f"{size // _UNITS[unit.lower()]}{unit}"
    return str(size)


def _span_text(seconds: int) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
