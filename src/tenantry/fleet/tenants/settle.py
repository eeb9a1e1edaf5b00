"""Makes a tenant's project be called as the tenant is, and hold what its plan says. Safe to repeat at any time.

The tenant is held meanwhile and looked at once more: of several who do this at once the last has seen what counts.
"""

from __future__ import annotations

from tenantry.fleet.catalog import plans, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.limits import limits_of
from tenantry.fleet.tenants.names import project_name
from tenantry.runtime.failpoints import failpoint


def settle(
    catalog: Catalog, provider_of: ProviderOf, known: Tenant, *, name: bool = True, limits: bool = True
) -> Tenant:
    """The tenant as it is. Does nothing for one that is neither ready nor leaving. Raises what the provider raises."""
    provider = provider_of(known)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, known.id)
        if tenant.state not in ("ready", "leaving"):
            return tenant
        assert tenant.project_id is not None, "the catalog's own checks hold this"
        plan = plans.plan_by_slug(connection, tenant.plan)
        assert plan is not None, "the catalog's own keys hold this"
        if name:
            provider.rename_project(tenant.project_id, project_name(tenant))
            failpoint("settle.renamed")
        if limits:
            provider.change_limits(tenant.project_id, limits_of(plan, provider.features))
            failpoint("settle.limited")
    return tenant
