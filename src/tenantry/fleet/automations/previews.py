"""A preview at Vercel has the connection string of its own branch, as long as there is a preview and a branch.

Vercel knows previews by their branch of git. The variables that are set here say so in their comment, and no others are
ever changed or removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.automations.vercel_api import GIT_BRANCH_MAX, Variable, Vercel

_COMMENT: Final = re.compile(r"Set by tenantry: (.+) of (\S+), (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewBranch:
    """The branch of the database that a preview works on."""

    name: str
    place: str
    """Whose branch it is: a project's id."""
    endpoint_id: str
    """Another one where the branch was made anew: then its connection string is another one, too."""


@dataclass(frozen=True, slots=True)
class Given:
    """What became of it."""

    variables: tuple[str, ...]
    new: bool
    """False when the preview had this branch already."""
    deployed_again: bool


def give(
    vercel: Vercel, git_branch: str, branch: PreviewBranch, values: Mapping[str, str], *, redeploy: bool = True
) -> Given:
    """Sets the variables for previews of this branch of git. Safe to repeat.

    A preview that was deployed before it had them is deployed once more, since variables count from the next time on.
    Raises Conflict where somebody else has set a variable of this name for it.
    """
    if not git_branch or len(git_branch) > GIT_BRANCH_MAX:
        raise InvalidInput(f"the name of a branch of git has between 1 and {GIT_BRANCH_MAX} characters")
    comment = f"Set by tenantry: {branch.name} of {branch.place}, {branch.endpoint_id}"
    known = [each for each in vercel.variables() if each.git_branch == git_branch and each.key in values]
    for each in known:
        if _COMMENT.fullmatch(each.comment) is None:
            raise Conflict(
                f"{each.key} of previews of {git_branch} is set at Vercel by somebody else",
                next_step="remove it there, or say another variable in [vercel] of tenantry.toml",
            )
    new = {each.key for each in known if each.comment == comment} != set(values)
    for key, value in values.items():
        vercel.set_variable(key, value, git_branch, comment)
    last = vercel.last_preview(git_branch) if new and redeploy else None
    if last is not None:
        vercel.deploy_again(last)
    return Given(tuple(values), new, last is not None)


def take_away(vercel: Vercel, git_branch: str) -> list[Variable]:
    """Removes what was set for previews of this branch of git. Safe to repeat."""
    return _remove(vercel, [each for each in vercel.variables() if each.git_branch == git_branch])


def clean(vercel: Vercel, place: str, names: Collection[str]) -> list[Variable]:
    """Removes what was set for branches of this place that are there no more: deleted, or expired."""
    left: list[Variable] = []
    for each in vercel.variables():
        said = _COMMENT.fullmatch(each.comment)
        if said is not None and said.group(2) == place and said.group(1) not in names:
            left.append(each)
    return _remove(vercel, left)


def _remove(vercel: Vercel, variables: list[Variable]) -> list[Variable]:
    removed = [each for each in variables if _COMMENT.fullmatch(each.comment)]
    for each in removed:
        try:
            vercel.delete_variable(each.id)
        except NotFound:
            continue  # gone meanwhile, which is what was wanted
    return removed
