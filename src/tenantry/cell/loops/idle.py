"""Puts idle instances to sleep, and adds the time of those awake to their counters."""

from __future__ import annotations

from typing import Final

from tenantry.cell.loops.loop import Loop
from tenantry.cell.operations.context import Context

PERIOD_SECONDS: Final = 0.5
METER_SECONDS: Final = 30.0


def idle_loop(context: Context) -> Loop:
    async def cycle() -> str | None:
        slept = await context.instances.sleep_the_idle()
        now = context.clock.monotonic()
        for instance in context.instances.awake():
            if now - instance.metered_at >= METER_SECONDS:
                await context.instances.meter(instance)
        return f"{slept} idle instances went to sleep" if slept else None

    return Loop("idle", PERIOD_SECONDS, cycle)
