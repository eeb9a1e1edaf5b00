"""Start, suspend, restart and change an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from tenantry.cell.compute.instance import OPERATION
from tenantry.cell.compute.settings import settings_of_new
from tenantry.cell.model import (
    BranchEndpointCreate,
    Endpoint,
    EndpointChange,
    EndpointChanged,
    EndpointCreate,
    EndpointType,
    Operation,
    Project,
)
from tenantry.cell.operations.context import Context, Verb, branch_of, endpoint_of, idle_project, operation
from tenantry.cell.operations.names import check_compute, check_settings
from tenantry.cell.operations.quotas import check_quota
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, Defect, NotSupported
from tenantry.neon.ids import BranchId, EndpointId, ProjectId, new_endpoint_id


def endpoint_id_of(work: Operation) -> EndpointId:
    """The endpoint an operation is about; such an operation always has one."""
    if work.endpoint_id is None:
        raise Defect(f"operation {work.id} ({work.verb}) names no endpoint")
    return work.endpoint_id


async def _start(context: Context, work: Operation) -> None:
    lease = await context.instances.lease(endpoint_id_of(work), OPERATION)
    context.instances.release(endpoint_id_of(work), lease.id)


async def _suspend(context: Context, work: Operation) -> None:
    await context.instances.suspend(endpoint_id_of(work), insist=True)


async def _apply(context: Context, work: Operation) -> None:
    """New sizes and settings need a restart where the instance is awake; timeouts hold at once."""
    endpoint_id = endpoint_id_of(work)
    await context.instances.settings_changed(endpoint_id)
    if context.instances.status(endpoint_id) == "asleep":
        return
    if work.argument.get("sleep"):
        await context.instances.suspend(endpoint_id, insist=True)
    elif work.argument.get("restart"):
        await context.instances.restart(endpoint_id)


START: Final = Verb("start_endpoint", (_start,))
SUSPEND: Final = Verb("suspend_endpoint", (_suspend,))
APPLY: Final = Verb("update_endpoint", (_apply,))
CU_DEFAULT: Final = 0.25


async def _do(
    context: Context, runner: Runner, project_id: ProjectId, endpoint_id: EndpointId, verbs: list[Verb]
) -> EndpointChanged:
    def begin(tables: Tables) -> list[Operation]:
        idle_project(tables, project_id)
        endpoint = endpoint_of(tables, project_id, endpoint_id)
        if START in verbs:
            check_quota(context, tables, project_id)
        works = [
            operation(
                context,
                verb,
                "suspend_compute" if verb is SUSPEND else "start_compute",
                project_id,
                branch_id=endpoint.branch_id,
                endpoint_id=endpoint_id,
            )
            for verb in verbs
        ]
        for work in works:
            tables.insert(work)
        return works

    operations = await runner.finish(await context.state.write(begin))
    endpoint = await context.state.read(lambda tables: endpoint_of(tables, project_id, endpoint_id))
    return EndpointChanged(endpoint=context.instances.overlay(endpoint), operations=operations)


async def start_endpoint(
    context: Context, runner: Runner, project_id: ProjectId, endpoint_id: EndpointId
) -> EndpointChanged:
    """Wakes it. Raises Unavailable when it is disabled, QuotaExceeded when the project may not be used any more."""
    return await _do(context, runner, project_id, endpoint_id, [START])


async def suspend_endpoint(
    context: Context, runner: Runner, project_id: ProjectId, endpoint_id: EndpointId
) -> EndpointChanged:
    """Puts it to sleep, ending its sessions."""
    return await _do(context, runner, project_id, endpoint_id, [SUSPEND])


async def restart_endpoint(
    context: Context, runner: Runner, project_id: ProjectId, endpoint_id: EndpointId
) -> EndpointChanged:
    """Suspend, then start: two operations, as Neon answers."""
    return await _do(context, runner, project_id, endpoint_id, [SUSPEND, START])


def new_endpoint(
    context: Context, project: Project, branch_id: BranchId, request: BranchEndpointCreate | EndpointCreate
) -> Endpoint:
    """The row of a new endpoint; what is not asked for comes from the project's defaults.

    Raises InvalidInput for values out of bounds, NotSupported for a read-only one.
    """
    if request.type == "read_only":
        raise NotSupported(
            "read-only endpoints are not available in this version of the cell",
            next_step="connect to the read-write endpoint, or branch",
        )
    defaults = project.default_endpoint_settings

    def number(name: str, asked: float | None, fallback: float) -> float:
        value = defaults.get(name, fallback) if asked is None else asked
        return float(value) if isinstance(value, int | float) else fallback

    smallest = number("autoscaling_limit_min_cu", request.min_cu, CU_DEFAULT)
    now = context.clock.now()
    endpoint = Endpoint(
        id=new_endpoint_id(),
        project_id=project.id,
        branch_id=branch_id,
        type=request.type,
        min_cu=smallest,
        max_cu=max(smallest, number("autoscaling_limit_max_cu", request.max_cu, smallest)),
        suspend_timeout_seconds=int(number("suspend_timeout_seconds", request.suspend_timeout_seconds, 0)),
        settings=settings_of_new(defaults, request.settings),
        state="idle",
        created_at=now,
        updated_at=now,
    )
    if isinstance(request, EndpointCreate):
        endpoint = replace(
            endpoint, name=request.name, disabled=request.disabled, pooler_enabled=request.pooler_enabled
        )
    check_compute(endpoint.min_cu, endpoint.max_cu, endpoint.suspend_timeout_seconds)
    check_settings(endpoint.settings)
    return endpoint


def check_one_writer(others: Sequence[Endpoint], kind: EndpointType) -> None:
    """Raises Conflict for a second read-write endpoint of one branch: two instances on one head destroy it."""
    if kind == "read_write" and any(endpoint.type == "read_write" for endpoint in others):
        raise Conflict("the branch already has a read-write endpoint", field="endpoint.type")


async def create_endpoint(
    context: Context, runner: Runner, project_id: ProjectId, request: EndpointCreate
) -> EndpointChanged:
    """A way into a branch that has none."""

    def begin(tables: Tables) -> tuple[Endpoint, Operation]:
        project = idle_project(tables, project_id)
        branch = branch_of(tables, project_id, request.branch_id)
        check_one_writer(tables.endpoints_of_branch(branch.id), request.type)
        endpoint = new_endpoint(context, project, branch.id, request)
        work = operation(context, APPLY, "create_compute", project_id, branch_id=branch.id, endpoint_id=endpoint.id)
        tables.insert(endpoint)
        tables.insert(work)
        return endpoint, work

    endpoint, work = await context.state.write(begin)
    return EndpointChanged(endpoint=endpoint, operations=await runner.finish([work]))


async def delete_endpoint(
    context: Context, runner: Runner, project_id: ProjectId, endpoint_id: EndpointId
) -> EndpointChanged | None:
    """Ends its sessions and takes it away; the branch and its data stay. None when there is no such endpoint."""

    def begin(tables: Tables) -> tuple[Endpoint, Operation] | None:
        idle_project(tables, project_id)
        endpoint = tables.living_endpoint(endpoint_id)
        if endpoint is None or endpoint.project_id != project_id:
            return None
        work = operation(
            context, DELETE, "suspend_compute", project_id, branch_id=endpoint.branch_id, endpoint_id=endpoint_id
        )
        tables.insert(work)
        return endpoint, work

    begun = await context.state.write(begin)
    if begun is None:
        return None
    endpoint, work = begun
    return EndpointChanged(endpoint=endpoint, operations=await runner.finish([work]))


async def _retire(context: Context, work: Operation) -> None:
    await context.instances.retire(endpoint_id_of(work))


async def _remove(context: Context, work: Operation) -> None:
    endpoint_id = endpoint_id_of(work)
    await asyncio.to_thread(context.layout.remove_traces, endpoint_id)
    await context.state.write(lambda tables: tables.delete_endpoint(endpoint_id))
    context.instances.forget(endpoint_id)


async def _stay(context: Context, work: Operation) -> None:
    """An endpoint that could not be deleted is there as before."""
    context.instances.forget_retired(endpoint_id_of(work))


def changed(endpoint: Endpoint, change: EndpointChange) -> Endpoint:
    """The endpoint after the change. Raises InvalidInput for values out of bounds, NotSupported for moving it."""
    if change.branch_id is not None and change.branch_id != endpoint.branch_id:
        raise NotSupported("an endpoint cannot move to another branch here", next_step="create one on that branch")
    smallest = endpoint.min_cu if change.min_cu is None else change.min_cu
    largest = max(endpoint.max_cu, smallest) if change.max_cu is None else change.max_cu
    timeout = change.suspend_timeout_seconds
    after = replace(
        endpoint,
        name=endpoint.name if change.name is None else change.name,
        min_cu=smallest,
        max_cu=largest,
        suspend_timeout_seconds=endpoint.suspend_timeout_seconds if timeout is None else timeout,
        disabled=endpoint.disabled if change.disabled is None else change.disabled,
        pooler_enabled=endpoint.pooler_enabled if change.pooler_enabled is None else change.pooler_enabled,
        settings={**endpoint.settings, **(change.settings or {})},
    )
    check_compute(after.min_cu, after.max_cu, after.suspend_timeout_seconds)
    check_settings(after.settings)
    return after


async def update_endpoint(
    context: Context, runner: Runner, project_id: ProjectId, endpoint_id: EndpointId, change: EndpointChange
) -> EndpointChanged:
    """Writes the change down and applies it to a running instance."""

    def begin(tables: Tables) -> Operation:
        idle_project(tables, project_id)
        before = endpoint_of(tables, project_id, endpoint_id)
        after = replace(changed(before, change), updated_at=context.clock.now())
        tables.update(after)
        work = operation(
            context,
            APPLY,
            "suspend_compute" if after.disabled and not before.disabled else "apply_config",
            project_id,
            branch_id=after.branch_id,
            endpoint_id=endpoint_id,
            argument={
                "sleep": after.disabled,
                "restart": (after.max_cu, after.settings) != (before.max_cu, before.settings),
            },
        )
        tables.insert(work)
        return work

    operations = await runner.finish([await context.state.write(begin)])
    endpoint = await context.state.read(lambda tables: endpoint_of(tables, project_id, endpoint_id))
    return EndpointChanged(endpoint=context.instances.overlay(endpoint), operations=operations)


DELETE: Final = Verb("delete_endpoint", (_retire, _remove), _stay)
