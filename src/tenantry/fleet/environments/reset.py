"""Reset a branch: it becomes what its parent is now. Its connection string stays, its own writes are gone."""

from __future__ import annotations

from typing import Final

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.environments.list import list_branches
from tenantry.fleet.environments.records import ANONYMIZED, Branch, Place, the_branch

RESET_SECONDS_MAX: Final = 600.0
"""How long anybody waits for it; a large branch is copied where the file system cannot share."""


def reset_branch(place: Place, name: str) -> Branch:
    """Answers when the branch is like its parent. Raises NotFound, InvalidInput, Conflict.

    A default branch is never reset: customers are served from it, and after a restore its parent is what it was
    before.
    """
    branches = list_branches(place)
    branch = the_branch(place, branches, name)
    if branch.default:
        raise InvalidInput(
            f"{branch.name} is the default branch, and is not reset",
            next_step=f"go back in time with `tenantry restore {place.tenant} --to TIME`"
            if place.tenant
            else "change its data instead",
        )
    if branch.protected:
        raise Conflict(f"branch {branch.name!r} is protected", next_step="take its protection away first")
    if place.client.branch_annotations(place.project_id, branch.id).get(ANONYMIZED):
        raise Conflict(
            f"branch {branch.name!r} is anonymized, and its parent is not",
            next_step=f"make it anew after {place.command('delete', branch.name)}, or use and reset branches of it",
        )
    parent = None if branch.parent is None else the_branch(place, branches, branch.parent)
    if parent is None:
        raise InvalidInput(f"branch {branch.name!r} has no parent to be reset to")
    changed = place.client.restore_branch(place.project_id, branch.id, source_branch_id=parent.id)
    place.client.wait_for_operations(place.project_id, changed.operations, deadline_seconds=RESET_SECONDS_MAX)
    place.note("reset branch", branch=branch.name, parent=parent.name)
    return the_branch(place, list_branches(place), branch.id)
