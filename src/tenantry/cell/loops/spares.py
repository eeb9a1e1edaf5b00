"""Keeps the pool of spares full."""

from __future__ import annotations

from typing import Final

from tenantry.cell.loops.loop import Loop
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.spares import Newborn

PERIOD_SECONDS: Final = 1.0


def spares_loop(context: Context, newborn: Newborn) -> Loop:
    async def cycle() -> str | None:
        made = await newborn.fill_pool(context.config.spares_max, context.config.default_major)
        return f"{made} spares made" if made else None

    return Loop("spares", PERIOD_SECONDS, cycle)
