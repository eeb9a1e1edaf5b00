"""How a loop ends: at once, whatever it is told at the same moment."""

from __future__ import annotations

import asyncio

from tenantry.cell.loops.loop import Loop


async def test_one_that_is_told_to_look_sooner_and_to_end_ends() -> None:
    looked = asyncio.Event()

    async def cycle() -> str | None:
        looked.set()
        return None

    loop = Loop("test", 3600.0, cycle)
    loop.start()
    await looked.wait()
    await asyncio.sleep(0)  # it waits for its time, or for whoever wants it sooner
    loop.sooner()
    async with asyncio.timeout(20):
        await loop.stop()
