"""Reads what awake instances have used, and forgets what nobody can ask for any more."""

from __future__ import annotations

from typing import Final

from tenantry.cell.loops.loop import Loop
from tenantry.cell.loops.turns import Turns
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.usage import note_sizes
from tenantry.cell.state.tables import Tables

PERIOD_SECONDS: Final = 15.0
"""What a killed cell loses at most of written bytes; the time awake is known from the processes themselves."""
UNSIZED_PER_CYCLE_MAX: Final = 20


def metering_loop(context: Context) -> Loop:
    """Looks at every instance that is awake, and at branches that nobody has measured yet; sleepers cost nothing."""

    async def cycle() -> str | None:
        await context.instances.meter(context.instances.awake())
        measured = 0
        for project_id, branch_id, head_id in await context.state.read(
            lambda tables: tables.meters.unsized(UNSIZED_PER_CYCLE_MAX)
        ):
            await note_sizes(context, project_id, branch_id, head_id)
            measured += 1
        return f"{measured} branches measured for the first time" if measured else None

    return Loop("metering", PERIOD_SECONDS, cycle)


FORGET_PERIOD_SECONDS: Final = 60.0


def forgetting_loop(context: Context) -> Loop:
    turns = Turns(context)

    async def cycle() -> str | None:
        projects = await turns.next()
        now = context.clock.now()

        def forget(tables: Tables) -> int:
            tables.meters.forget_workers()
            return tables.meters.forget([project.id for project in projects], now)

        gone = await context.state.write(forget)
        return f"{gone} rows of old consumption forgotten" if gone else None

    return Loop("forgetting", FORGET_PERIOD_SECONDS, cycle)
