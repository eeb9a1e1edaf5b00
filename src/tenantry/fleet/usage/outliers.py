"""Which tenants use far more than the others. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from tenantry.fleet.catalog.usage import Amounts, Used

Measure = Literal["compute", "written", "sent", "storage"]

TIMES: Final = 10.0
"""Noisy is who uses so many times what the median tenant uses."""
TENANTS_MIN: Final = 5
"""Of fewer tenants that use a thing at all, none is noisy: there is nobody to compare with."""
LEAST_A_DAY: Final[Mapping[Measure, int]] = {
    "compute": 3_600,
    "written": 2**30,
    "sent": 2**30,
    "storage": 2**30,
}
"""On average over the days: below an hour of one compute unit, and below a GiB, nobody disturbs anybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noisy:
    used: Used
    measure: Measure
    """Of several the one that is furthest out."""
    amount: int
    """Compute seconds, or bytes; of storage the average."""
    median: float
    """Of all tenants that use any of it."""
    times: float


def amounts_of(amounts: Amounts, days: int) -> dict[Measure, int]:
    return {
        "compute": amounts.compute_seconds,
        "written": amounts.written_bytes,
        "sent": amounts.sent_bytes,
        "storage": amounts.storage_byte_days // days,
    }


def noisy(tenants: Sequence[Used], days: int, *, times: float = TIMES) -> list[Noisy]:
    """Those that in ``days`` days used at least ``times`` the median of anything, the furthest out first.

    The median is of the tenants that used any of it: where most sleep, the median of all is nothing. A tenant that is
    noisy in one thing and not in another is noisy.
    """
    amounts = [(used, amounts_of(used.amounts, days)) for used in tenants]
    furthest: dict[int, Noisy] = {}
    for measure, least in LEAST_A_DAY.items():
        some = [mine[measure] for _, mine in amounts if mine[measure] > 0]
        if len(some) < TENANTS_MIN:
            continue
        median = float(statistics.median(some))
        # Storage is an average already.
        floor = least if measure == "storage" else least * days
        for place, (used, mine) in enumerate(amounts):
            amount = mine[measure]
            if amount < floor or amount < times * median:
                continue
            found = Noisy(used=used, measure=measure, amount=amount, median=median, times=amount / median)
            if place not in furthest or furthest[place].times < found.times:
                furthest[place] = found
    return sorted(furthest.values(), key=lambda each: (-each.times, each.used.slug))
