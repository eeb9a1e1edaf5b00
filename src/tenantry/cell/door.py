"""The cell as its front door sees it: whom a login is checked against, and how its instance is woken.

The copy of verifiers is made fresh before it is used wherever SQL may have changed it: while an endpoint is awake
and has had sessions. Nothing is written durably here but a copy that was behind.
"""

from __future__ import annotations

from tenantry.cell import metrics
from tenantry.cell.compute.admin import ADMIN_ROLE
from tenantry.cell.operations.context import Context
from tenantry.cell.proxy.ports import LeaseId, Login, Traffic, Upstream, WorkerId
from tenantry.cell.state.tables import Tables
from tenantry.neon.ids import EndpointId


class Door:
    """Implements ``proxy.ports.Cell`` for one worker."""

    def __init__(self, context: Context, worker: str) -> None:
        self._context = context
        self._worker = worker

    async def login(self, endpoint: EndpointId, role: str, client_address: str) -> Login:
        await self._context.instances.refresh(endpoint)

        def look(tables: Tables) -> Login:
            found = tables.living_endpoint(endpoint)
            known = tables.role(found.branch_id, role) if found and role != ADMIN_ROLE else None
            verifier = known.verifier if known else None
            return Login(
                endpoint=endpoint,
                verifier=verifier if verifier and verifier.startswith("SCRAM-SHA-256$") else None,
                md5=bool(verifier and verifier.startswith("md5")),
                refusal="the endpoint is disabled; enable it through the API" if found and found.disabled else None,
            )

        return await self._context.state.read(look)

    async def login_failed(self, endpoint: EndpointId, role: str, client_address: str) -> None:
        metrics.door_failed_logins.inc()
        await self._context.instances.refresh(endpoint)

    async def wake(self, endpoint: EndpointId) -> Upstream:
        lease = await self._context.instances.lease(endpoint, self._worker)
        return Upstream(socket_path=lease.socket_path, lease=LeaseId(f"{endpoint}/{lease.id}"))

    async def release(self, lease: LeaseId) -> None:
        endpoint, _, lease_id = lease.partition("/")
        self._context.instances.release(EndpointId(endpoint), lease_id)

    async def report(self, number: int, traffic: list[Traffic]) -> None:
        now = self._context.clock.now()
        sent = [(item.endpoint, item.bytes_out) for item in traffic]
        if not await self._context.state.write(
            lambda tables: tables.meters.note_report(self._worker, number, now, sent)
        ):
            return
        for item in traffic:
            metrics.door_connections.inc(item.connections_opened)
            metrics.door_bytes.labels("in").inc(item.bytes_in)
            metrics.door_bytes.labels("out").inc(item.bytes_out)


class Staff:
    """Implements ``proxy.ports.Staff``: gives each worker its view of the cell, and its leases their due."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def cell_for(self, worker: WorkerId) -> Door:
        return Door(self._context, worker)

    async def worker_registered(self, worker: WorkerId, leases: list[LeaseId]) -> None:
        """Counts the leases that the worker holds of an earlier control process; those of this one are known."""
        for lease in leases:
            endpoint, _, lease_id = lease.partition("/")
            self._context.instances.restore_lease(EndpointId(endpoint), lease_id, worker)

    async def worker_gone(self, worker: WorkerId) -> None:
        self._context.instances.holder_gone(worker)
