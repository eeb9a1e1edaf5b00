"""How long a run will take, by what the same migrations have taken other tenants."""

from __future__ import annotations

from collections import Counter

from tenantry.fleet.catalog import runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.migrations.plan import Plan
from tenantry.fleet.migrations.run import RunOptions


def expected_seconds(catalog: Catalog, plan: Plan, options: RunOptions) -> float | None:
    """Seconds for the whole of the plan; None where nobody has had some of its migrations yet."""
    by_pending = Counter(each.pending for each in plan.to_visit)
    total = 0.0
    with catalog.transaction() as connection:
        for pending, tenants in by_pending.items():
            seconds = runs.seconds_before(connection, pending, plan.target)
            if seconds is None:
                return None
            total += seconds * tenants
    return total / min(options.jobs, max(1, len(plan.to_visit)))
