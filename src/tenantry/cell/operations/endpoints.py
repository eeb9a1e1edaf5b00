"""Start, suspend, restart and change an endpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from tenantry.cell.model import Endpoint, EndpointChange, EndpointChanged, Operation
from tenantry.cell.operations.context import Context, Verb, endpoint_of, idle_project, operation
from tenantry.cell.operations.names import check_compute, check_settings
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import Defect, NotSupported
from tenantry.neon.ids import EndpointId, ProjectId


def endpoint_id_of(work: Operation) -> EndpointId:
    """The endpoint an operation is about; such an operation always has one."""
    if work.endpoint_id is None:
        raise Defect(f"operation {work.id} ({work.verb}) names no endpoint")
    return work.endpoint_id


async def _start(context: Context, work: Operation) -> None:
    lease = await context.instances.lease(endpoint_id_of(work), "operation")
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


async def _do(
    context: Context, runner: Runner, project_id: ProjectId, endpoint_id: EndpointId, verbs: list[Verb]
) -> EndpointChanged:
    def begin(tables: Tables) -> list[Operation]:
        idle_project(tables, project_id)
        endpoint = endpoint_of(tables, project_id, endpoint_id)
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
    """Wakes it. Raises Unavailable when it is disabled."""
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
