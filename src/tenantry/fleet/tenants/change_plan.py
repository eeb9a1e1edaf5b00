"""Put a tenant on another plan: its limits hold at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.catalog import events, plans, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Plan, Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.drift import Difference, of_limits, shortens_history
from tenantry.fleet.tenants.find import find_ready
from tenantry.fleet.tenants.limits import limits_of
from tenantry.fleet.tenants.settle import settle
from tenantry.runtime.failpoints import failpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """What another plan would change, for the operator to look at first."""

    tenant: Tenant
    plan: Plan
    differences: Sequence[Difference]
    """Between what holds now and what would."""

    @property
    def destroys(self) -> bool:
        """Whether some of the tenant's history would go for ever."""
        return shortens_history(self.differences)


def plan_change(catalog: Catalog, provider_of: ProviderOf, name: str, plan: str) -> PlanChange:
    """Changes nothing. Raises NotFound, Conflict for an unfinished tenant, InvalidInput for a plan there is not."""
    tenant, project_id, _ = find_ready(catalog, name)
    with catalog.transaction() as connection:
        wanted = plans.plan_by_slug(connection, plan)
        known = [each.slug for each in plans.plans(connection)]
    if wanted is None:
        raise InvalidInput(f"there is no plan {plan!r}", next_step=f"choose one of: {', '.join(known)}")
    provider = provider_of(tenant)
    limits = limits_of(wanted, provider.features)
    return PlanChange(
        tenant=tenant, plan=wanted, differences=of_limits(limits, provider.limits(project_id), unsaid=False)
    )


def change_plan(catalog: Catalog, provider_of: ProviderOf, change: PlanChange) -> Tenant:
    """Returns when the limits hold. Repeated, it makes them hold again."""
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, change.tenant.id)
        if tenant.state != "ready":
            raise Conflict(f"{tenant.slug} is {tenant.state}", next_step="change its plan when it is ready")
        if tenant.plan != change.plan.slug:
            events.record(connection, "change plan", tenant, plan=change.plan.slug, was=tenant.plan)
            plans.put_on_plan(connection, tenant.id, change.plan.slug)
    failpoint("change_plan.recorded")
    return settle(catalog, provider_of, tenant, name=False)
