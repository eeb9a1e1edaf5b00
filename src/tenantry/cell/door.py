"""The cell as its front door sees it: whom a login is checked against, and how its instance is woken.

The copy of verifiers is made fresh before it is used wherever SQL may have changed it: while an endpoint is awake
and has had sessions. Nothing is written durably here but a copy that was behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog

from tenantry.cell import metrics, operator_access
from tenantry.cell.allowlist import admits
from tenantry.cell.compute.admin import ADMIN_ROLE
from tenantry.cell.compute.settings import connections_max
from tenantry.cell.model import Branch, Project
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.quotas import OPERATOR_KEY, exceeded_quota
from tenantry.cell.proxy.ports import LeaseId, Login, Traffic, Upstream, WorkerId
from tenantry.cell.quotas import reads_only
from tenantry.cell.state.tables import Tables
from tenantry.neon.ids import EndpointId

QUOTA_SQLSTATE: Final = "53400"
"""configuration_limit_exceeded"""

_log = structlog.get_logger("door")


class Door:
    """Implements ``proxy.ports.Cell`` for one worker."""

    def __init__(self, context: Context, worker: str) -> None:
        self._context = context
        self._worker = worker

    async def login(self, endpoint: EndpointId, role: str, client_address: str, operator: str | None = None) -> Login:
        # An operator comes by what the cell has told it; where SQL has changed that since, the instance refuses it.
        doubt = None if operator is not None else self._context.instances.doubt(endpoint)

        def look_unless_behind(tables: Tables) -> Login | None:
            return None if doubt is not None and doubt() else look(tables)

        def look(tables: Tables) -> Login:
            found = tables.living_endpoint(endpoint)
            project = tables.project(found.project_id) if found else None
            branch = tables.branch(found.branch_id) if found else None
            if found is None or project is None or branch is None:
                return Login(endpoint=endpoint, verifier=None)
            if not admits(project.settings, client_address, protected=branch.protected):
                _log.info("an address is not admitted", endpoint_id=endpoint, address=client_address)
                return Login(endpoint=endpoint, verifier=None)
            known = tables.role(branch.id, role) if role != ADMIN_ROLE else None
            verifier = known.verifier if known else None
            login = Login(
                endpoint=endpoint,
                verifier=verifier if verifier and verifier.startswith("SCRAM-SHA-256$") else None,
                md5=bool(verifier and verifier.startswith("md5")),
                connections_max=connections_max(found),
                pooled=found.pooler_enabled,
            )
            if found.disabled:
                return replace(login, refusal="the endpoint is disabled; enable it through the API")
            return self._within_limits(tables, login, project, branch, operator)

        login = await self._context.state.read(look_unless_behind)
        if login is None:
            await self._context.instances.refresh(endpoint, surely=True)
            login = await self._context.state.read(look)
        return login

    def _within_limits(
        self, tables: Tables, login: Login, project: Project, branch: Branch, operator: str | None
    ) -> Login:
        """With what the project's quotas say, or the operator's token that stands above them."""
        if operator is not None:
            if not operator_access.valid(
                self._context.sealer.derive(OPERATOR_KEY), project.id, operator, self._context.clock.now()
            ):
                return replace(
                    login,
                    refusal="the operator's token is not valid here, or has expired",
                    refusal_sqlstate="28000",
                    refusal_hint="ask the cell for a new one",
                )
            # Where a branch is over its size, whoever backs it up or migrates it may still write.
            over = reads_only(project.settings, branch.logical_size)
            return replace(login, operator=True, options="-c default_transaction_read_only=off" if over else "")
        refused = exceeded_quota(self._context, tables, project)
        if refused is None:
            return login
        return replace(login, refusal=refused.message, refusal_sqlstate=QUOTA_SQLSTATE, refusal_hint=refused.next_step)

    async def login_failed(self, endpoint: EndpointId, role: str, client_address: str) -> None:
        metrics.door_failed_logins.inc()
        await self._context.instances.refresh(endpoint, surely=True)

    async def wake(self, endpoint: EndpointId, *, operator: bool = False) -> Upstream:
        lease = await self._context.instances.lease(endpoint, self._worker, operator=operator)
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
