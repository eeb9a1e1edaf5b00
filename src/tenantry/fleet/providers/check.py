"""Asks every provider how it is: reachable, key, version, regions, clock. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from tenantry.errors import TenantryError
from tenantry.fleet.catalog.records import ProviderRecord, Serving
from tenantry.fleet.providers.ports import Health, Provider

CLOCK_SECONDS_MAX: Final = 5.0
"""A clock further away than this makes times of restores and expiries mean another moment."""
AT_ONCE_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Checked:
    provider: ProviderRecord
    health: Health | None
    """None where it could not be asked."""
    wrong: Sequence[str]
    next_step: str = ""

    @property
    def ok(self) -> bool:
        return not self.wrong


def check_providers(
    records: Sequence[ProviderRecord], servings: Sequence[Serving], opened: Callable[[ProviderRecord], Provider]
) -> list[Checked]:
    """In the order of ``records``; one that hangs holds up no other."""

    def check(record: ProviderRecord) -> Checked:
        try:
            health = opened(record).check()
        except TenantryError as error:
            return Checked(record, None, [error.message], error.next_step)
        served = [each for each in servings if each.provider_id == record.id]
        return Checked(record, health, judge(record, health, served))

    with ThreadPoolExecutor(AT_ONCE_MAX) as pool:
        return list(pool.map(check, records))


def judge(record: ProviderRecord, health: Health, served: Sequence[Serving]) -> list[str]:
    """What is wrong with what a provider says of itself. Pure."""
    wrong: list[str] = []
    if health.clock_seconds is not None and abs(health.clock_seconds) > CLOCK_SECONDS_MAX:
        ahead = "ahead of" if health.clock_seconds > 0 else "behind"
        wrong.append(f"its clock is {abs(health.clock_seconds):.0f} s {ahead} this machine's")
    if record.kind == "neon":  # a cell is where it is, and takes any name for that
        unknown = sorted({each.provider_region for each in served} - set(health.regions))
        wrong += [f"it has no region {name}" for name in unknown]
    return wrong
