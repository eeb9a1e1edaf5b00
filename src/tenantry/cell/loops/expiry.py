"""Deletes branches and snapshots whose time has come, and takes the snapshots that schedules ask for."""

from __future__ import annotations

from typing import Final

import structlog

from tenantry.cell.loops.loop import Loop
from tenantry.cell.model import BackupSlot
from tenantry.cell.operations import branches, snapshots
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.runner import Runner
from tenantry.errors import NotFound, TenantryError

_log = structlog.get_logger("expiry")
PERIOD_SECONDS: Final = 5.0


def expiry_loop(context: Context, runner: Runner) -> Loop:
    async def cycle() -> str | None:
        now = context.clock.now()
        gone = 0
        for branch in await context.state.read(lambda tables: tables.branches_expired(now)):
            try:
                deleted = await branches.delete_branch(context, runner, branch.project_id, branch.id, method="ttl")
                gone += deleted is not None
            except TenantryError as error:
                # A child, a snapshot or another change holds it: looked at again in the next cycle.
                _log.warning("expired branch not deleted", branch_id=branch.id, error=str(error))
        for snapshot in await context.state.read(lambda tables: tables.snapshots_expired(now)):
            try:
                await snapshots.delete_snapshot(context, snapshot.project_id, snapshot.id)
                gone += 1
            except NotFound as error:
                _log.info("expired snapshot is gone already", snapshot_id=snapshot.id, reason=str(error))
        return f"{gone} expired branches and snapshots deleted" if gone else None

    return Loop("expiry", PERIOD_SECONDS, cycle)


SCHEDULE_PERIOD_SECONDS: Final = 60.0


def schedule_loop(context: Context, runner: Runner) -> Loop:
    async def cycle() -> str | None:
        now = context.clock.now()
        taken = 0
        for branch_id, slots in await context.state.read(lambda tables: tables.schedules()):
            branch = await context.state.read(lambda tables, i=branch_id: tables.branch(i))
            if branch is None:
                continue
            project_id = branch.project_id
            known = await context.state.read(lambda tables, i=project_id: tables.snapshots(i))
            for stored in slots:
                slot = BackupSlot(**stored)  # pyright: ignore[reportArgumentType] - written from the same record
                if not snapshots.due(slot, branch, known, now):
                    continue
                try:
                    await snapshots.take_scheduled(context, branch, slot)
                    taken += 1
                except TenantryError as error:
                    _log.warning("scheduled snapshot not taken", branch_id=branch_id, error=str(error))
        return f"{taken} scheduled snapshots taken" if taken else None

    return Loop("schedules", SCHEDULE_PERIOD_SECONDS, cycle)
