"""A new head for a branch: from another head as it is now, or from any point of its past.

Whatever was half made by a killed attempt is removed first, so making it again is always right.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from psycopg import sql

from tenantry.cell.compute import truth
from tenantry.cell.compute.admin import AdminConnection
from tenantry.cell.compute.truth import Truth
from tenantry.cell.model import Branch, Endpoint, Head, Project
from tenantry.cell.operations.context import Context, read_write_endpoint
from tenantry.cell.operations.history import heads_by_id
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage import fork, sizes, slot
from tenantry.cell.storage.recover import UNSYNCED, end_leftover, make_durable, recover
from tenantry.neon.ids import HeadId, new_head_id
from tenantry.postgres import conf, postmaster
from tenantry.postgres.control import clean_shutdown
from tenantry.postgres.lsn import Lsn, format_lsn, parse_lsn
from tenantry.postgres.postmaster import Postmaster
from tenantry.runtime.failpoints import failpoint

MAKING_CU: Final = 1.0
"""Size of the instance that replays a head's log."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a new head comes from. ``lsn`` None: the source as it is now. ``branch`` runs ``head``, or ran it once."""

    project: Project
    branch: Branch
    head: Head
    endpoint: Endpoint | None
    heads: Mapping[HeadId, Head]
    lsn: str | None


def read_source(tables: Tables, project: Project, branch: Branch, head: Head, lsn: str | None) -> Source:
    return Source(
        project=project,
        branch=branch,
        head=head,
        endpoint=read_write_endpoint(tables, branch),
        heads=heads_by_id(tables, project),
        lsn=lsn,
    )


async def make_head(context: Context, source: Source, head: Head, keep: Mapping[str, str]) -> tuple[Head, Truth | None]:
    """Makes the files of ``head`` from ``source``; answers it with its timeline and origin. It sleeps.

    Of a head from the past also answers its roles and databases; those in ``keep`` get these verifiers, so that
    today's connection string is right, and a password that was leaked and changed since does not come back.
    Raises Unavailable, HistoryGap, HistoryDamaged, StartFailed or OperatorError; what is left then is for ``forget``.
    """
    forked = await _fork(context, source, head) if source.lsn is None else None
    if forked is not None:
        return replace(head, timeline=forked.timeline, origin_lsn=format_lsn(forked.origin_lsn)), None
    async with _recovered(context, source, head) as (made, running):
        found = await look_after(context, source, running, keep)
        failpoint("new_head.opened")
    failpoint("new_head.stopped")
    await asyncio.to_thread(make_durable, _directory(context, source, head))
    return made, found


async def make_head_with_roles(
    context: Context, source: Source, head: Head, keep: Mapping[str, str]
) -> tuple[Head, Truth]:
    """Like ``make_head``, for a head that takes another's place: its roles are looked after in any case."""
    made, found = await make_head(context, source, head, keep)
    return made, await opened(context, source, made, keep) if found is None else found


async def opened(context: Context, source: Source, made: Head, keep: Mapping[str, str]) -> Truth:
    """What a head that was copied, and has not been started yet, holds; it sleeps again. Raises as ``make_head``."""
    running = await start_private(context, source, made, UNSYNCED)
    failpoint("new_head.started")
    try:
        found = await look_after(context, source, running, keep)
        failpoint("new_head.opened")
    finally:
        await stop_private(context, source, made, running)
    await asyncio.to_thread(make_durable, _directory(context, source, made))
    return found


async def _fork(context: Context, source: Source, head: Head) -> fork.Forked | None:
    """A copy of the source as it is; None when it runs and is too large to be held still."""
    parent, child = context.keeper.directory(source.project, source.head.id), _directory(context, source, head)
    owner, driver = context.owner(source.project.uid), context.keeper.driver
    await forget(context, source.project, head.id)
    if not await asyncio.to_thread(clean_shutdown, parent / "data"):
        await _wake_once(context, source)
    if source.endpoint is None:
        return await asyncio.to_thread(fork.fork_sleeping, driver, source.head, parent, child, owner=owner)
    async with context.instances.held(source.endpoint.id) as running:
        if running is None:
            return await asyncio.to_thread(fork.fork_sleeping, driver, source.head, parent, child, owner=owner)
        size = await asyncio.to_thread(sizes.head_bytes, parent)
        if not fork.may_hold_still(driver, size):
            return None
        return await asyncio.to_thread(
            fork.fork_running,
            driver,
            source.head,
            parent,
            child,
            instance=running.identity,
            owner=owner,
        )


async def _wake_once(context: Context, source: Source) -> None:
    """A head that was copied from a running one, or died, recovers by being started."""
    if source.endpoint is not None:
        lease = await context.instances.lease(source.endpoint.id, "operation")
        context.instances.release(source.endpoint.id, lease.id)
        return
    # A killed attempt at this may have left it running.
    data, sockets = _directory(context, source, source.head) / "data", context.layout.making_dir(source.head.id)
    running = await asyncio.to_thread(postmaster.adopt, data, sockets) or await start_private(
        context, source, source.head
    )
    failpoint("new_head.woken")
    await stop_private(context, source, source.head, running)


async def forget(context: Context, project: Project, head_id: HeadId) -> None:
    """Ends the instance that a killed or failed attempt at this head left, and removes its files. Harmless twice."""
    sockets = context.layout.making_dir(head_id)
    await end_leftover(context.keeper.directory(project, head_id), sockets)
    await asyncio.to_thread(context.layout.remove_making_traces, head_id)


