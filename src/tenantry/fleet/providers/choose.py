"""Chooses the place of a new tenant inside the transaction that writes the tenant down."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.providers.placement import Refused, place


@dataclass(frozen=True, slots=True)
class Place:
    provider_id: ProviderId
    region: str | None
    """The fleet's region; where none is defined, what was asked for, in the home provider's words."""


def choose_place(connection: Connection, *, region: str | None, residency: str | None) -> Place:
    """Nobody else places there until the transaction ends, so what it writes respects the capacity.

    Raises InvalidInput and LimitReached, naming the rule that leaves no place.
    """
    rule = None if residency is None else providers.hold_residency(connection, residency)
    if residency is not None and rule is None:
        known = ", ".join(each.slug for each in providers.residencies(connection))
        raise InvalidInput(
            f"there is no residency {residency!r}",
            next_step=f"choose one of: {known}" if known else "define it: `tenantry provider residency`",
        )
    if rule is None and not providers.regions(connection):
        return Place(ProviderId(HOME_PROVIDER), region)
    servings = providers.hold_servings(connection, region=region)
    if rule is None and region is None and not servings:
        return Place(ProviderId(HOME_PROVIDER), None)  # regions are defined, and nobody serves one (any more)
    if region is not None and not servings:
        # Nothing is held, and what there is makes the better refusal.
        servings = providers.servings(connection)
    chosen = place(servings, region=region, residency=rule)
    if isinstance(chosen, Refused):
        raise chosen.error()
    return Place(chosen.provider_id, chosen.region)
