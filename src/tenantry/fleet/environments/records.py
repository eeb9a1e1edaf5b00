"""What the verbs work on and answer with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

from tenantry.errors import InvalidInput, NotFound
from tenantry.neon.ids import BranchId, EndpointId, ProjectId

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

ANONYMIZED: Final = "tenantry-anonymized"
"""The annotation of a branch whose personal data is masked."""


class Note(Protocol):
    def __call__(self, verb: str, **detail: object) -> None: ...


def unheard(verb: str, **detail: object) -> None:
    """Where nobody keeps a log."""
    del verb, detail


@dataclass(frozen=True, slots=True)
class Place:
    """A project whose branches are meant."""

    client: NeonClient
    project_id: ProjectId
    tenant: str | None = None
    """The slug of the tenant whose project it is; None for the non-production project."""
    branches_max: int | None = None
    """What the tenant's plan allows, its default branch included; None: no limit of a plan."""
    note: Note = unheard
    """Told what was done, for the log of events."""

    @property
    def owner(self) -> str:
        """Whose branches these are, for sentences."""
        return f"tenant {self.tenant}" if self.tenant else "the non-production project"

    def command(self, verb: str, name: str | None = None) -> str:
        """A command line for a next step."""
        words = [
            "tenantry",
            "branch",
            verb,
            *([name] if name else []),
            *(["--tenant", self.tenant] if self.tenant else []),
        ]
        return f"`{shlex.join(words)}`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    id: BranchId
    name: str
    parent: str | None
    """The parent's name."""
    default: bool
    protected: bool
    state: str
    created_at: datetime
    expires_at: datetime | None
    parent_lsn: str | None
    """Where in its parent's history it began."""
    parent_timestamp: datetime | None
    size_bytes: int | None
    endpoint_id: EndpointId | None
    """Its read-write endpoint; None for a branch that nobody can connect to."""
    host: str | None
    awake: bool


def named(branches: Iterable[Branch], name: str) -> Branch | None:
    """The branch of this name, or else of this id. Pure."""
    known = list(branches)
    return next((b for b in known if b.name == name), None) or next((b for b in known if b.id == name), None)


def the_branch(place: Place, branches: Sequence[Branch], name: str) -> Branch:
    """Raises NotFound naming where it was looked for, InvalidInput for an empty name."""
    if not name:
        raise InvalidInput("the branch's name is empty")
    found = named(branches, name)
    if found is None:
        raise NotFound(f"{place.owner} has no branch {name!r}", next_step=f"see {place.command('list')}", branch=name)
    return found
