"""Create a project: the API call to its 201, with a spare ready and without, and on to the first query's answer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from installation import Installation, Tenant, first_row
from report import Row, milliseconds

_SPARES = 4
_READY_GOAL = 0.015
_NONE_GOAL = 0.060
_QUERY_GOAL = 0.060


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    rounds = 3 if quick else 8
    installation.restart(spares=_SPARES)
    created, answered = _with_spares(installation, rounds)
    yield Row(
        what="create a project, call to 201, spare ready: p50 / p95",
        ours=milliseconds(created),
        goal="p50 15 ms",
        met=statistics.median(created) <= _READY_GOAL,
        note=f"{len(created)} projects; Neon publishes < 350 ms",
        numbers={"seconds": created},
    )
    yield Row(
        what="create a project, call to first query answered: p50 / p95",
        ours=milliseconds(answered),
        goal="p50 60 ms",
        met=statistics.median(answered) <= _QUERY_GOAL,
        note="create, wake, connect and `select 1`, spare ready; Neon publishes 1-2 s",
        numbers={"seconds": answered},
    )
    installation.restart(spares=0)
    while installation.spares():  # those that were left of the pool
        installation.create()
    bare = [_create(installation)[0] for _ in range(_SPARES * rounds)]
    yield Row(
        what="create a project, call to 201, no spare: p50 / p95",
        ours=milliseconds(bare),
        goal="p50 60 ms",
        met=statistics.median(bare) <= _NONE_GOAL,
        note=f"{len(bare)} projects; the files are written and synced within the call",
        numbers={"seconds": bare},
    )


def _with_spares(installation: Installation, rounds: int) -> tuple[list[float], list[float]]:
    """Each round begins with a full pool and does not empty it; what is refilled meanwhile is part of the truth."""
    created: list[float] = []
    answered: list[float] = []
    for _ in range(rounds):
        for _ in range(_SPARES - 1):
            seconds, tenant = _create(installation)
            created.append(seconds)
            answered.append(seconds + first_row(tenant.uri))
            installation.put_to_sleep(tenant)
        installation.wait_for_spares(_SPARES)
    return created, answered


def _create(installation: Installation) -> tuple[float, Tenant]:
    began = time.perf_counter()
    tenant = installation.create()
    return time.perf_counter() - began, tenant
