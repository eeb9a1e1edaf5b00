"""How much there is of everything in a cell, asked of the whole state when somebody looks; nobody is woken."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass

from tenantry.cell.operations.context import Context
from tenantry.cell.state.tables import Tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    rows: dict[str, int]
    """Projects, branches, endpoints, snapshots, operations that are not finished, spares, directories to delete."""
    instances: dict[str, int]
    """Endpoints by what their instance does: asleep, starting, awake, stopping."""
    disk_free_bytes: int
    disk_total_bytes: int


async def numbers(context: Context) -> Numbers:
    """Raises OperatorError where cell.db cannot be read."""
    rows = await context.state.read(Tables.counts)
    running = Counter(context.instances.statuses())
    busy = sum(running[status] for status in ("starting", "awake", "stopping"))
    space = await asyncio.to_thread(os.statvfs, context.layout.data)
    return Numbers(
        rows=rows,
        instances={
            "asleep": max(0, rows["endpoints"] - busy),
            **{status: running[status] for status in ("starting", "awake", "stopping")},
        },
        disk_free_bytes=space.f_bavail * space.f_frsize,
        disk_total_bytes=space.f_blocks * space.f_frsize,
    )
