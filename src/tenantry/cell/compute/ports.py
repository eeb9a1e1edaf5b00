"""What instances need of the rest of the cell, said by themselves: rows to start from, and where things lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import LiteralString, Protocol

from tenantry.cell.compute.truth import Truth
from tenantry.cell.consumption import Reading
from tenantry.cell.model import Branch, Endpoint, Head, Project
from tenantry.neon.ids import BranchId, EndpointId, HeadId, ProjectId


@dataclass(frozen=True, slots=True)
class Facts:
    """The rows that a start needs, read at each start."""

    project: Project
    branch: Branch
    head: Head
    endpoint: Endpoint

    @property
    def deleted(self) -> bool:
        """Whether it is gone for everyone, and only its files are kept for a while."""
        return self.project.deleted_at is not None or self.branch.deleted_at is not None


@dataclass(frozen=True, slots=True)
class Measured:
    """What a head's files say; None is unknown, or as before."""

    mark: object = None
    """Stands for what was written until then."""
    log_end: int | None = None
    logical_bytes: int | None = None
    history_bytes: int | None = None


class Records(Protocol):
    """The cell's memory. ``facts`` reads; the others are never on the connect path."""

    async def facts(self, endpoint_id: EndpointId) -> Facts | None:
        """None when the endpoint, or anything that it stands on, is gone or deleted."""
        ...

    async def all_facts(self) -> list[Facts]:
        """Deleted ones too."""
        ...

    async def note_sleep(
        self,
        endpoint_id: EndpointId,
        *,
        at: datetime,
        started: datetime | None,
        last_active: datetime | None,
        reading: Reading | None,
    ) -> None:
        """The endpoint sleeps since ``at``, and its last reading; one that is gone meanwhile is passed over."""
        ...

    async def store_truth(self, branch_id: BranchId, truth: Truth) -> None:
        """Makes the copy of roles and databases equal to the truth; writes only what differs."""
        ...

    async def note_readings(self, readings: Sequence[Reading]) -> None:
        """Adds what the readings before lacked, in one transaction."""
        ...


class Paths(Protocol):
    def head_data(self, project_id: ProjectId, head_id: HeadId) -> Path: ...

    def socket_dir(self, endpoint_id: EndpointId) -> Path: ...

    def log(self, endpoint_id: EndpointId) -> Path: ...


class History(Protocol):
    """What keeps the past of heads, told of the moments that matter to it."""

    def guarded(self, data: Path) -> bool:
        """Whether the data directory has its guard: without it Postgres may drop log that is not kept yet."""
        ...

    @property
    def guard(self) -> Sequence[LiteralString]:
        """Statements that leave a running instance guarded; harmless when it is."""
        ...

    @property
    def settings(self) -> Mapping[str, str]:
        """Settings of every instance that bound the guard."""
        ...

    async def slept(self, facts: Facts) -> None:
        """The instance has stopped cleanly and cannot start before this returns."""
        ...

    def log_begin(self, data: Path) -> int | None:
        """A position that the directory's log has reached, by its files; None when they do not tell. Blocking."""
        ...

    def log_mark(self, facts: Facts) -> object:
        """While a later mark equals this one, nothing was written to the head's log; None equals none. Blocking."""
        ...

    def measure(self, facts: Facts, *, since: object, after: int | None) -> Measured:
        """Where the head's log ends, and its sizes; only a mark when it is still that of ``since``. Blocking.

        ``after`` is a record's begin or end that the log had reached since its instance runs.
        """
        ...
