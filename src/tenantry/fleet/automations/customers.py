"""What a customer is called outside of the fleet: its folder, and the variable that holds its connection string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tenantry.errors import Conflict
from tenantry.fleet.catalog.records import Tenant

SUFFIX: Final = "_DATABASE_URL"
_PREFIX: Final = "CUSTOMER_"
"""Before names that may not begin a secret's: GitHub refuses digits and its own name."""


@dataclass(frozen=True, slots=True)
class Customer:
    slug: str
    variable: str
    """For instance ACME_CORP_DATABASE_URL, as the environment, GitHub's secrets and Drizzle's configuration have it."""


def variable_of(slug: str) -> str:
    """Pure; the same slug has always the same variable."""
    name = slug.replace("-", "_").upper()
    if name[0].isdigit() or name.startswith("GITHUB_"):
        name = _PREFIX + name
    return name + SUFFIX


def customers_of(tenants: Iterable[Tenant]) -> Sequence[Customer]:
    """Those that have a database and keep it, in the order of their slugs. Raises Conflict for two of one variable."""
    slugs = sorted(tenant.slug for tenant in tenants if tenant.state == "ready")
    customers = [Customer(slug, variable_of(slug)) for slug in slugs]
    seen: dict[str, str] = {}
    for each in customers:
        if (other := seen.setdefault(each.variable, each.slug)) != each.slug:
            raise Conflict(
                f"{other} and {each.slug} would both have the variable {each.variable}",
                next_step=f'rename one of them with `tenantry rename {each.slug} "..." --slug ...`',
            )
    return customers
