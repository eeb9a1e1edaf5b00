"""Which tenants a plan is about: by name, plan, region, ring, a part of all, or the first so many that are behind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.plan import Ways, plan_tenants
from tenantry.fleet.migrations.tenant import TenantRef
from tenantry.fleet.migrations.waves import REST, Ring, place_of, ring_of

_SALT: Final = "percent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """All that is given must hold of a tenant."""

    tenants: Sequence[str] | None = None
    plan: str | None = None
    region: str | None = None
    ring: str | None = None
    """A ring that is configured, or ``rest``."""
    percent: float | None = None
    """Of a hundred tenants so many, always the same."""
    limit: int | None = None
    """The first so many that are not current; those that are count for nothing."""

    def of(self, tenants: Iterable[TenantRef], rings: Sequence[Ring], folder: Format) -> Iterator[TenantRef]:
        """Those of ``tenants`` that are meant. Raises InvalidInput for a ring that there is not."""
        names = [*(ring.name for ring in rings), REST]
        if self.ring is not None and self.ring not in names:
            raise InvalidInput(f"there is no ring {self.ring!r}", next_step=f"there are {', '.join(names)}")
        meant = (tenant for tenant in tenants if self._means(tenant, rings))
        if self.limit is None:
            return meant
        behind = (each.tenant for each in plan_tenants(Ways(folder), meant) if each.standing != "current")
        return islice(behind, self.limit)

    def _means(self, tenant: TenantRef, rings: Sequence[Ring]) -> bool:
        return (
            (self.plan is None or tenant.plan == self.plan)
            and (self.region is None or tenant.region == self.region)
            and (self.ring is None or ring_of(tenant, rings) == self.ring)
            and (self.percent is None or place_of(tenant.slug, _SALT) < self.percent)
        )

    def document(self) -> dict[str, object]:
        """What of it is given."""
        return {name: value for name, value in asdict(self).items() if value is not None}
