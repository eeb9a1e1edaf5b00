"""Keeps the past while it is made: links new segments of awake instances, lets go of what is linked, takes bases."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from tenantry.cell.compute.instance import Instance
from tenantry.cell.loops.loop import Loop
from tenantry.cell.model import Head, Project
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.history import heads_by_id
from tenantry.cell.operations.usage import note_sizes
from tenantry.cell.storage import slot
from tenantry.errors import TenantryError
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn, format_lsn

_log = structlog.get_logger("history")
PERIOD_SECONDS: Final = 5.0
"""Within it an instance writes little that its slot would not keep anyway; the slot bounds what may be lost."""


def history_loop(context: Context) -> Loop:
    advanced: dict[HeadId, Lsn] = {}

    async def cycle() -> str | None:
        awake = context.instances.awake()
        living = {instance.facts.head.id for instance in awake if instance.facts}
        for head_id in advanced.keys() - living:
            del advanced[head_id]
        kept = 0
        for instance in awake:
            try:
                kept += await _keep(context, instance, advanced)
            except TenantryError as error:
                _log.error("log not kept", endpoint_id=instance.endpoint_id, error=str(error))
        return f"{kept} segments linked" if kept else None

    return Loop("history", PERIOD_SECONDS, cycle)


async def _keep(context: Context, instance: Instance, advanced: dict[HeadId, Lsn]) -> int:
    facts = instance.facts
    if facts is None:
        return 0
    linked = await asyncio.to_thread(context.keeper.link, facts.project, facts.head)
    for name in linked.damaged:
        _log.error("segment cannot be read", head_id=facts.head.id, segment=name)
    to = linked.advance_to
    if to is None or to <= advanced.get(facts.head.id, Lsn(0)):
        return len(linked.linked)
    # Of another head that the endpoint runs by now nothing is linked yet: its log must not go by this one's.
    advance = (slot.ADVANCE, {"lsn": format_lsn(to)})
    if await context.instances.ask(instance.endpoint_id, [*slot.ENSURE, advance], head_id=facts.head.id):
        advanced[facts.head.id] = to
    return len(linked.linked)


BASES_PERIOD_SECONDS: Final = 10.0


def bases_loop(context: Context) -> Loop:
    """Takes a base of heads that sleep and whose log since the last base has become long."""
    looked: dict[HeadId, object] = {}

    async def cycle() -> str | None:
        taken = 0
        for facts in await context.instances.sleepers():
            # A head that has not been awake since the last look has written nothing.
            if looked.get(facts.head.id, 0) == facts.endpoint.suspended_at:
                continue
            project = facts.project
            heads = await _heads(context, project)
            try:
                base = await asyncio.to_thread(context.keeper.take_base_if_due, project, facts.head, heads)
            except TenantryError as error:
                # A head that was deleted since the sleepers were listed needs none.
                if facts.head.id in await _heads(context, project):
                    _log.error("no base taken", head_id=facts.head.id, error=str(error))
                continue
            looked[facts.head.id] = facts.endpoint.suspended_at
            if base is not None:
                taken += 1
                await note_sizes(context, project.id, facts.branch.id, facts.head.id)
        return f"{taken} base images taken" if taken else None

    return Loop("bases", BASES_PERIOD_SECONDS, cycle)


async def _heads(context: Context, project: Project) -> Mapping[HeadId, Head]:
    return await context.state.read(lambda tables: heads_by_id(tables, project))
