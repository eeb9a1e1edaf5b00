"""From a plan to what its provider is to hold a tenant to. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Final

from tenantry.fleet.catalog.records import Plan
from tenantry.fleet.providers.ports import LIMIT_FEATURES, Feature, Limits

NAMES: Final = tuple(field.name for field in fields(Limits))


def limits_of(plan: Plan, features: Collection[Feature]) -> Limits:
    """What the plan says, as far as the provider can hold anybody to it.

    A quota that the plan does not say is no limit, also where there was one; so is its sleep the provider's default. A
    size or a history that it does not say is left as it is.
    """
    wanted = Limits(
        cu_min=None if plan.cu_min is None else float(plan.cu_min),
        cu_max=None if plan.cu_max is None else float(plan.cu_max),
        suspend_seconds=plan.suspend_seconds or 0,
        history_seconds=plan.history_seconds,
        quota_active_seconds=plan.quota_active_seconds or 0,
        quota_compute_seconds=plan.quota_compute_seconds or 0,
        quota_written_bytes=plan.quota_written_bytes or 0,
        quota_sent_bytes=plan.quota_sent_bytes or 0,
        quota_logical_bytes=plan.quota_logical_bytes or 0,
    )
    return replace(wanted, **{name: None for name in NAMES if LIMIT_FEATURES[name] not in features})
