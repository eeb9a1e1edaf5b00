"""Which wave a tenant is in: canaries first, then the rings in their order, then the rest. Pure.

A tenant's place depends on the tenant and the rules alone, never on the others or on chance, so that the same tenants
come first each time and a plan that is made again is the same plan.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from tenantry.fleet.migrations.tenant import TenantRef, TenantSlug

GOLDEN: Final = "golden"
"""The wave of the fleet's own empty database, before any customer's."""
CANARY: Final = "canary"
REST: Final = "rest"
BORN_MEANWHILE: Final = "born meanwhile"
"""Tenants that were created while the run ran."""
CANARIES_FROM: Final = 10
"""With fewer tenants to visit nobody goes first, unless somebody says so."""
FIRST_PART_FROM: Final = 100
"""From so many on a tenth goes before the rest, where no rings are configured."""
_HASHES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Some of the tenants: all that match, of each condition that is given, one of its values."""

    name: str
    tenants: tuple[str, ...] = ()
    """Slugs; a star is any text."""
    plans: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    percent: float = 100.0
    """Of those that match, always the same."""

    def has(self, tenant: TenantRef) -> bool:
        return (
            _one_of(self.tenants, tenant.slug)
            and _one_of(self.plans, tenant.plan)
            and _one_of(self.regions, tenant.region or "")
            and (self.percent >= 100.0 or place_of(tenant.slug, self.name) < self.percent)
        )


FIRST_PART: Final = Ring(name="first 10%", percent=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How tenants come into waves."""

    canaries: int | None = None
    """None: one where CANARIES_FROM tenants or more are to be visited."""
    rings: tuple[Ring, ...] = ()


@dataclass(slots=True)
class Survey:
    """What is known of a selection after having seen all of it once: enough to say who is in which wave."""

    rules: Rules
    canaries_max: int = field(init=False)
    visited: int = 0
    _first: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    _by_ring: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self.canaries_max = 1 if self.rules.canaries is None else self.rules.canaries

    def see(self, tenant: TenantRef) -> None:
        """A tenant that is to be visited."""
        self.visited += 1
        self._by_ring[self._ring(tenant)] += 1
        # The smallest places, largest first in the heap.
        heapq.heappush(self._first, (-place_of(tenant.slug, CANARY), tenant.slug))
        if len(self._first) > self.canaries_max:
            heapq.heappop(self._first)

    def waves(self) -> Waves:
        asked = self.rules.canaries is not None or self.visited >= CANARIES_FROM
        first = self._first if asked and self.visited > 1 else []
        canaries = frozenset(TenantSlug(slug) for _, slug in first)
        rings = self._rings()
        names = [ring.name for ring in rings if self._by_ring[ring.name]]
        names += [REST] if self._by_ring[REST] or not names else []
        return Waves(names=(*((CANARY,) if canaries else ()), *names), canaries=canaries, rings=rings)

    def _rings(self) -> tuple[Ring, ...]:
        if self.rules.rings:
            return self.rules.rings
        return (FIRST_PART,) if self.visited >= FIRST_PART_FROM else ()

    def _ring(self, tenant: TenantRef) -> str:
        # Counted as if there were many: the first part is only used where there are.
        rings = self.rules.rings or (FIRST_PART,)
        name = ring_of(tenant, rings)
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """The waves of one run, by their names, and who is in which."""

    names: tuple[str, ...]
    canaries: frozenset[TenantSlug]
    rings: tuple[Ring, ...]

    def name_of(self, tenant: TenantRef) -> str:
        if tenant.slug in self.canaries:
            return CANARY
        name = ring_of(tenant, self.rings)
        return name if name in self.names else self.names[-1]


def waves_of(tenants: Iterable[TenantRef], rules: Rules) -> Waves:
    """The waves for these tenants, which are all to be visited."""
    survey = Survey(rules)
    for tenant in tenants:
        survey.see(tenant)
    return survey.waves()


def ring_of(tenant: TenantRef, rings: Sequence[Ring]) -> str:
    """The first ring that has the tenant, or the rest."""
    return next((ring.name for ring in rings if ring.has(tenant)), REST)


def place_of(slug: str, salt: str) -> float:
    """Where a tenant stands between 0 and 100, the same for ever: below 10 stand ten percent of all."""
    digest = hashlib.sha256(f"{salt}\0{slug}".encode()).digest()
    return int.from_bytes(digest[:8]) % _HASHES * 100 / _HASHES


def _one_of(patterns: tuple[str, ...], value: str) -> bool:
    return not patterns or any(fnmatchcase(value, pattern) for pattern in patterns)
