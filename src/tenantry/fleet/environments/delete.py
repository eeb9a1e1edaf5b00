"""Delete a branch with its endpoint and its data, having shown what goes."""

from __future__ import annotations

from tenantry.errors import Conflict
from tenantry.fleet.environments.list import list_branches
from tenantry.fleet.environments.records import Branch, Place, the_branch


def plan_branch_deletion(place: Place, name: str) -> Branch:
    """The branch that would go. Raises NotFound, and Conflict for one that cannot be deleted."""
    branches = list_branches(place)
    branch = the_branch(place, branches, name)
    if branch.default:
        raise Conflict(f"{branch.name} is the default branch", next_step="a project cannot be without one")
    if branch.protected:
        raise Conflict(f"branch {branch.name!r} is protected", next_step="take its protection away first")
    children = [child.name for child in branches if child.parent == branch.name]
    if children:
        raise Conflict(
            f"branch {branch.name!r} has children: {', '.join(children[:10])}",
            next_step=f"delete them first: {place.command('delete', children[0])}",
        )
    return branch


def delete_branch(place: Place, branch: Branch) -> bool:
    """False when it was gone already. Raises Conflict when something forbids it since it was planned."""
    changed = place.client.delete_branch(place.project_id, branch.id)
    if changed is None:
        return False
    place.client.wait_for_operations(place.project_id, changed.operations)
    place.note("delete branch", branch=branch.name)
    return True
