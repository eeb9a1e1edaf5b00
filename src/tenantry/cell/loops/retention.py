"""Lets go of history that no window and no snapshot needs, and of heads that nobody's past is any more."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from tenantry.cell.loops.loop import Loop
from tenantry.cell.loops.turns import Turns
from tenantry.cell.model import Head, Project, Snapshot
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.history import heads_by_id
from tenantry.cell.operations.usage import note_sizes
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage import archive, bases
from tenantry.cell.storage.retention import Kept, Pin, retain
from tenantry.errors import HistoryGap, TenantryError
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn, parse_lsn
from tenantry.runtime.failpoints import failpoint

_log = structlog.get_logger("retention")
PERIOD_SECONDS: Final = 60.0


def retention_loop(context: Context) -> Loop:
    turns = Turns(context)

    async def cycle() -> str | None:
        freed = 0
        for project in await turns.next():
            try:
                freed += await collect(context, project)
            except (TenantryError, OSError) as error:
                _log.error("history not looked through", project_id=project.id, error=str(error))
        return f"{freed} pieces of history let go" if freed else None

    return Loop("retention", PERIOD_SECONDS, cycle)


async def collect(context: Context, project: Project) -> int:
    """Deletes what the project's histories need no more; how many bases, segments and heads that was."""

    def look(tables: Tables) -> tuple[dict[HeadId, Head], list[Snapshot], bool]:
        busy = bool(tables.operations_unfinished(project.id))
        return heads_by_id(tables, project), tables.snapshots(project.id), busy

    heads, snapshots, busy = await context.state.read(look)
    if busy:
        return 0  # an operation may be reading exactly what would go
    try:
        freed = await asyncio.to_thread(_let_go, context, project, heads, snapshots)
    except (TenantryError, OSError):
        if await context.state.read(look) == (heads, snapshots, busy):
            raise
        return 0  # an operation has taken away what was being looked at: the next turn sees what is there then
    if freed:
        for head in heads.values():
            if head.branch_id is not None:
                await note_sizes(context, project.id, head.branch_id, head.id)
    forgotten = await _forget_heads(context, project)
    if forgotten:
        failpoint("retention.heads")
    return freed + forgotten


def _let_go(context: Context, project: Project, heads: dict[HeadId, Head], snapshots: list[Snapshot]) -> int:
    keeper = context.keeper
    kept = {
        head_id: Kept(
            bases=tuple(bases.bases(keeper.directory(project, head_id))),
            segments=archive.segments(keeper.directory(project, head_id), head.timeline),
        )
        for head_id, head in heads.items()
    }
    windows = {
        head_id: begin
        for head_id, head in heads.items()
        if head.branch_id is not None and (begin := _window(context, project, head_id, heads)) is not None
    }
    pins = [Pin(snapshot.head_id, parse_lsn(snapshot.lsn)) for snapshot in snapshots if snapshot.lsn is not None]
    found = retain(heads, kept, windows=windows, pins=pins)
    for pin in found.unreachable:
        _log.error("history has no base that leads to what it promised", head_id=pin.head_id)
    if not any(found.bases[i] or found.segments[i] for i in heads):
        return 0
    # Bases first, of all heads: one whose log went before it would promise what cannot be reached any more.
    for head_id in heads:
        for base in found.bases[head_id]:
            bases.delete(keeper.directory(project, head_id), base.number)
    failpoint("retention.bases")
    for head_id in heads:
        if found.segments[head_id]:  # a head that has kept nothing yet has no place for it either
            archive.delete(keeper.directory(project, head_id), found.segments[head_id])
    failpoint("retention.segments")
    return sum(len(found.segments[i]) + len(found.bases[i]) for i in heads)


def _window(context: Context, project: Project, head_id: HeadId, heads: dict[HeadId, Head]) -> Lsn | None:
    """Where the earliest state lies that the head's branch may be asked for; None where there is no base at all."""
    history = context.keeper.history(project, head_id, heads)
    oldest = history.oldest()
    begin = context.clock.now() - timedelta(seconds=project.history_retention_seconds)
    if begin <= oldest.last_commit:
        return oldest.usable_from
    try:
        return history.at_time(begin).lsn
    except HistoryGap:
        # Nobody knows on which side of missing log the window begins: all stays until it has moved past.
        return oldest.usable_from


async def _forget_heads(context: Context, project: Project) -> int:
    """Heads that no branch runs and nobody's past is: their directories and rows go, the youngest first."""

    def forget(tables: Tables) -> int:
        if tables.operations_unfinished(project.id):
            return 0  # one that has begun meanwhile may be making a head from what would go
        gone = 0
        while True:
            heads = tables.heads(project.id)
            origins = {head.origin_head_id for head in heads}
            pinned = {snapshot.head_id for snapshot in tables.snapshots(project.id)}
            idle = [h for h in heads if h.branch_id is None and h.id not in origins and h.id not in pinned]
            if not idle:
                return gone
            for head in idle:
                path = context.layout.relative(context.layout.head(project.id, head.id))
                tables.doom(path, project.uid, context.clock.now())
                tables.delete_head(head.id)
                gone += 1

    return await context.state.write(forget)
