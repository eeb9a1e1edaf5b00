"""Removes a project that no tenant has, having looked once more that this is so."""

from __future__ import annotations

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.catalog import events, providers
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.health.orphans import Stray
from tenantry.fleet.health.projects import look
from tenantry.fleet.providers.open import Providers


def find_stray(catalog: Catalog, opened: Providers, place: str) -> Stray:
    """``place`` is PROVIDER/PROJECT. Lists all of the provider's projects.

    Raises NotFound for one that is not there, and Conflict for one that a tenant has or that is not the fleet's.
    """
    name, slash, project_id = place.partition("/")
    if not slash or not name or not project_id:
        raise InvalidInput(f"{place!r} is not PROVIDER/PROJECT", next_step="as `tenantry doctor` says it")
    with catalog.transaction() as connection:
        record = providers.provider_by_name(connection, name)
    if record is None:
        raise NotFound(f"there is no provider {name}", next_step="see `tenantry provider list`")
    listed, compared = look(catalog, record, opened.opened(record), everything=True)
    stray = next((each for each in compared.strays if each.project.id == project_id), None)
    if stray is None:
        if any(each.id == project_id for each in listed.projects):
            raise Conflict(f"project {project_id} is not removed: a tenant has it, or the fleet itself")
        raise NotFound(f"provider {name} has no project {project_id}")
    if stray.why == "no mark":
        raise Conflict(
            f"project {project_id} ({stray.project.name}) is not removed: it is not named as a fleet's projects are",
            next_step="delete it where it was made, if nobody needs it",
        )
    return stray


def remove_stray(catalog: Catalog, opened: Providers, place: str) -> Stray:
    """Deletes what ``find_stray`` finds; where the provider can, it can be recovered there. Raises the same."""
    stray = find_stray(catalog, opened, place)
    name, _, project_id = place.partition("/")
    with catalog.transaction() as connection:
        record = providers.provider_by_name(connection, name)
        assert record is not None, "it was listed just now"
        events.record(connection, "remove_project", provider=name, project_id=project_id, name=stray.project.name)
    opened.opened(record).delete_project(stray.project.id)
    return stray
