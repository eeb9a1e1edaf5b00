"""Create a tenant: the intent first, then the project, then the record (docs/decisions/0002).

Creating twice with one name returns the same tenant; after a crash at any point the next call completes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.catalog import plans, providers, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.choose import choose_place
from tenantry.fleet.providers.ports import Home, Provider, ProviderOf, ProviderProject
from tenantry.fleet.tenants.slugs import Slug, checked_slug, clean_name, same_name, slugify
from tenantry.runtime.failpoints import failpoint

DEFAULT_PLAN: Final = "launch"
PG_VERSIONS: Final = range(14, 19)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A tenant as somebody wants it. None leaves the choice to the provider, or to what is there already."""

    slug: Slug
    name: str
    email: str | None = None
    plan: str | None = None
    region: str | None = None
    residency: str | None = None
    """Where its data must stay."""
    pg_version: int | None = None


@dataclass(frozen=True, slots=True)
class Created:
    tenant: Tenant
    new: bool
    """False when the tenant was there, ready, before."""


def wish(
    name: str,
    *,
    slug: str | None = None,
    email: str | None = None,
    plan: str | None = None,
    region: str | None = None,
    residency: str | None = None,
    pg_version: int | None = None,
) -> Wish:
    """Checks what was typed. Raises InvalidInput naming what is wrong with it."""
    if email is not None and (email.count("@") != 1 or not all(email.split("@")) or any(map(str.isspace, email))):
        raise InvalidInput(f"{email!r} is not an email address")
    if pg_version is not None and pg_version not in PG_VERSIONS:
        raise InvalidInput(
            f"Postgres {pg_version} is not one of {PG_VERSIONS[0]} to {PG_VERSIONS[-1]}",
            next_step="see `tenantry engine list`",
        )
    return Wish(
        slug=slugify(name) if slug is None else checked_slug(slug),
        name=clean_name(name),
        email=email,
        plan=plan,
        region=region,
        residency=residency,
        pg_version=pg_version,
    )


def project_name(tenant: Tenant) -> str:
    """The provider's name of a tenant's project. The uuid in it is how an unrecorded project is found again."""
    return f"{tenant.name} [{tenant.id}]"


def disagreement(tenant: Tenant, wanted: Wish) -> str | None:
    """Why the slug's tenant is not the one that is wanted; None when it is. Pure."""
    # Whoever types the slug means the tenant that has it.
    if not same_name(tenant.name, wanted.name) and wanted.name != tenant.slug:
        return f"the slug {tenant.slug} belongs to {tenant.name!r}"
    for what, have, want in (
        ("plan", tenant.plan, wanted.plan),
        ("region", tenant.region, wanted.region),
        ("Postgres version", tenant.pg_version, wanted.pg_version),
        ("email", tenant.email and tenant.email.lower(), wanted.email and wanted.email.lower()),
    ):
        if want is not None and have is not None and want != have:
            return f"{tenant.slug} exists with {what} {have}, not {want}"
    if wanted.residency is not None and tenant.residency != wanted.residency:
        return f"{tenant.slug} exists with residency {tenant.residency or 'anywhere'}, not {wanted.residency}"
    return None


def create_tenant(catalog: Catalog, provider_of: ProviderOf, wanted: Wish) -> Created:
    """Raises Conflict when the slug's tenant is another one, InvalidInput for a plan that does not exist.

    Where it goes is chosen and written with the intent: whoever completes it goes to the same provider. Raises
    InvalidInput and LimitReached when nowhere is a place for it.
    """
    plan = wanted.plan or DEFAULT_PLAN
    with catalog.transaction() as connection:
        known = [each.slug for each in plans.plans(connection)]
        if plan not in known:
            raise InvalidInput(f"there is no plan {plan!r}", next_step=f"choose one of: {', '.join(known)}")
        tenant, fresh = queries.tenant_by_slug(connection, wanted.slug), False
        if tenant is None:
            place = choose_place(connection, region=wanted.region, residency=wanted.residency)
            tenant, fresh = queries.intend_tenant(
                connection,
                slug=wanted.slug,
                name=wanted.name,
                email=wanted.email,
                plan=plan,
                region=place.region,
                pg_version=wanted.pg_version,
                provider_id=place.provider_id,
                residency=wanted.residency,
            )
    failpoint("create_tenant.intended")
    if (reason := disagreement(tenant, wanted)) is not None:
        raise Conflict(reason, next_step="choose another name, or another slug with --slug", tenant=tenant.slug)
    if tenant.state == "ready":
        return Created(tenant, new=False)
    return Created(finish_creation(catalog, provider_of, tenant, fresh=fresh), new=True)


def finish_creation(catalog: Catalog, provider_of: ProviderOf, intended: Tenant, *, fresh: bool = False) -> Tenant:
    """Takes an intent to its end, from wherever it stands; returns the ready tenant.

    ``fresh`` says that nobody can have tried before. Raises Conflict when the tenant is being deleted. What the
    provider refuses as wrong (InvalidInput) would be refused again: the intent is withdrawn, and the slug is free.
    """
    provider = provider_of(intended)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, intended.id)
        if tenant.state == "ready":
            return tenant
        if tenant.state != "creating":
            raise Conflict(
                f"{tenant.slug} is being deleted",
                next_step=f"finish that with `tenantry delete {tenant.slug} --yes`, then create it anew",
            )
        where = tenant.region and (providers.serving_of(connection, tenant.provider_id, tenant.region) or tenant.region)
        made = _project_of(provider, tenant, region=where, fresh=fresh)
        if isinstance(made, InvalidInput):
            queries.mark_deleting(connection, tenant.id)
            queries.mark_deleted(connection, tenant.id)
            refused, ready = made, tenant
        else:
            project, home = made
            refused, ready = (
                None,
                queries.mark_ready(
                    connection,
                    tenant.id,
                    project_id=project.id,
                    region=tenant.region or project.region,
                    pg_version=project.pg_version,
                    database_name=home.database_name,
                    role_name=home.role_name,
                ),
            )
        failpoint("create_tenant.recorded")
    failpoint("create_tenant.committed")
    if refused is not None:
        raise refused
    return ready


def _project_of(
    provider: Provider, tenant: Tenant, *, region: str | None, fresh: bool
) -> tuple[ProviderProject, Home] | InvalidInput:
    """The one project that carries the tenant's uuid: adopted if it is there, else made; or why it cannot be made."""
    found = _oldest_first(provider, tenant)
    home: Home | None = None
    if not found:
        try:
            project, home = provider.create_project(
                name=project_name(tenant), region=region, pg_version=tenant.pg_version
            )
        except InvalidInput as refusal:
            return refusal
        failpoint("create_tenant.called")
        # A request of a killed predecessor may have arrived between our search and our own request.
        found = [project] if fresh else _oldest_first(provider, tenant) or [project]
        home = home if found[0].id == project.id else None
    for stray in found[1:]:
        provider.delete_project(stray.id)
    return found[0], home or provider.home(found[0].id)


def _oldest_first(provider: Provider, tenant: Tenant) -> list[ProviderProject]:
    """Of several projects the same one wins, whoever looks."""
    return sorted(provider.find_projects(str(tenant.id)), key=lambda project: (project.created_at, project.id))
