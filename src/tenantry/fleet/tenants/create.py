"""Create a tenant: the intent first, then the project, then the record (docs/decisions/0002).

Where a project waits for a tenant, it becomes this one's with the very commit of the intent, and its name and limits
follow. Creating twice with one name returns the same tenant; after a crash at any point the next call completes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from tenantry.errors import Conflict, InvalidInput, NotFound, TenantryError
from tenantry.fleet.catalog import events, plans, providers, queries, ready
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant, TenantId
from tenantry.fleet.providers.choose import choose_place
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.limits import limits_of
from tenantry.fleet.tenants.names import project_name
from tenantry.fleet.tenants.project import project_of
from tenantry.fleet.tenants.settle import settle
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
    note: str | None = None
    """What is still to be done, by a pass; the tenant can be used."""


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
    return Wish(
        slug=slugify(name) if slug is None else checked_slug(slug),
        name=clean_name(name),
        email=None if email is None else checked_email(email),
        plan=plan,
        region=region,
        residency=residency,
        pg_version=None if pg_version is None else checked_pg_version(pg_version),
    )


def checked_email(email: str) -> str:
    """Raises InvalidInput."""
    if email.count("@") != 1 or not all(email.split("@")) or any(map(str.isspace, email)):
        raise InvalidInput(f"{email!r} is not an email address")
    return email


def checked_pg_version(pg_version: int) -> int:
    """Raises InvalidInput."""
    if pg_version not in PG_VERSIONS:
        raise InvalidInput(
            f"Postgres {pg_version} is not one of {PG_VERSIONS[0]} to {PG_VERSIONS[-1]}",
            next_step="see `tenantry engine list`",
        )
    return pg_version


def disagreement(tenant: Tenant, wanted: Wish) -> tuple[str, str] | None:
    """What of it is not as wanted, and how the slug's tenant is instead; None where it is the one wanted. Pure."""
    # Whoever types the slug means the tenant that has it.
    if not same_name(tenant.name, wanted.name) and wanted.name != tenant.slug:
        return "name", f"the slug {tenant.slug} belongs to {tenant.name!r}"
    for field, what, have, want in (
        ("plan", "plan", tenant.plan, wanted.plan),
        ("region", "region", tenant.region, wanted.region),
        ("pg_version", "Postgres version", tenant.pg_version, wanted.pg_version),
        ("email", "email", tenant.email and tenant.email.lower(), wanted.email and wanted.email.lower()),
    ):
        if want is not None and have is not None and want != have:
            return field, f"{tenant.slug} exists with {what} {have}, not {want}"
    if wanted.residency is not None and tenant.residency != wanted.residency:
        there = tenant.residency or "anywhere"
        return "residency", f"{tenant.slug} exists with residency {there}, not {wanted.residency}"
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
            raise InvalidInput(
                f"there is no plan {plan!r}", next_step=f"choose one of: {', '.join(known)}", field="plan"
            )
        tenant, fresh = queries.tenant_by_slug(connection, wanted.slug), False
        if tenant is None:
            tenant, fresh = _intend(connection, wanted, plan)
    failpoint("create_tenant.intended")
    if (differs := disagreement(tenant, wanted)) is not None:
        field, reason = differs
        raise Conflict(
            reason, next_step="choose another name, or another slug with --slug", tenant=tenant.slug, field=field
        )
    if tenant.state == "ready":
        return _move_in(catalog, provider_of, tenant) if fresh else Created(tenant, new=False)
    return Created(finish_creation(catalog, provider_of, tenant, fresh=fresh), new=True)


