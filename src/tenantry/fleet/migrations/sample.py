"""Whom to rehearse with: the largest tenants, the oldest, and some at random, of those that a plan would change."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, Literal, cast, get_args

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderId, Tenant
from tenantry.fleet.migrations.plan import Plan
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.providers.ports import Provider
from tenantry.neon.ids import ProjectId

Choice = Literal["largest", "oldest", "random"]
SAMPLE_DEFAULT: Final = "largest:1,oldest:1,random:1"
SAMPLE_MAX: Final = 100
"""Branches of one rehearsal."""
PAGE_MAX: Final = 400
AT_ONCE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    slug: TenantSlug
    created_at: datetime
    size_bytes: int | None
    """Of its project, as its provider says; None where it does not."""


def parse_sample(text: str) -> dict[Choice, int]:
    """``largest:2,oldest:1,random:3``. Raises InvalidInput."""
    wanted: dict[Choice, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().partition(":")
        if name not in get_args(Choice) or not (number or "1").isascii() or not (number or "1").isdigit():
            raise InvalidInput(f"{part!r} is no sample", next_step=f"for instance {SAMPLE_DEFAULT}")
        wanted[cast(Choice, name)] = wanted.get(cast(Choice, name), 0) + int(number or "1")
    if not 1 <= sum(wanted.values()) <= SAMPLE_MAX:
        raise InvalidInput(f"{text!r} is no sample of 1 to {SAMPLE_MAX} tenants", next_step=f"as {SAMPLE_DEFAULT}")
    return wanted


def take(candidates: Sequence[Candidate], wanted: Mapping[Choice, int], seed: int) -> list[TenantSlug]:
    """Each candidate at most once; fewer where there are fewer. Pure: the same seed chooses the same."""
    chosen: dict[TenantSlug, None] = {}

    def add(ordered: Sequence[Candidate], number: int) -> None:
        for each in [each for each in ordered if each.slug not in chosen][:number]:
            chosen[each.slug] = None

    add(sorted(candidates, key=lambda each: (-(each.size_bytes or 0), each.slug)), wanted.get("largest", 0))
    add(sorted(candidates, key=lambda each: (each.created_at, each.slug)), wanted.get("oldest", 0))
    shuffled = sorted(candidates, key=lambda each: each.slug)
    random.Random(seed).shuffle(shuffled)  # noqa: S311 - nobody gains by guessing it
    add(shuffled, wanted.get("random", 0))
    return list(chosen)


def choose(
    catalog: Catalog,
    provider: Callable[[ProviderId], Provider],
    plan: Plan,
    *,
    sample: str | None,
    seed: int,
) -> list[tuple[TenantSlug, tuple[str, ...]]]:
    """Whom to rehearse a plan with, and what each lacks: a sample of those that are behind, or all of them.

    Raises InvalidInput for more than a rehearsal can have. Wakes nobody.
    """
    pending = {each.tenant.slug: each.pending for each in plan.to_visit if each.pending}
    if sample is None:
        if len(pending) > SAMPLE_MAX:
            raise InvalidInput(f"{len(pending)} tenants are more than {SAMPLE_MAX}", next_step="choose with --sample")
        return list(pending.items())
    wanted = parse_sample(sample)
    slugs, tenants = iter(pending), list[Tenant]()
    while some := list(islice(slugs, AT_ONCE)):
        with catalog.transaction() as connection:
            tenants += queries.tenants_called(connection, some)
    providers = {each: provider(each) for each in {tenant.provider_id for tenant in tenants}}
    return [(slug, pending[slug]) for slug in take(candidates_of(tenants, providers), wanted, seed)]


def candidates_of(tenants: Sequence[Tenant], providers: Mapping[ProviderId, Provider]) -> list[Candidate]:
    """Those whose provider has branches, with their sizes: one list of each provider, and nobody is woken."""
    sizes: dict[tuple[ProviderId, str], int] = {}
    for provider_id, provider in providers.items():
        if "branches" in provider.features:
            for item in provider.api("branches").projects(limit=PAGE_MAX):
                sizes[provider_id, item.id] = item.synthetic_storage_size or 0
    return [
        Candidate(
            slug=TenantSlug(tenant.slug),
            created_at=tenant.created_at,
            size_bytes=sizes.get((tenant.provider_id, tenant.project_id or ProjectId(""))),
        )
        for tenant in tenants
        if "branches" in providers[tenant.provider_id].features
    ]
