"""Look at the whole fleet for drift, and mend it: lists at the providers page by page, and wakes nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import plans, providers, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Plan, ProviderRecord, Tenant
from tenantry.fleet.providers.ports import ListedProject, Provider, ProviderOf
from tenantry.fleet.tenants.drift import NAME, Drifted, differences, of_limits
from tenantry.fleet.tenants.limits import limits_of
from tenantry.fleet.tenants.settle import settle

T = TypeVar("T")
Opened = Callable[[ProviderRecord], Provider]

PAGE: Final = 400
"""Projects that are compared with one question to the catalog."""
MENDED_MAX: Final = 1_000
"""Tenants that one pass mends, some requests each; the next pass finds the rest."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """A provider that could not be asked, or not to the end."""

    provider: str
    error: TenantryError


def find_drift(catalog: Catalog, opened: Opened, *, deep: bool = False) -> Iterator[Drifted | Unseen]:
    """Every tenant that is not as its plan and its name say.

    ``deep`` asks also for what the list does not say, with some requests for each tenant: whether somebody has changed
    the endpoint itself.
    """
    with catalog.transaction() as connection:
        records = providers.providers(connection)
    for record in records:
        try:
            provider = opened(record)
            for page in _pages(provider.list_projects(), PAGE):
                yield from _compare(catalog, record, provider, page, deep=deep)
        except TenantryError as error:
            yield Unseen(record.name, error)


def mend(catalog: Catalog, provider_of: ProviderOf, drifted: Drifted) -> Tenant:
    """Raises what the provider raises."""
    changed = {each.what for each in drifted.differences}
    return settle(catalog, provider_of, drifted.tenant, name=NAME in changed, limits=bool(changed - {NAME}))


def pass_(catalog: Catalog, opened: Opened, provider_of: ProviderOf) -> list[str]:
    """Returns a sentence for each tenant that was mended or could not be, and for each provider that did not answer."""
    said: list[str] = []
    mended = 0
    for found in find_drift(catalog, opened):
        if isinstance(found, Unseen):
            said.append(f"provider {found.provider} was not looked at: {found.error}")
            continue
        if mended == MENDED_MAX:
            said.append(f"more than {MENDED_MAX} tenants differ from their plans: the next pass goes on")
            break
        mended += 1
        what = ", ".join(each.what for each in found.differences)
        try:
            mend(catalog, provider_of, found)
            said.append(f"{found.tenant.slug}: {what} mended")
        except TenantryError as error:
            said.append(f"{found.tenant.slug}: {what} could not be mended: {error}")
    return said


def _compare(
    catalog: Catalog, record: ProviderRecord, provider: Provider, page: Sequence[ListedProject], *, deep: bool
) -> Iterator[Drifted]:
    listed = {each.project.id: each for each in page}
    with catalog.transaction() as connection:
        tenants = queries.tenants_of_projects(connection, record.id, list(listed))
        known: dict[str, Plan] = {plan.slug: plan for plan in plans.plans(connection)}
    for tenant in tenants:
        assert tenant.project_id is not None, "it was found by it"
        if tenant.plan not in known:
            continue  # it was moved to a plan that was made this moment
        plan = known[tenant.plan]
        found = differences(tenant, plan, listed[tenant.project_id], provider.features)
        if deep and not found:
            found = of_limits(limits_of(plan, provider.features), provider.limits(tenant.project_id), unsaid=False)
        if found:
            yield Drifted(tenant=tenant, differences=tuple(found))


def _pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while page := list(islice(iterator, size)):
        yield page
