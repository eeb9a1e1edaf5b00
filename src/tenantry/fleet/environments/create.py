"""Create a branch with an endpoint. Creating twice with one name is the same branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tenantry.errors import Conflict, InvalidInput
from tenantry.fleet.environments.list import list_branches
from tenantry.fleet.environments.records import Branch, Place, named, the_branch


@dataclass(frozen=True, slots=True)
class CreatedBranch:
    branch: Branch
    new: bool
    """False when a branch of this name was there before."""


def create_branch(
    place: Place,
    name: str,
    *,
    parent: str | None = None,
    at: datetime | None = None,
    lsn: str | None = None,
    expires_at: datetime | None = None,
    branches_max: int | None = None,
) -> CreatedBranch:
    """A branch of ``parent`` (by default the default branch) as it is now, or as it was at a time or position.

    One that is there already gets what it lacks: an endpoint, and the new ``expires_at``. Raises Conflict when it is
    of another parent or past, or the place is full, InvalidInput for a point outside of the history, NotFound for the
    parent.
    """
    if not name:
        raise InvalidInput("the branch's name is empty")
    if at is not None and lsn is not None:
        raise InvalidInput("a time and a position were given", next_step="give one of them")
    branches = list_branches(place)
    origin = None if parent is None else the_branch(place, branches, parent)
    known = named(branches, name)
    if known is None:
        check_room(place, branches, branches_max)
        try:
            made = place.client.create_branch(
                place.project_id,
                name=name,
                parent_id=None if origin is None else origin.id,
                parent_timestamp=at,
                parent_lsn=lsn,
                expires_at=expires_at,
            )
        except Conflict:
            # Somebody else may have been quicker; if so, theirs is the one.
            known = named(list_branches(place), name)
            if known is None:
                raise
        else:
            place.client.wait_for_operations(place.project_id, made.operations)
            place.note("create branch", branch=name, parent=None if origin is None else origin.name)
            return CreatedBranch(the_branch(place, list_branches(place), made.branch.id), new=True)
    if (reason := disagreement(known, parent=origin, at=at, lsn=lsn)) is not None:
        raise Conflict(
            reason,
            next_step=f"choose another name, or begin anew after {place.command('delete', known.name)}",
            branch=known.name,
        )
    complete(place, known, expires_at=expires_at)
    return CreatedBranch(the_branch(place, list_branches(place), known.id), new=False)


def check_room(place: Place, branches: Sequence[Branch], branches_max: int | None) -> None:
    """Raises Conflict when there are as many branches as there may be. Two at once may both find the last place."""
    limits = [limit for limit in (branches_max, place.branches_max) if limit is not None]
    if not limits or len(branches) < min(limits):
        return
    oldest = [branch.name for branch in branches if not branch.default and not branch.protected][:3]
    raise Conflict(
        f"{place.owner} has {len(branches)} branches, and may have {min(limits)}",
        next_step=f"delete one with {place.command('delete', oldest[0] if oldest else None)}, let branches expire with "
        "--expires, or raise the limit",
        oldest=oldest,
    )


def disagreement(known: Branch, *, parent: Branch | None, at: datetime | None, lsn: str | None) -> str | None:
    """Why the branch that is there is not the one that is wanted; None when it is. Pure."""
    if parent is not None and known.parent != parent.name:
        return f"branch {known.name!r} exists with {known.parent or 'no branch'} as its parent, not {parent.name}"
    if (at is not None and known.parent_timestamp != at) or (lsn is not None and known.parent_lsn != lsn.upper()):
        return f"branch {known.name!r} exists, and began at another point of its parent's history"
    return None


def complete(place: Place, branch: Branch, *, expires_at: datetime | None = None) -> bool:
    """Gives a branch an endpoint if it has none (True then), and sets when it expires if that is said."""
    if expires_at is not None:
        changed = place.client.update_branch(place.project_id, branch.id, expires_at=expires_at)
        place.client.wait_for_operations(place.project_id, changed.operations)
    if branch.endpoint_id is not None:
        return False
    made = place.client.create_endpoint(place.project_id, branch.id)
    place.client.wait_for_operations(place.project_id, made.operations)
    return True
