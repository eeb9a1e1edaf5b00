"""Holds projects to their quotas, in steps: told, turned away (by the door, at once), put to sleep."""

from __future__ import annotations

from typing import Final

import structlog

from tenantry.cell import metrics
from tenantry.cell.compute.instance import Instance
from tenantry.cell.loops.loop import Loop
from tenantry.cell.model import Project
from tenantry.cell.operations import endpoints
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.quotas import spent_now
from tenantry.cell.operations.runner import Runner
from tenantry.cell.quotas import Level, QuotaName, Spent, limits_of, reads_only, refusing
from tenantry.cell.state.tables import Tables
from tenantry.errors import TenantryError
from tenantry.neon.ids import BranchId, ProjectId

_log = structlog.get_logger("quotas")
PERIOD_SECONDS: Final = 5.0
GRACE_SECONDS: Final = 10.0
"""How long sessions may go on after nobody else is let in."""


def quotas_loop(context: Context, runner: Runner) -> Loop:
    """Looks at every project that has an instance awake: what sleeps uses up nothing."""
    told: dict[ProjectId, dict[QuotaName, Level]] = {}
    refused_since: dict[ProjectId, float] = {}

    async def cycle() -> str | None:
        awake: dict[ProjectId, list[Instance]] = {}
        for instance in context.instances.awake():
            if instance.facts is not None:
                awake.setdefault(instance.facts.project.id, []).append(instance)
        for gone in told.keys() - awake.keys():
            del told[gone]
        for gone in refused_since.keys() - awake.keys():
            del refused_since[gone]
        slept = 0
        for project_id, instances in awake.items():
            found = await context.state.read(lambda tables, i=project_id: _look(context, tables, i))
            if found is None:
                continue
            project, spent, sizes = found
            _tell(project_id, spent, told)
            for instance in instances:
                await _hold_to_size(context, project, instance, sizes)
            if refusing(spent) is None:
                refused_since.pop(project_id, None)
                continue
            now = context.clock.monotonic()
            if now - refused_since.setdefault(project_id, now) >= GRACE_SECONDS:
                slept += await _put_to_sleep(context, runner, project_id, instances)
        return f"{slept} endpoints put to sleep: their projects have used up a quota" if slept else None

    return Loop("quotas", PERIOD_SECONDS, cycle)


def _look(
    context: Context, tables: Tables, project_id: ProjectId
) -> tuple[Project, list[Spent], dict[BranchId, int | None]] | None:
    project = tables.project(project_id)
    if project is None:
        return None
    sizes = {branch.id: branch.logical_size for branch in tables.branches(project_id)} if project.settings else {}
    return project, spent_now(context, tables, project), sizes


def _tell(project_id: ProjectId, spent: list[Spent], told: dict[ProjectId, dict[QuotaName, Level]]) -> None:
    """Says each step once, when it is reached."""
    before = told.setdefault(project_id, {})
    for one in spent:
        if one.level not in ("within", before.get(one.name)):
            metrics.quota_steps.labels(one.level).inc()
            _log.warning(
                "quota", project_id=project_id, quota=one.name, step=one.level, used=int(one.used), limit=one.limit
            )
        before[one.name] = one.level


async def _hold_to_size(
    context: Context, project: Project, instance: Instance, sizes: dict[BranchId, int | None]
) -> None:
    """Above its size a branch reads only by default; below it again, everything is as it was."""
    assert instance.facts is not None
    over = reads_only(project.settings, sizes.get(instance.facts.branch.id))
    if over or instance.reads_only or "logical_size_bytes" in limits_of(project.settings):
        if over != instance.reads_only:
            _log.info("branch reads only" if over else "branch writes", branch_id=instance.facts.branch.id)
        await context.instances.read_only(instance.endpoint_id, on=over)


async def _put_to_sleep(context: Context, runner: Runner, project_id: ProjectId, instances: list[Instance]) -> int:
    slept = 0
    for instance in instances:
        if instance.at_work:
            continue
        try:
            await endpoints.suspend_endpoint(context, runner, project_id, instance.endpoint_id)
            slept += 1
            metrics.quota_steps.labels("suspended").inc()
        except TenantryError as error:
            # Another change of the project runs: looked at again in the next cycle.
            _log.info("not put to sleep yet", endpoint_id=instance.endpoint_id, reason=str(error))
    return slept
