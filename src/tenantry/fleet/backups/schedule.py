"""When a tenant is to be backed up: decided from its schedule, what it has, and what was tried. Pure.

Nothing is made up for twice: a tenant whose time has come is due until it has a backup, and a night in which no worker
ran is one backup late, not several. What came to nothing is tried again after a while: a vault may have been away.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog.backups import Standing

NEVER: Final = "never"
AGAIN_AFTER: Final = timedelta(hours=1)
"""Behind the beginning of a backup that has not succeeded."""


def checked_cron(text: str) -> str:
    """Five fields in UTC, or ``never``. Raises InvalidInput."""
    if text == NEVER:
        return text
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise InvalidInput(
            f"{text!r} is no schedule", next_step="five fields in UTC, such as `0 3 * * *`, or `never`"
        ) from error
    return text


def is_due(standing: Standing, now: datetime) -> bool:
    """Whether the last time of its schedule came after all that is good, and nothing was tried just now."""
    if standing.cron in (None, NEVER):
        return False
    assert standing.cron is not None
    due_at = _previous(standing.cron, now)
    good = standing.good
    seen = [good and good.started_at, good and good.unchanged_at]
    latest = max((each for each in seen if each is not None), default=None)
    if latest is not None and latest >= due_at:
        return False
    return standing.tried_at is None or standing.tried_at < due_at or now - standing.tried_at >= AGAIN_AFTER


def next_time(cron: str | None, now: datetime) -> datetime | None:
    """None: never by itself."""
    return None if cron in (None, NEVER) else next(CronSim(str(cron), now.astimezone(UTC)))


def _previous(cron: str, now: datetime) -> datetime:
    return next(CronSim(cron, now.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1), reverse=True))
