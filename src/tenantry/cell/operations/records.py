"""The cell's memory as instances see it: implements ``compute.ports.Records`` on cell.db."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from tenantry.cell.compute.ports import Facts
from tenantry.cell.compute.truth import Changes, Truth, changes
from tenantry.cell.consumption import Reading
from tenantry.cell.model import Endpoint
from tenantry.cell.state.state import State
from tenantry.cell.state.tables import Tables
from tenantry.neon.ids import BranchId, EndpointId
from tenantry.runtime.clock import Clock


def read_facts(tables: Tables, endpoint_id: EndpointId) -> Facts | None:
    """The endpoint with its branch, head and project; None when one of them is gone or deleted."""
    found = _facts(tables, tables.endpoint(endpoint_id))
    return None if found is None or found.deleted else found


def _facts(tables: Tables, endpoint: Endpoint | None) -> Facts | None:
    branch = tables.branch(endpoint.branch_id) if endpoint else None
    head = tables.head(branch.head_id) if branch else None
    project = tables.project(endpoint.project_id) if endpoint else None
    if endpoint is None or branch is None or head is None or project is None:
        return None
    return Facts(project, branch, head, endpoint)


def copy_truth(tables: Tables, branch_id: BranchId, truth: Truth, now: datetime) -> None:
    """Makes the copy of a branch's roles and databases equal to what its instance said."""
    found = changes(branch_id, truth, tables.roles(branch_id), tables.databases(branch_id), now)
    for name in found.roles_gone:
        tables.delete_role(branch_id, name)
    for name in found.databases_gone:
        tables.delete_database(branch_id, name)
    for record in (*found.roles_new, *found.databases_new):
        tables.insert(record)
    for record in (*found.roles_changed, *found.databases_changed):
        tables.update(record)


class StateRecords:
    def __init__(self, state: State, clock: Clock) -> None:
        self._state = state
        self._clock = clock

    async def facts(self, endpoint_id: EndpointId) -> Facts | None:
        return await self._state.read(lambda tables: read_facts(tables, endpoint_id))

    async def all_facts(self) -> list[Facts]:
        def look(tables: Tables) -> list[Facts]:
            found = (_facts(tables, endpoint) for endpoint in tables.all_endpoints())
            return [facts for facts in found if facts is not None]

        return await self._state.read(look)

    async def note_sleep(
        self,
        endpoint_id: EndpointId,
        *,
        at: datetime,
        started: datetime | None,
        last_active: datetime | None,
        reading: Reading | None,
    ) -> None:
        def note(tables: Tables) -> None:
            if reading is not None:
                tables.meters.note(reading)
            endpoint = tables.endpoint(endpoint_id)
            if endpoint is not None:
                tables.update(
                    replace(
                        endpoint,
                        state="idle",
                        suspended_at=at,
                        started_at=started or endpoint.started_at,
                        last_active=last_active or endpoint.last_active,
                    )
                )

        await self._state.write(note)

    async def store_truth(self, branch_id: BranchId, truth: Truth) -> None:
        now = self._clock.now()

        def difference(tables: Tables) -> Changes:
            return changes(branch_id, truth, tables.roles(branch_id), tables.databases(branch_id), now)

        def apply(tables: Tables) -> None:
            branch = tables.branch(branch_id)
            if branch is None or (branch.state == "init" and tables.operations_unfinished(branch.project_id)):
                return  # its rows have what it is just being given
            copy_truth(tables, branch_id, truth, now)

        # Most refreshes find nothing new, and those must cost no write.
        if await self._state.read(difference):
            await self._state.write(apply)

    async def note_readings(self, readings: Sequence[Reading]) -> None:
        def note(tables: Tables) -> None:
            for reading in readings:
                tables.meters.note(reading)

        await self._state.write(note)
