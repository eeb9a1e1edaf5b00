"""Puts idle instances to sleep."""

from __future__ import annotations

from typing import Final

from tenantry.cell.loops.loop import Loop
from tenantry.cell.operations.context import Context

PERIOD_SECONDS: Final = 0.5


def idle_loop(context: Context) -> Loop:
    async def cycle() -> str | None:
        slept = await context.instances.sleep_the_idle()
        return f"{slept} idle instances went to sleep" if slept else None

    return Loop("idle", PERIOD_SECONDS, cycle)
