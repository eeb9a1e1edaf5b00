"""When a pass is due, decided from the catalog's clock and what ran before. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cronsim import CronSim

from tenantry.fleet.catalog.jobs import LastRun

LATE_SECONDS_MAX: Final = 90.0
"""A pass that nobody began within this of its time is missed, and not made up for."""


def previous_time(cron: str, now: datetime) -> datetime:
    """The last moment of the schedule that is not after ``now``."""
    return next(CronSim(cron, now.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1), reverse=True))


def next_time(cron: str, now: datetime) -> datetime:
    """The first moment of the schedule after ``now``."""
    return next(CronSim(cron, now.astimezone(UTC)))


def is_due(cron: str, now: datetime, last: LastRun | None) -> bool:
    """Whether to begin a run: its time has just come, nobody has begun it, and none before it is still at it."""
    due_at = previous_time(cron, now)
    if now - due_at > timedelta(seconds=LATE_SECONDS_MAX):
        return False
    return last is None or (not last.unfinished and last.created_at < due_at)
