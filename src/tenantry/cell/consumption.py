"""What projects consume, in time: hours, days and months of UTC, and the storage between two looks at it. Pure.

Amounts (seconds awake, bytes written and sent) are added to the hour, the day and the month that they fall in, so no
grain is ever made from another. Storage is a step function: what was measured holds until the next measurement.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from tenantry.errors import TenantryError
from tenantry.neon.ids import BranchId, EndpointId, HeadId, ProjectId

Grain = Literal["hourly", "daily", "monthly"]
GRAINS: Final[tuple[Grain, ...]] = ("hourly", "daily", "monthly")

REACH: Final[dict[Grain, timedelta]] = {
    "hourly": timedelta(hours=168),
    "daily": timedelta(days=60),
    "monthly": timedelta(days=366),
}
"""How far back the contract lets anybody ask, by grain."""
KEPT: Final[dict[Grain, timedelta]] = {
    "hourly": timedelta(hours=168 + 24),
    "daily": timedelta(days=60 + 2),
    "monthly": timedelta(days=366 + 62),
}
"""How long amounts are kept: as long as they can be asked for, and a little longer."""
FRAMES_MAX: Final = 169
"""Frames of one answer: a week of hours, and the one that runs."""


class RangeOutside(TenantryError):
    """The contract's 406: a range of time that this grain does not reach."""

    blame = "client"
    http_status = 406
    code = "RANGE_OUTSIDE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What was consumed in some time. Seconds are not rounded: sums of rounded ones would drift."""

    active_seconds: float = 0.0
    compute_seconds: float = 0.0
    written_bytes: int = 0
    sent_bytes: int = 0

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(
            active_seconds=self.active_seconds + other.active_seconds,
            compute_seconds=self.compute_seconds + other.compute_seconds,
            written_bytes=self.written_bytes + other.written_bytes,
            sent_bytes=self.sent_bytes + other.sent_bytes,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """What a branch occupied from ``at`` on: its databases, and the history that is kept of it."""

    at: datetime
    logical_bytes: int
    history_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one look at an awake (or just ended) instance found. All of it counts from a beginning, never since a look.

    So taking it twice, late, or never is harmless: whoever writes it down adds what the last one lacked.
    """

    endpoint_id: EndpointId
    branch_id: BranchId
    project_id: ProjectId
    head_id: HeadId
    at: datetime
    pid: int
    start_ticks: int
    """With ``pid`` one process for certain."""
    seconds: float
    """Since that process took connections."""
    cu: float
    """Its size."""
    log_begin: int | None = None
    """Where the head's log ended when the process started; only a head that was never read counts from there."""
    log_end: int | None = None
    logical_bytes: int | None = None
    history_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One hour, day or month of a branch or a project."""

    start: datetime
    end: datetime
    amounts: Amounts
    logical_bytes: int
    """At the end of the frame, or now."""
    history_bytes: int
    logical_byte_hours: float
    history_byte_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedBranch:
    branch_id: BranchId
    root: bool
    """It has no parent."""
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumedProject:
    project_id: ProjectId
    created_at: datetime
    branches: tuple[ConsumedBranch, ...]
    """Those that are gone, too: what they have consumed was consumed. All have the same frames."""


def start_of(grain: Grain, moment: datetime) -> datetime:
    """The beginning of the hour, day or month that holds ``moment``."""
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if grain == "hourly":
        return hour
    day = hour.replace(hour=0)
    return day if grain == "daily" else day.replace(day=1)


def end_of(grain: Grain, start: datetime) -> datetime:
    """The beginning of the next one."""
    match grain:
        case "hourly":
            return start + timedelta(hours=1)
        case "daily":
            return start + timedelta(days=1)
        case "monthly":
            return (start + timedelta(days=32)).replace(day=1)


def period_of(moment: datetime) -> tuple[datetime, datetime]:
    """The consumption period that holds ``moment``: the calendar month, and the beginning of the next."""
    start = start_of("monthly", moment)
    return start, end_of("monthly", start)


def spread(until: datetime, seconds: float) -> Iterator[tuple[datetime, float]]:
    """Cuts the ``seconds`` before ``until`` at full hours: the beginning of each hour and its part, latest first."""
    while seconds > 0:
        hour = start_of("hourly", until)
        if hour == until:
            hour -= timedelta(hours=1)
        part = min(seconds, (until - hour).total_seconds())
        yield hour, part
        seconds -= part
        until = hour


def frames_of(grain: Grain, begin: datetime, end: datetime, now: datetime) -> list[tuple[datetime, datetime]]:
    """The hours, days or months from the one that holds ``begin`` to the last that begins before ``end`` and now.

    So ``2024-03-01T00:00Z`` to ``2024-04-01T00:00Z`` is March, and a range that ends now has what runs.
    Raises RangeOutside for what lies further back than the grain reaches, and for a range that ends before it begins.
    """
    if end < begin:
        raise RangeOutside("to lies before from", next_step="swap them")
    first = start_of(grain, begin)
    reach = start_of(grain, now - REACH[grain])
    if first < reach:
        raise RangeOutside(
            f"{grain} consumption can be asked for from {reach:%Y-%m-%dT%H:%M:%SZ} on",
            next_step="choose a later from, or a coarser granularity",
        )
    frames: list[tuple[datetime, datetime]] = []
    start = first
    while start < min(end, now):
        following = end_of(grain, start)
        frames.append((start, following))
        start = following
    assert len(frames) <= FRAMES_MAX
    return frames


def byte_hours(steps: Sequence[Step], begin: datetime, end: datetime) -> tuple[float, float]:
    """The integral of both sizes over the time; ``steps`` are in order, and nothing was there before the first."""
    logical = history = 0.0
    for step, following in itertools.zip_longest(steps, steps[1:]):
        until = end if following is None else min(following.at, end)
        hours = (until - max(step.at, begin)).total_seconds() / 3600
        if hours > 0:
            logical += hours * step.logical_bytes
            history += hours * step.history_bytes
    return logical, history


def frames_with(
    bounds: Sequence[tuple[datetime, datetime]],
    now: datetime,
    amounts: Mapping[datetime, Amounts],
    steps: Sequence[Step],
) -> Iterator[Frame]:
    """What a branch with these amounts (by beginning) and these sizes consumed in each of the frames."""
    moments = [step.at for step in steps]
    for start, end in bounds:
        until = min(end, now)
        # What held at the beginning, and what came to hold before the end.
        held = steps[max(0, bisect.bisect_right(moments, start) - 1) : bisect.bisect_left(moments, until)]
        logical, history = byte_hours(held, start, until)
        last = held[-1] if held else Step(start, 0, 0)
        yield Frame(
            start=start,
            end=end,
            amounts=amounts.get(start, Amounts()),
            logical_bytes=last.logical_bytes,
            history_bytes=last.history_bytes,
            logical_byte_hours=logical,
            history_byte_hours=history,
        )


def together(branches: Sequence[Sequence[Frame]]) -> Iterator[Frame]:
    """The sums of branches that have the same frames."""
    for frames in zip(*branches, strict=True):
        yield Frame(
            start=frames[0].start,
            end=frames[0].end,
            amounts=sum((frame.amounts for frame in frames), Amounts()),
            logical_bytes=sum(frame.logical_bytes for frame in frames),
            history_bytes=sum(frame.history_bytes for frame in frames),
            logical_byte_hours=sum(frame.logical_byte_hours for frame in frames),
            history_byte_hours=sum(frame.history_byte_hours for frame in frames),
        )
