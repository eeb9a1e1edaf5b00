"""Where a provider holds a tenant to something else than its plan says, or calls its project otherwise. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tenantry.fleet.catalog.records import Plan, Tenant
from tenantry.fleet.providers.ports import Feature, Limits, ListedProject
from tenantry.fleet.tenants.limits import NAMES, limits_of
from tenantry.fleet.tenants.names import project_name

NAME = "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    what: str
    """``name``, or a field of ``Limits``."""
    wanted: object
    found: object
    """None: there is none, or the provider does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """A tenant and what is not as it should be."""

    tenant: Tenant
    differences: tuple[Difference, ...]


def differences(tenant: Tenant, plan: Plan, listed: ListedProject, features: Collection[Feature]) -> list[Difference]:
    """Between the catalog and what the provider's list says of the tenant's project."""
    wanted, called = project_name(tenant), listed.project.name
    # A provider that keeps no names has the uuid alone.
    named = called in (wanted, f"[{tenant.id}]")
    renamed = [] if named else [Difference(what=NAME, wanted=wanted, found=called)]
    return [*renamed, *of_limits(limits_of(plan, features), listed.limits, unsaid=True)]


def of_limits(wanted: Limits, found: Limits, *, unsaid: bool) -> list[Difference]:
    """``unsaid``: what the provider does not say of size, sleep and history differs too."""
    differ: list[Difference] = []
    for name in NAMES:
        want, have = getattr(wanted, name), getattr(found, name)
        if want is None:
            continue
        if name.startswith("quota_"):
            if (want or None) != (have or None):
                differ.append(Difference(what=name, wanted=want or None, found=have or None))
        elif want != have and (unsaid or have is not None):
            differ.append(Difference(what=name, wanted=want, found=have))
    return differ


def shortens_history(differ: Iterable[Difference]) -> bool:
    """Whether mending it makes some history go for ever."""
    return any(
        each.what == "history_seconds"
        and isinstance(each.wanted, int)
        and isinstance(each.found, int)
        and each.wanted < each.found
        for each in differ
    )
