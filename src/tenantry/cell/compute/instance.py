"""What the cell knows of one endpoint's process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from tenantry.cell.compute.admin import AdminConnection
from tenantry.cell.compute.ports import Facts
from tenantry.cell.consumption import Reading
from tenantry.neon.ids import EndpointId
from tenantry.postgres.postmaster import Postmaster
from tenantry.runtime.clock import Clock

OPERATION: Final = "operation"
"""Holds the leases of the cell's own work."""
OPERATORS: Final = "/operator"
"""Ends the ids of leases that an operator's own work holds."""

Status = Literal["asleep", "starting", "awake", "stopping", "gone"]


@dataclass(slots=True)
class Instance:
    """Changed only on the event loop."""

    endpoint_id: EndpointId
    status: Status = "asleep"
    running: Postmaster | None = None
    facts: Facts | None = None
    leases: dict[str, str] = field(default_factory=dict[str, str])
    """Lease id to holder (a worker's name, ``adopted``, an operation)."""
    idle_since: float = 0.0
    started_at: datetime | None = None
    last_active: datetime | None = None
    ready_at: float = 0.0
    """When it took connections, by the monotonic clock; before this control process, if it was adopted."""
    cu: float = 0.0
    """The size that it was started with."""
    log_begin: int | None = None
    """A position that its log had reached when it was started or adopted."""
    log_end: int | None = None
    """Where it ended when it was last looked at."""
    measured: object = None
    """The mark of the last look at its files."""
    reads_only: bool | None = None
    """Whether transactions read only unless they say otherwise; None is unknown."""
    stale: bool = True
    """The copy of roles and databases may be behind the instance."""
    copied_at: object = None
    """The mark of its log when the copy was made; while that is the same, so are roles and databases."""
    deaths: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    starting: asyncio.Task[None] | None = None
    refresh_next: asyncio.Task[None] | None = None
    """The look at its roles and databases that has not begun yet."""
    admin: AdminConnection | None = None
    admin_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One at a time: closing a connection under a query that waits on it would leave that waiting for ever.

    Its process is stopped under it, so that what a head has said is stored before another can take its place."""

    @property
    def at_work(self) -> bool:
        """Whether an operator, or an operation of the cell's own, keeps it awake."""
        return any(lease.endswith(OPERATORS) or holder == OPERATION for lease, holder in self.leases.items())

    def reading(self, clock: Clock) -> Reading | None:
        """What its process has used of time up to now, if one runs or has just ended; its files are not looked at."""
        if self.facts is None or self.running is None:
            return None
        return Reading(
            endpoint_id=self.endpoint_id,
            branch_id=self.facts.branch.id,
            project_id=self.facts.project.id,
            head_id=self.facts.head.id,
            at=clock.now(),
            pid=self.running.identity.pid,
            start_ticks=self.running.identity.start_ticks,
            seconds=clock.monotonic() - self.ready_at,
            cu=self.cu,
            log_begin=self.log_begin,
        )


@dataclass(frozen=True, slots=True)
class Lease:
    id: str
    socket_path: str
