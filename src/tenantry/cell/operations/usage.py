"""What projects and branches have consumed in the running period, up to this moment; nobody is woken for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from tenantry.cell.consumption import (
    Amounts,
    ConsumedBranch,
    ConsumedProject,
    Grain,
    Reading,
    Step,
    byte_hours,
    frames_of,
    frames_with,
    period_of,
    start_of,
)
from tenantry.cell.model import Usage
from tenantry.cell.operations.context import Context
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage import sizes
from tenantry.neon.ids import BranchId, HeadId, ProjectId

Key = TypeVar("Key", ProjectId, BranchId)


async def usage_of_projects(
    context: Context, project_ids: Sequence[ProjectId], *, byte_hours_too: bool = False
) -> dict[ProjectId, Usage]:
    """Of those projects that have consumed anything. Byte hours cost a look through all sizes of the period."""
    wanted = set(project_ids)
    now = context.clock.now()
    start, _ = period_of(now)
    running = [reading for reading in context.instances.readings() if reading.project_id in wanted]
    here = [(i, last) for facts, last in context.instances.last_active() if (i := facts.project.id) in wanted]

    def look(tables: Tables) -> dict[ProjectId, Usage]:
        sums = with_running(
            tables, tables.meters.sums_of_projects(project_ids, start), running, start, lambda found: found.project_id
        )
        stored = tables.meters.sizes_of_projects(project_ids)
        largest = tables.meters.largest_branches(project_ids)
        last = _latest(tables.meters.last_active("project_id", project_ids), here)
        changed = tables.meters.branches_changed(project_ids)
        found = {
            project_id: replace(
                _usage(sums.get(project_id, Amounts()), last.get(project_id)),
                branches_changed_at=changed.get(project_id),
                synthetic_storage_size=stored.get(project_id),
                largest_branch_bytes=largest.get(project_id),
            )
            for project_id in project_ids
            if project_id in sums or project_id in stored or project_id in last or project_id in changed
        }
        if not byte_hours_too:
            return found
        return {
            project_id: replace(usage, data_storage_bytes_hour=int(_storage(tables, project_id, start, now)))
            for project_id, usage in found.items()
        }

    return await context.state.read(look)


async def usage_of_branches(context: Context, branch_ids: Sequence[BranchId]) -> dict[BranchId, Usage]:
    """Of those branches that have consumed anything."""
    wanted = set(branch_ids)
    start, _ = period_of(context.clock.now())
    running = [reading for reading in context.instances.readings() if reading.branch_id in wanted]
    here = [(i, last) for facts, last in context.instances.last_active() if (i := facts.branch.id) in wanted]

    def look(tables: Tables) -> dict[BranchId, Usage]:
        sums = with_running(
            tables, tables.meters.sums_of_branches(branch_ids, start), running, start, lambda found: found.branch_id
        )
        last = _latest(tables.meters.last_active("branch_id", branch_ids), here)
        return {branch_id: _usage(amounts, last.get(branch_id)) for branch_id, amounts in sums.items()}

    return await context.state.read(look)


def _latest(stored: Mapping[str, datetime], here: Iterable[tuple[str, datetime]]) -> dict[str, datetime]:
    found = dict(stored)
    for key, last in here:
        found[key] = max(last, found.get(key, last))
    return found


def with_running(
    tables: Tables,
    sums: Mapping[Key, Amounts],
    running: Iterable[Reading],
    start: datetime,
    key_of: Callable[[Reading], Key],
) -> dict[Key, Amounts]:
    """The sums, and what running instances have used since their last reading that was noted."""
    found = dict(sums)
    for reading, amounts in tables.meters.uncounted(running):
        share = min(1.0, (reading.at - start).total_seconds() / amounts.active_seconds) if amounts.active_seconds else 0
        of_period = Amounts(
            active_seconds=share * amounts.active_seconds, compute_seconds=share * amounts.compute_seconds
        )
        found[key_of(reading)] = found.get(key_of(reading), Amounts()) + of_period
    return found


def _usage(amounts: Amounts, last_active: datetime | None) -> Usage:
    """In whole units."""
    return Usage(
        active_time_seconds=int(amounts.active_seconds),
        compute_time_seconds=int(amounts.compute_seconds),
        written_data_bytes=amounts.written_bytes,
        data_transfer_bytes=amounts.sent_bytes,
        last_active_at=last_active,
    )


def _storage(tables: Tables, project_id: ProjectId, start: datetime, now: datetime) -> float:
    return sum(sum(byte_hours(steps, start, now)) for steps in tables.meters.steps(project_id).values())


async def note_sizes(context: Context, project_id: ProjectId, branch_id: BranchId, head_id: HeadId) -> None:
    """Measures what a branch occupies, by the files of its head, and notes it if that still is its head; nobody is
    woken."""
    directory = context.layout.head(project_id, head_id)
    logical = await asyncio.to_thread(sizes.logical_bytes, directory / "data")
    history = await asyncio.to_thread(sizes.history_bytes, directory)
    step = Step(context.clock.now(), logical, history)

    def note(tables: Tables) -> None:
        branch = tables.branch(branch_id)
        if branch is not None and branch.head_id == head_id:
            tables.meters.note_sizes(project_id, branch_id, step)

    await context.state.write(note)


async def consumption(
    context: Context,
    project_ids: Sequence[ProjectId] | None,
    *,
    before: tuple[datetime, ProjectId] | None,
    limit: int,
    grain: Grain,
    begin: datetime,
    end: datetime,
) -> list[ConsumedProject]:
    """What these projects (or all) consumed in time, up to this moment, the youngest project first.

    Raises RangeOutside. Each project is looked at by itself, so that a long answer keeps nobody waiting.
    """
    now = context.clock.now()
    bounds = frames_of(grain, begin, end, now)
    found = await context.state.read(lambda tables: tables.meters.consumers(project_ids, before, limit))
    running = context.instances.readings()
    return [await _consumed(context, project_id, made, grain, bounds, now, running) for project_id, made in found]


async def _consumed(
    context: Context,
    project_id: ProjectId,
    made: datetime,
    grain: Grain,
    bounds: Sequence[tuple[datetime, datetime]],
    now: datetime,
    running: Sequence[Reading],
) -> ConsumedProject:
    wanted = [(start, end) for start, end in bounds if end > made]

    def look(
        tables: Tables,
    ) -> tuple[dict[BranchId, dict[datetime, Amounts]], dict[BranchId, list[Step]], dict[BranchId, bool]]:
        meters = tables.meters
        amounts = meters.amounts(project_id, grain, wanted[0][0], wanted[-1][1])
        for reading, more in meters.uncounted(reading for reading in running if reading.project_id == project_id):
            by_frame = amounts.setdefault(reading.branch_id, {})
            start = start_of(grain, reading.at)
            by_frame[start] = by_frame.get(start, Amounts()) + more
        return amounts, meters.steps(project_id), meters.roots(project_id)

    if not wanted:
        return ConsumedProject(project_id=project_id, created_at=made, branches=())
    amounts, steps, roots = await context.state.read(look)
    return ConsumedProject(
        project_id=project_id,
        created_at=made,
        branches=tuple(
            ConsumedBranch(
                branch_id=branch_id,
                root=roots.get(branch_id, False),
                frames=tuple(frames_with(wanted, now, amounts.get(branch_id, {}), steps.get(branch_id, []))),
            )
            for branch_id in sorted(amounts.keys() | steps.keys() | roots.keys())
        ),
    )
