"""What a run needs next, decided from where it and its waves stand. Pure: whoever asks may do it, and may die of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tenantry.fleet.catalog.records import Run, Wave
from tenantry.fleet.migrations.waves import GOLDEN


@dataclass(frozen=True, slots=True)
class Begin:
    """The wave is to be begun."""

    wave: Wave


@dataclass(frozen=True, slots=True)
class Migrate:
    """The wave has tenants that wait."""

    wave: Wave


@dataclass(frozen=True, slots=True)
class Judge:
    """All of the wave is done: its gates are asked."""

    wave: Wave


@dataclass(frozen=True, slots=True)
class Prove:
    """The migrations are applied to the fleet's own empty database."""

    wave: Wave


@dataclass(frozen=True, slots=True)
class Others:
    """Somebody else does what is to be done now."""

    wave: Wave


@dataclass(frozen=True, slots=True)
class Shut:
    """All that is left waits for its maintenance window."""

    wave: Wave
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left."""


@dataclass(frozen=True, slots=True)
class Held:
    """Nothing is to be done: it is paused, stopped, or over."""


Step = Begin | Migrate | Judge | Prove | Others | Shut | Finish | Held


def next_step(run: Run, waves: Sequence[Wave], *, worker: str | None = None) -> Step:
    """What ``run`` needs next. ``worker`` is who asks, and does one thing at a time: a wave that it is said to judge is
    one that it was never told to, since the answer was lost."""
    if run.state != "running":
        return Held()
    for wave in waves:
        if wave.state == "passed":
            continue
        if wave.state == "waiting":
            return Begin(wave)
        if wave.state == "failed":
            return Held()
        if wave.state == "judging":
            if not wave.silent and (worker is None or wave.worker != worker):
                return Others(wave)
            return Prove(wave) if wave.name == GOLDEN else Judge(wave)
        if wave.name == GOLDEN:
            return Prove(wave)
        if wave.waiting == 0:
            return Judge(wave)
        if wave.waiting > wave.in_hand + wave.shut:
            return Migrate(wave)
        return Others(wave) if wave.in_hand else Shut(wave, wave.opens_at)
    return Finish()
