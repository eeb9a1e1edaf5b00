"""What the front door needs of the rest of the cell, said by the front door itself.

Worker processes implement :class:`Cell` by RPC over a Unix socket; tests implement it in process. Nothing else
of the cell is known here. No call of this file may write durably: connecting works while operations and the
catalog are down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NewType, Protocol

from tenantry.neon.ids import EndpointId

LeaseId = NewType("LeaseId", str)
WorkerId = NewType("WorkerId", str)
"""One worker process for certain: its slot, pid and start time. Never used again after its death."""

ADMIN_ROLE: Final = "cloud_admin"
"""The cell's own role in every instance; the door refuses its name like a wrong password."""


@dataclass(frozen=True, slots=True)
class Login:
    """What the door must know to authenticate one login.

    ``verifier`` is Postgres's own text (``SCRAM-SHA-256$4096:salt$StoredKey:ServerKey``). For an endpoint or a
    role that does not exist it is None, and the door goes on with a deterministic fake one, so that the two
    cases look and cost the same as a wrong password. ``md5`` says that the role's stored password is an md5
    hash, which the door cannot serve (it says how to reset it, after the fake exchange).
    """

    endpoint: EndpointId
    verifier: str | None
    md5: bool = False
    connections_max: int = 0
    """Client connections that the endpoint may hold at a time; 0 is the worker's own default."""
    refusal: str | None = None
    """A text shown *after* a successful authentication instead of waking (endpoint disabled, quota, ...)."""
    refusal_sqlstate: str = "57P03"
    refusal_hint: str = ""
    pooled: bool = False
    """Every client of the endpoint gets a server connection that is reused (``pooler_enabled``)."""
    operator: bool = False
    """It has shown a valid token of the cell's operator, whom no quota keeps out."""
    options: str = ""
    """Startup options that are put before the client's own."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """An awake instance and the lease that keeps it awake until :meth:`Cell.release`."""

    socket_path: str
    """Full path of the Unix socket, e.g. ``/run/tenantry/ab12/3/.s.PGSQL.5432``."""
    lease: LeaseId
    """Never given twice, by no later control process either: workers keep theirs over its restart."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes and connections of one endpoint since the last report (plaintext bytes)."""

    endpoint: EndpointId
    bytes_in: int
    bytes_out: int
    connections_opened: int
    connections_open: int


class Cell(Protocol):
    """The cell as seen by one front door worker.

    Errors raised by these calls are :class:`tenantry.errors.TenantryError`; an unreachable control process is
    ``Unavailable``.
    """

    async def login(self, endpoint: EndpointId, role: str, client_address: str, operator: str | None = None) -> Login:
        """Facts for authenticating ``role`` on ``endpoint``. Never wakes anything, never raises NotFound.

        From an address that the project does not admit no role exists. ``operator`` is the token that the client has
        shown; it is no password.
        """
        ...

    async def login_failed(self, endpoint: EndpointId, role: str, client_address: str) -> None:
        """Reports a failed login: the cell refreshes its cache once from an awake instance, rate-limited."""
        ...

    async def wake(self, endpoint: EndpointId, *, operator: bool = False) -> Upstream:
        """Starts the instance if it sleeps (one start shared by all waiters) and takes a lease.

        An operator's lease keeps it awake also where a quota would put it to sleep.

        Raises StartFailed, Unavailable or LimitReached with a client-safe text. A caller that is cancelled has
        taken no lease.
        """
        ...

    async def release(self, lease: LeaseId) -> None:
        """Gives a lease back. Unknown leases are ignored: release is safe twice."""
        ...

    async def report(self, number: int, traffic: list[Traffic]) -> None:
        """Adds to the counters of endpoints; called every few seconds and at the end of sessions.

        A worker numbers its reports from 1 on; one that comes again, because its answer was lost, is not added again.
        """
        ...


class Forwarder(Protocol):
    """Takes cancel requests to the other workers; the door's own control side implements it."""

    async def forward_cancel(self, pid: int, secret: bytes) -> None:
        """Returns when the instance has taken the request; an unknown key does nothing."""
        ...


class Staff(Protocol):
    """The cell as seen by the door's own control side, which starts workers and answers their calls."""

    def cell_for(self, worker: WorkerId) -> Cell:
        """The cell as this worker sees it. Asked once for each worker."""
        ...

    async def worker_registered(self, worker: WorkerId, leases: list[LeaseId]) -> None:
        """A worker has come, or come back after one of the two was out of reach, and holds these leases.

        Leases of an earlier control process are among them: the cell counts them from now on. What the worker
        does not name and this process has given it is released by the door itself.
        """
        ...

    async def worker_gone(self, worker: WorkerId) -> None:
        """A worker is proved dead, and its sessions with it: whatever it held is free."""
        ...