@asynccontextmanager
async def _recovered(
    context: Context, source: Source, head: Head, settings: Mapping[str, str] = MappingProxyType({})
) -> AsyncGenerator[tuple[Head, Postmaster]]:
    """The head in the state of the source's point, its first instance running during the block. Not durable yet."""
    keeper = context.keeper
    lsn = source.lsn
    if lsn is None:
        # Too large to be held still: everything up to now is in its log.
        lsn = format_lsn(await asyncio.to_thread(_end_now, context, source))
    point = await asyncio.to_thread(
        lambda: keeper.point(source.project, source.head, source.heads, lsn=lsn, moment=None)
    )
    engine = context.engines.get(head.build_id)
    recovered = await recover(
        keeper.history(source.project, source.head.id, source.heads),
        point,
        workshop=keeper.workshop(source.project),
        engine=engine,
        head_dir=_directory(context, source, head),
        socket_dir=context.layout.making_dir(head.id),
        settings={**conf.lean_settings(MAKING_CU, engine.major), **slot.SETTINGS, **settings},
        owner=context.owner(source.project.uid),
        log_path=context.layout.making_log(head.id),
        timeout_seconds=context.config.start_seconds_max,
    )
    made = replace(
        head,
        timeline=recovered.timeline,
        origin_head_id=recovered.plan.source.id,
        origin_lsn=format_lsn(recovered.origin_lsn),
    )
    try:
        yield made, recovered.postmaster
    finally:
        await stop_private(context, source, made, recovered.postmaster)


def _end_now(context: Context, source: Source) -> Lsn:
    context.keeper.link(source.project, source.head)
    return context.keeper.history(source.project, source.head.id, source.heads).end()


@asynccontextmanager
async def passing_head(
    context: Context, source: Source, settings: Mapping[str, str] = MappingProxyType({})
) -> AsyncGenerator[Postmaster]:
    """A running copy of the source's state that no row names, for one look; gone with its files after the block.

    What a killed cell leaves of it is ended and removed at the next start. Raises what ``make_head`` raises.
    """
    head = Head(
        id=new_head_id(),
        project_id=source.project.id,
        branch_id=None,
        build_id=source.head.build_id,
        timeline=source.head.timeline,
        origin_head_id=source.head.id,
        created_at=context.clock.now(),
    )
    try:
        async with _recovered(context, source, head, settings) as (_, running):
            failpoint("passing_head.running")
            yield running
    finally:
        await forget(context, source.project, head.id)


async def start_private(
    context: Context, source: Source, head: Head, settings: Mapping[str, str] = MappingProxyType({})
) -> Postmaster:
    """An instance of a head that nobody else may enter: its sockets are at a place of its own."""
    engine = context.engines.get(head.build_id)
    return await postmaster.start(
        engine,
        _directory(context, source, head) / "data",
        socket_dir=context.layout.making_dir(head.id),
        settings={**conf.lean_settings(MAKING_CU, engine.major), **slot.SETTINGS, **settings},
        owner=context.owner(source.project.uid),
        log_path=context.layout.making_log(head.id),
        timeout_seconds=context.config.start_seconds_max,
    )


async def look_after(context: Context, source: Source, running: Postmaster, keep: Mapping[str, str]) -> Truth:
    """Guards the new head's log, gives kept roles their verifiers of today, and reads what it holds."""
    async with context.admin.session(source.project.id, running.socket_path.parent) as admin:
        for statement in slot.ENSURE:
            await admin.execute(statement)
        return await give_verifiers(admin, keep)


async def give_verifiers(admin: AdminConnection, keep: Mapping[str, str]) -> Truth:
    """Of the roles in ``keep`` those that are there get these verifiers. What the instance then holds."""
    found = await truth.read(admin)
    for name, verifier in keep.items():
        if name in found.roles and found.roles[name] != verifier:
            await _set_verifier(admin, name, verifier)
    return await truth.read(admin)


@asynccontextmanager
async def visit(context: Context, source: Source) -> AsyncGenerator[AdminConnection]:
    """A session of the cell's own in the source's head: through its endpoint, or privately where nobody else enters."""
    if source.endpoint is not None and not source.endpoint.disabled:
        async with context.instances.admin(source.endpoint.id) as admin:
            yield admin
        return
    # A killed attempt at this may have left it running.
    data, sockets = _directory(context, source, source.head) / "data", context.layout.making_dir(source.head.id)
    running = await asyncio.to_thread(postmaster.adopt, data, sockets)
    running = running or await start_private(context, source, source.head)
    try:
        async with context.admin.session(source.project.id, running.socket_path.parent) as admin:
            yield admin
    finally:
        await stop_private(context, source, source.head, running)


async def _set_verifier(admin: AdminConnection, name: str, verifier: str) -> None:
    await admin.execute(sql.SQL("alter role {} password {}").format(sql.Identifier(name), sql.Literal(verifier)))


async def stop_private(context: Context, source: Source, head: Head, running: Postmaster) -> None:
    """Safe twice; the head's log is kept."""
    await postmaster.stop(running, mode="fast", timeout_seconds=context.config.stop_seconds_max)
    await asyncio.to_thread(context.keeper.link, source.project, head)
    await asyncio.to_thread(context.layout.remove_making_traces, head.id)


def _directory(context: Context, source: Source, head: Head) -> Path:
    return context.keeper.directory(source.project, head.id)


def check_lsn(text: str) -> str:
    """The position as Postgres writes it. Raises InvalidInput for anything else."""
    return format_lsn(parse_lsn(text))
