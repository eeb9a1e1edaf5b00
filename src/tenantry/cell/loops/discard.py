"""Purges what was deleted and not recovered in time, and deletes the directories whose rows are gone: one after
another, so that nothing on a user's path is slowed."""

from __future__ import annotations

import asyncio
from typing import Final

from tenantry.cell.loops.loop import Loop
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.purge import purge
from tenantry.cell.storage.heads import discard

PERIOD_SECONDS: Final = 2.0


def discard_loop(context: Context) -> Loop:
    async def cycle() -> str | None:
        purged = await purge(context)
        doomed = await context.state.read(lambda tables: tables.doomed())
        for path in doomed:
            await asyncio.to_thread(discard, context.layout, path)
            await context.state.write(lambda tables, path=path: tables.undoom(path))
        return f"{purged} purged, {len(doomed)} directories deleted" if purged or doomed else None

    return Loop("discard", PERIOD_SECONDS, cycle)