def _intend(connection: Connection, wanted: Wish, plan: str) -> tuple[Tenant, bool]:
    """Writes the tenant down, with a project that waits where there is one; or who was quicker with the slug."""
    place = choose_place(connection, region=wanted.region, residency=wanted.residency)
    with connection.begin_nested() as claiming:
        waiting = ready.claim_ready(connection, place.provider_id, region=place.region, pg_version=wanted.pg_version)
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
            claimed=None if waiting is None else TenantId(waiting.id),
        )
        if not fresh:
            claiming.rollback()
        elif waiting is not None:
            assert waiting.project_id is not None
            assert waiting.region is not None
            assert waiting.pg_version is not None
            assert waiting.database_name is not None
            assert waiting.role_name is not None
            tenant = queries.mark_ready(
                connection,
                tenant.id,
                project_id=waiting.project_id,
                region=place.region or waiting.region,
                pg_version=waiting.pg_version,
                database_name=waiting.database_name,
                role_name=waiting.role_name,
            )
    if fresh:
        events.record(
            connection,
            "create",
            tenant,
            plan=plan,
            region=tenant.region,
            residency=tenant.residency,
            claimed=tenant.project_id,
        )
    return tenant, fresh


def _move_in(catalog: Catalog, provider_of: ProviderOf, tenant: Tenant) -> Created:
    """Gives the project that waited the tenant's name and limits. What cannot be done now a pass does."""
    failpoint("create_tenant.claimed")
    try:
        settle(catalog, provider_of, tenant)
    except NotFound:
        # It was deleted at the provider behind our back, and nobody has used it.
        with catalog.transaction() as connection:
            held = queries.hold_tenant(connection, tenant.id)
            if held.state == "ready" and held.project_id == tenant.project_id:
                held = queries.make_ready_again(connection, tenant.id)
        return Created(finish_creation(catalog, provider_of, held), new=True)
    except TenantryError as error:
        return Created(tenant, new=True, note=f"its name and limits at the provider follow: {error.message}")
    return Created(tenant, new=True)


def finish_creation(catalog: Catalog, provider_of: ProviderOf, intended: Tenant, *, fresh: bool = False) -> Tenant:
    """Takes an intent to its end, from wherever it stands; returns the ready tenant.

    ``fresh`` says that the caller has just written the intent. Raises Conflict when the tenant is being deleted. What
    the provider refuses as wrong (InvalidInput) would be refused again: the intent is withdrawn, and the slug is free.
    """
    provider = provider_of(intended)
    if not fresh:
        # Before anything is asked of the provider: whoever has written the intent must not believe to be the first.
        with catalog.transaction() as connection:
            queries.note_attempt(connection, intended.id)
    with catalog.transaction() as connection:
        tenant = queries.hold_tenant(connection, intended.id)
        if tenant.state == "ready":
            return tenant
        if tenant.state == "leaving":
            raise Conflict(
                f"{tenant.slug} was deleted, and its name is kept until {tenant.purge_at:%Y-%m-%d %H:%M}Z",
                next_step=f"bring it back with `tenantry undelete {tenant.slug}`, or choose another slug with --slug",
            )
        if tenant.state != "creating":
            raise Conflict(
                f"{tenant.slug} is being deleted",
                next_step=f"finish that with `tenantry delete {tenant.slug} --now --yes`, then create it anew",
            )
        where = tenant.region and (providers.serving_of(connection, tenant.provider_id, tenant.region) or tenant.region)
        plan = plans.plan_by_slug(connection, tenant.plan)
        assert plan is not None, "the catalog's own keys hold this"
        made = project_of(
            provider,
            tenant.id,
            name=project_name(tenant),
            region=where,
            pg_version=tenant.pg_version,
            limits=limits_of(plan, provider.features),
            fresh=fresh and queries.nobody_has_tried(connection, tenant.id),
            made=lambda: failpoint("create_tenant.called"),
        )
        if isinstance(made, InvalidInput):
            queries.mark_deleting(connection, tenant.id)
            queries.mark_deleted(connection, tenant.id)
            events.record(connection, "create refused", tenant, reason=made.message)
            refused = made
        else:
            project, home = made
            refused = None
            tenant = queries.mark_ready(
                connection,
                tenant.id,
                project_id=project.id,
                region=tenant.region or project.region,
                pg_version=project.pg_version,
                database_name=home.database_name,
                role_name=home.role_name,
            )
        failpoint("create_tenant.recorded")
    failpoint("create_tenant.committed")
    if refused is not None:
        raise refused
    return tenant
