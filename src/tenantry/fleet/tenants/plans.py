"""The plans that tenants are on: listed, made, changed and removed. What tenants get follows by ``mend``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.catalog import events, plans
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Plan
from tenantry.fleet.tenants.create import DEFAULT_PLAN
from tenantry.fleet.tenants.plan_settings import check_limits, written

_SLUG: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_PROJECTS_MAX_DEFAULT: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class PlanShown:
    plan: Plan
    tenants: int
    """On this plan and not deleted; leaving ones are counted."""


def list_plans(catalog: Catalog) -> list[PlanShown]:
    """The smallest first."""
    with catalog.transaction() as connection:
        counts = plans.tenants_of_plans(connection)
        return [PlanShown(plan, counts.get(plan.slug, 0)) for plan in plans.plans(connection)]


def show_plan(catalog: Catalog, slug: str) -> PlanShown:
    """Raises NotFound."""
    found = next((each for each in list_plans(catalog) if each.plan.slug == slug), None)
    if found is None:
        raise _none_of(slug)
    return found


def add_plan(catalog: Catalog, slug: str, said: Mapping[str, object]) -> Plan:
    """Raises Conflict for one that is there, InvalidInput."""
    if not _SLUG.fullmatch(slug) or len(slug) > 48:
        raise InvalidInput(f"{slug!r} cannot name a plan", next_step="a-z, 0-9 and single dashes between them")
    check_limits(said)
    defaults = {"name": slug.title(), "price_usd_monthly": Decimal(0), "projects_max": _PROJECTS_MAX_DEFAULT}
    with catalog.transaction() as connection:
        if not plans.add_plan(connection, slug, defaults | dict(said)):
            raise Conflict(f"there is a plan {slug} already", next_step=f"change it with `tenantry plan edit {slug}`")
        plan = plans.plan_by_slug(connection, slug)
        assert plan is not None, "the plan just written is there"
        events.record(connection, "add plan", plan=slug, said=_written(said))
    return plan


def edit_plan(catalog: Catalog, slug: str, said: Mapping[str, object]) -> tuple[Plan, Plan]:
    """As it was, and as it is. Raises NotFound, InvalidInput."""
    with catalog.transaction() as connection:
        was = plans.plan_by_slug(connection, slug, held=True)
        if was is None:
            raise _none_of(slug)
        check_limits({**dataclasses.asdict(was), **said})
        changed = {key: value for key, value in said.items() if getattr(was, key) != value}
        if changed:
            plans.change_plan(connection, slug, changed)
            events.record(connection, "edit plan", plan=slug, said=_written(changed))
        plan = plans.plan_by_slug(connection, slug)
        assert plan is not None, "it is held"
    return was, plan


def remove_plan(catalog: Catalog, slug: str) -> None:
    """Raises NotFound, Conflict for one that somebody has or had: what was paid for is not forgotten."""
    with catalog.transaction() as connection:
        if plans.plan_by_slug(connection, slug, held=True) is None:
            raise _none_of(slug)
        if slug == DEFAULT_PLAN:
            raise Conflict(f"{slug} is what tenants get that say no plan", next_step="change it instead")
        if plans.was_used(connection, slug):
            raise Conflict(f"tenants are or were on plan {slug}", next_step="leave it, and give it to nobody any more")
        plans.drop_plan(connection, slug)
        events.record(connection, "remove plan", plan=slug)


def _none_of(slug: str) -> NotFound:
    return NotFound(f"there is no plan {slug!r}", next_step="see `tenantry plan list`", plan=slug)


def _written(said: Mapping[str, object]) -> dict[str, str]:
    return {key: written(key, value) for key, value in said.items()}
