"""The fleet's golden project: an empty database on which each run of migrations is tried before any tenant's."""

from __future__ import annotations

from typing import Final

from tenantry.errors import OperatorError
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.runtime.failpoints import failpoint

GOLDEN_PROJECT: Final = "tenantry-golden"
"""No tenant's project can have this name: theirs end with a uuid in brackets."""


def golden_url(catalog: Catalog, client: NeonClient) -> str:
    """A URI with its password, as the database's owner; the project is made if there is none. Wakes nobody."""
    provider = NeonProvider(client)
    project_id = _find(client) or _make(catalog, client)
    return provider.operator_uri(project_id, provider.home(project_id))


def _find(client: NeonClient) -> ProjectId | None:
    # The API's search also finds parts of names, and ids.
    found = [project.id for project in client.projects(search=GOLDEN_PROJECT) if project.name == GOLDEN_PROJECT]
    if len(found) > 1:
        raise OperatorError(
            f"{len(found)} projects are named {GOLDEN_PROJECT}: {', '.join(found)}",
            next_step="delete all of them but one: nothing in them is needed",
        )
    return ProjectId(found[0]) if found else None


def _make(catalog: Catalog, client: NeonClient) -> ProjectId:
    """Of several that call this at once one makes it."""
    with catalog.transaction() as connection:
        queries.hold_name(connection, GOLDEN_PROJECT)
        if (known := _find(client)) is not None:
            return known
        made = client.create_project(name=GOLDEN_PROJECT).project
        failpoint("golden.created")
    return ProjectId(made.id)
