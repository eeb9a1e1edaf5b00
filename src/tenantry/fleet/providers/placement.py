"""Where a new tenant goes: among the providers that serve its region and fit its residency, the one with most room.

Pure: what the catalog says in, a choice or a refusal that names the rule out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tenantry.errors import InvalidInput, LimitReached, TenantryError
from tenantry.fleet.catalog.records import Residency, Serving

Rule = Literal["region", "residency", "closed", "capacity"]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nowhere is a place: the rule that says so, a sentence, and what could be done."""

    rule: Rule
    reason: str
    next_step: str

    def error(self) -> TenantryError:
        """Room can become free by itself; the others need another wish or another rule."""
        kind = LimitReached if self.rule == "capacity" else InvalidInput
        return kind(self.reason, next_step=self.next_step, rule=self.rule)


def fits(residency: Residency, region: str) -> bool:
    """Whether data that must stay in ``residency`` may be in the region."""
    return any(_pattern(each).fullmatch(region) for each in residency.region_patterns)


def place(servings: Sequence[Serving], *, region: str | None, residency: Residency | None) -> Serving | Refused:
    """The place of a tenant that wants ``region`` (None: any), or the first rule that leaves none.

    ``servings`` are all there are, or all of the region. Of several with room the one with most free places wins;
    where nothing is limited, the one with the fewest projects; of equals always the same.
    """
    here = [each for each in servings if region in (None, each.region)]
    if not here:
        where = "any region" if region is None else f"region {region}"
        return Refused("region", f"no provider serves {where}", _choose(each.region for each in servings))
    if residency is not None and region is not None and not fits(residency, region):
        return Refused(
            "residency",
            f"residency {residency.slug} keeps data in {_patterns(residency)}, and region {region} is not there",
            "choose another region, or see `tenantry provider list` for where that is",
        )
    allowed = [each for each in here if residency is None or fits(residency, each.region)]
    if not allowed:
        assert residency is not None
        return Refused(
            "residency",
            f"residency {residency.slug} keeps data in {_patterns(residency)}, and no provider serves a region there",
            "add one: `tenantry provider region PROVIDER REGION`",
        )
    opened = [each for each in allowed if each.accepts_new]
    if not opened:
        names = ", ".join(sorted({each.provider for each in allowed}))
        return Refused(
            "closed", f"{_where(region, residency)} takes no new tenants ({names})", "open it again with --open"
        )
    roomy = [each for each in opened if each.projects_max is None or each.projects < each.projects_max]
    if not roomy:
        full = ", ".join(f"{each.provider} has {each.projects} of {each.projects_max}" for each in opened)
        return Refused(
            "capacity", f"{_where(region, residency)} is full: {full}", "raise --max, or add another provider"
        )
    return min(roomy, key=_preference)


def _preference(each: Serving) -> tuple[float, int, str, str]:
    free = float("inf") if each.projects_max is None else each.projects_max - each.projects
    return -free, each.projects, each.provider, each.region


def _where(region: str | None, residency: Residency | None) -> str:
    if region is not None:
        return f"region {region}"
    return "every region" if residency is None else f"every region of residency {residency.slug}"


def _choose(regions: Iterable[str]) -> str:
    known = sorted(set(regions))
    if not known:
        return "define one: `tenantry provider region PROVIDER REGION`"
    return f"choose one of: {', '.join(known)}"


def _patterns(residency: Residency) -> str:
    return ", ".join(residency.region_patterns)


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in text.split("*")))
