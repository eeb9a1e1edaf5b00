"""Watches a run that others carry out, and tells of it as if it were done here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, cast

from tenantry.errors import NotFound
from tenantry.fleet.catalog import runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Run, Wave, WaveState
from tenantry.fleet.migrations.events import (
    Event,
    Progressed,
    RunFinished,
    RunStarted,
    Waiting,
    Warned,
    WaveJudged,
    WaveStarted,
)
from tenantry.fleet.migrations.run import STALLED_SECONDS

LOOK_SECONDS: Final = 0.5
NOBODY_SECONDS: Final = 15.0
"""After this it is said that no worker has begun."""


def follow_run(catalog: Catalog, run: Run, *, on_event: Callable[[Event], None]) -> Run:
    """Returns when the run has ended, is held, or only waits for maintenance windows."""
    began = time.monotonic()
    seen: dict[int, WaveState] = {}
    visited = -1
    begun = warned = False
    while True:
        now, waves = _look(catalog, run)
        to_visit = sum(wave.tenants for wave in waves)
        if not begun:
            total = now.plan.get("total")
            on_event(RunStarted(now, total if isinstance(total, int) else to_visit, to_visit))
            begun = True
        for event in _news(waves, seen):
            on_event(event)
        done = to_visit - sum(wave.waiting for wave in waves)
        if done != visited:
            visited = done
            on_event(Progressed(visited, to_visit))
        if now.state != "running":
            break
        waiting = [wave for wave in waves if wave.state == "running" and wave.waiting]
        if waiting and all(wave.waiting == wave.shut for wave in waiting):
            on_event(Waiting(waiting[0].opens_at, sum(wave.shut for wave in waiting)))
            break
        busy = any(wave.in_hand or wave.state == "judging" for wave in waves) or visited > 0
        if not busy and not warned and time.monotonic() - began > NOBODY_SECONDS:
            warned = True
            on_event(Warned("no worker has begun yet: is `tenantry up` or a `tenantry worker` running?"))
        time.sleep(LOOK_SECONDS)
    on_event(RunFinished(now))
    return now


def _look(catalog: Catalog, run: Run) -> tuple[Run, Sequence[Wave]]:
    with catalog.transaction() as connection:
        now = runs.run_by_id(connection, run.id)
        if now is None:
            raise NotFound(f"{run.id} is forgotten", next_step="see `tenantry migrate history`", run_id=run.id)
        if not now.counts:
            now = replace(now, counts=runs.counts(connection, run.id))
        return now, runs.waves(connection, run.id, stalled_seconds=STALLED_SECONDS)


def _news(waves: Sequence[Wave], seen: dict[int, WaveState]) -> list[Event]:
    found: list[Event] = []
    for wave in waves:
        before = seen.get(wave.number, "waiting")
        seen[wave.number] = wave.state
        if before == wave.state:
            continue
        if before == "waiting":
            found.append(WaveStarted(wave.number, wave.name, wave.tenants))
        if wave.state in {"passed", "failed"}:
            said = cast("Sequence[str]", (wave.verdict or {}).get("objections", ()))
            found.append(WaveJudged(wave.number, wave.name, tuple(said)))
    return found
