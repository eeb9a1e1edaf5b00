"""Delete a project: it is gone for everyone at once, then its instances stop, then its rows go, then its files."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from tenantry.cell.model import Operation, Project
from tenantry.cell.operations.context import Context, Verb, idle_project, operation
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.neon.ids import ProjectId


async def delete_project(context: Context, runner: Runner, project_id: ProjectId) -> Project:
    """Answers when the instances have stopped and no row is left; files are deleted in the background.

    Raises NotFound, or Locked while another change runs.
    """

    def begin(tables: Tables) -> tuple[Project, Operation]:
        now = context.clock.now()
        project = replace(idle_project(tables, project_id), deleted_at=now, updated_at=now)
        work = operation(context, VERB, "delete_timeline", project_id)
        tables.update(project)
        tables.insert(work)
        return project, work

    project, work = await context.state.write(begin)
    await runner.finish([work])
    return project


async def _stop_instances(context: Context, work: Operation) -> None:
    for endpoint in await context.state.read(lambda tables: tables.endpoints(work.project_id)):
        await context.instances.retire(endpoint.id)


async def _remove_rows(context: Context, work: Operation) -> None:
    """The rows go and the directory is doomed in one transaction, so that no moment has files that nothing names."""
    endpoints = await context.state.read(lambda tables: tables.endpoints(work.project_id))

    def remove(tables: Tables) -> None:
        project = tables.project(work.project_id)
        if project is None:
            return
        path = context.layout.relative(context.layout.project(project.id))
        tables.doom(path, project.uid, context.clock.now())
        tables.delete_project(project.id)

    for endpoint in endpoints:
        await asyncio.to_thread(context.layout.remove_traces, endpoint.id)
    await context.state.write(remove)
    for endpoint in endpoints:
        context.instances.forget(endpoint.id)


VERB: Final = Verb("delete_project", (_stop_instances, _remove_rows))
