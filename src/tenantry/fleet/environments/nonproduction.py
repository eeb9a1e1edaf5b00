"""The fleet's non-production project: made when it is first needed, and found again by its name.

Its main branch holds the test data; what developers and tests use are branches of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tenantry.errors import OperatorError
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.neon.ids import ProjectId
from tenantry.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

NONPRODUCTION_PROJECT: Final = "tenantry-nonprod"
"""No tenant's project can have this name: theirs end with a uuid in brackets."""


def find_nonproduction(client: NeonClient) -> ProjectId | None:
    """The one project that has the name. Raises OperatorError when several have."""
    found = [project.id for project in client.projects(search=NONPRODUCTION_PROJECT) if _is_it(project.name)]
    if len(found) > 1:
        raise OperatorError(
            f"{len(found)} projects are named {NONPRODUCTION_PROJECT}: {', '.join(found)}",
            next_step="rename those that do not hold the test data",
        )
    return ProjectId(found[0]) if found else None


def prepare_nonproduction(catalog: Catalog, client: NeonClient) -> ProjectId:
    """The project, made if there is none. Of several that call this at once one makes it."""
    if (known := find_nonproduction(client)) is not None:
        return known
    with catalog.transaction() as connection:
        queries.hold_name(connection, NONPRODUCTION_PROJECT)
        if (known := find_nonproduction(client)) is not None:
            return known
        made = client.create_project(name=NONPRODUCTION_PROJECT).project
        failpoint("nonproduction.created")
    return ProjectId(made.id)


def _is_it(name: str) -> bool:
    # The API's search also finds parts of names, and ids.
    return name == NONPRODUCTION_PROJECT
