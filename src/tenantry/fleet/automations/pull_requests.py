"""What a pull request is told of its branch: one comment, found again by its first line and changed when that changes.

It says how the branch is used by those who may use it. No connection string is in it: whoever sees a pull request
would have the password.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from tenantry.fleet.automations.github_api import Github

Done = Literal["written", "changed", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchNote:
    """A branch as its pull request is told of it."""

    name: str
    owner: str
    """Whose branch it is, as a sentence has it: the non-production project."""
    parent: str | None
    expires_at: datetime | None
    anonymized: bool
    commands: Sequence[tuple[str, str]]
    """What to do, and the command line that does it."""


def marker(name: str) -> str:
    """The first line, which nobody sees."""
    return f"<!-- tenantry branch {name} -->"


def note_of(branch: BranchNote, *, commit: str | None) -> str:
    """Pure."""
    data = "its data, without what is personal" if branch.anonymized else "its data"
    lines = [
        marker(branch.name),
        f"This pull request has a database of its own: branch `{branch.name}` of {branch.owner}, with the schema of "
        f"`{branch.parent or 'its parent'}` and {data}"
        f"{f', as of commit `{commit[:12]}`' if commit else ''}.",
        "",
        "| to | say |",
        "|---|---|",
        *(f"| {what} | `{command}` |" for what, command in branch.commands),
        "",
        "It begins anew with each push, and goes when the pull request is closed"
        f"{f' or at {_shown(branch.expires_at)}' if branch.expires_at else ''}.",
    ]
    return "\n".join(lines)


def gone_note(name: str) -> str:
    """Pure."""
    return f"{marker(name)}\nThe database of this pull request, branch `{name}`, is gone with all that was in it."


def say(github: Github, number: int, name: str, body: str, *, only_if_there: bool = False) -> Done:
    """Writes the comment, or changes the one that is there. Safe to repeat."""
    first = marker(name)
    known = next((comment for comment in github.comments(number) if comment.body.startswith(first)), None)
    if known is None:
        if only_if_there:
            return "same"
        github.write_comment(number, body)
        return "written"
    if known.body.replace("\r\n", "\n").rstrip() == body.rstrip():
        return "same"
    github.change_comment(known.id, body)
    return "changed"


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
