"""What instances need of the rest of the cell, said by themselves: rows to start from, and where things lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import LiteralString, Protocol

from tenantry.cell.compute.truth import Truth
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


class Records(Protocol):
    """The cell's memory. ``facts`` reads; the others are never on the connect path."""

    async def facts(self, endpoint_id: EndpointId) -> Facts | None:
        """None when the endpoint, or anything that it stands on, is gone or deleted."""
        ...

    async def all_facts(self) -> list[Facts]:
        """Deleted ones too."""
        ...

    async def note_sleep(
        self, endpoint_id: EndpointId, *, at: datetime, started: datetime | None, last_active: datetime | None
    ) -> None:
        """The endpoint sleeps since ``at``; one that is gone meanwhile is passed over."""
        ...

    async def store_truth(self, branch_id: BranchId, truth: Truth) -> None:
        """Makes the copy of roles and databases equal to the truth; writes only what differs."""
        ...

    async def add_time(self, endpoint_id: EndpointId, *, active_seconds: float, compute_seconds: float) -> None: ...


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
