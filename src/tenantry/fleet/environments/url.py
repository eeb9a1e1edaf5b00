"""Say how to connect to a branch."""

from __future__ import annotations

from tenantry.errors import NotFound
from tenantry.fleet.environments.create import complete
from tenantry.fleet.environments.list import list_branches
from tenantry.fleet.environments.records import Place, the_branch


def branch_url(place: Place, name: str, *, pooled: bool = False) -> str:
    """A libpq URI with its password, a secret, as the owner of the branch's first database. Wakes nobody.

    A branch without an endpoint, as a restore leaves one, gets one. Raises NotFound.
    """
    branch = the_branch(place, list_branches(place), name)
    complete(place, branch)
    databases = place.client.list_databases(place.project_id, branch.id)
    if not databases:
        raise NotFound(f"branch {branch.name!r} has no database", branch=branch.name)
    first = min(databases, key=lambda database: (database.created_at, database.id))
    return place.client.connection_uri(
        place.project_id, branch_id=branch.id, database_name=first.name, role_name=first.owner_name, pooled=pooled
    )
