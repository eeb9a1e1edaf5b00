"""Delete a tenant: marked first, then its projects at the provider, then the record (docs/decisions/0002).

What was marked is only ever deleted; after a crash at any point the next call completes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import Provider, ProviderOf
from tenantry.fleet.tenants.find import find_tenant
from tenantry.neon.ids import ProjectId
from tenantry.runtime.failpoints import failpoint


@dataclass(frozen=True, slots=True)
class Deletion:
    """What deleting a tenant would remove, for the operator to look at first."""

    tenant: Tenant
    projects: Sequence[ProjectId]


def plan_deletion(catalog: Catalog, provider_of: ProviderOf, name: str) -> Deletion:
    """Changes nothing. Raises NotFound."""
    tenant = find_tenant(catalog, name)
    return Deletion(tenant, _projects(provider_of(tenant), tenant))


def delete_tenant(catalog: Catalog, provider_of: ProviderOf, name: str) -> Tenant:
    """Deletes the tenant's project with all its data; returns the tenant as it was. Raises NotFound."""
    tenant = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        queries.mark_deleting(connection, tenant.id)
    failpoint("delete_tenant.marked")
    finish_deletion(catalog, provider_of, tenant)
    return tenant


def finish_deletion(catalog: Catalog, provider_of: ProviderOf, marked: Tenant) -> None:
    """Takes a marked tenant to its end, from wherever it stands. Does nothing for one that is not marked."""
    provider = provider_of(marked)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, marked.id)
        if tenant.state != "deleting":
            return
        for project_id in _projects(provider, tenant):
            provider.delete_project(project_id)
        failpoint("delete_tenant.called")
        queries.mark_deleted(connection, tenant.id)
    failpoint("delete_tenant.committed")


def _projects(provider: Provider, tenant: Tenant) -> list[ProjectId]:
    """The recorded project, and any other that carries the tenant's uuid."""
    recorded = [] if tenant.project_id is None else [tenant.project_id]
    found = [project.id for project in provider.find_projects(str(tenant.id))]
    return [*recorded, *sorted(set(found) - set(recorded))]
