"""From what the operator typed to the tenant that is meant."""

from __future__ import annotations

from tenantry.errors import Conflict, NotFound
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import Home
from tenantry.fleet.tenants.slugs import slugify
from tenantry.neon.ids import ProjectId


def find_tenant(catalog: Catalog, name: str) -> Tenant:
    """The living tenant of this slug or name. Raises NotFound."""
    slug = slugify(name)
    with catalog.transaction() as connection:
        tenant = queries.tenant_by_slug(connection, slug)
    if tenant is None:
        raise NotFound(f"there is no tenant {slug}", next_step="see `tenantry list`", tenant=slug)
    return tenant


def find_ready(catalog: Catalog, name: str) -> tuple[Tenant, ProjectId, Home]:
    """A tenant that can be used, its project and where its data lives. Raises NotFound, or Conflict when unfinished."""
    return usable(find_tenant(catalog, name))


def usable(tenant: Tenant) -> tuple[Tenant, ProjectId, Home]:
    """The same for one that was found. Raises Conflict when it is unfinished."""
    if tenant.state == "leaving":
        raise Conflict(
            f"{tenant.slug} was deleted, and is purged on {tenant.purge_at:%Y-%m-%d %H:%M}Z",
            next_step=f"bring it back with `tenantry undelete {tenant.slug}`",
        )
    if tenant.state == "deleting":
        raise Conflict(
            f"{tenant.slug} is being deleted", next_step=f"finish it with `tenantry delete {tenant.slug} --now --yes`"
        )
    if tenant.state != "ready":
        raise Conflict(
            f"{tenant.slug} is not ready: its creation was interrupted",
            next_step=f"finish it with `tenantry create {tenant.slug}`",
        )
    # The catalog's own checks hold this for every row that is ready.
    assert tenant.project_id is not None
    assert tenant.database_name is not None
    assert tenant.role_name is not None
    return tenant, tenant.project_id, Home(database_name=tenant.database_name, role_name=tenant.role_name)
