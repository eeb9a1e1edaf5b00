"""Delete a project: it is gone for everyone at once, then its instances stop; its files and rows stay until the purge.

Within the cell's ``recover_seconds`` it can be recovered as it was. A hard deletion purges at once, also what was
deleted before.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from tenantry.cell.model import Operation, Project
from tenantry.cell.operations.context import Context, Verb, check_idle, operation
from tenantry.cell.operations.purge import drop_project
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import NotFound
from tenantry.neon.ids import ProjectId


async def delete_project(context: Context, runner: Runner, project_id: ProjectId, *, hard: bool = False) -> Project:
    """Answers when the instances have stopped. After a hard deletion, or where nothing is to be recovered, no row is
    left then, and the files are deleted in the background.

    Raises NotFound, or Locked while another change runs.
    """

    def begin(tables: Tables) -> tuple[Project, Operation]:
        now = context.clock.now()
        project = tables.project(project_id)
        if project is None or (project.deleted_at is not None and not hard):
            raise NotFound(f"project {project_id} does not exist", project_id=project_id)
        check_idle(tables, project_id)
        if project.deleted_at is None:
            project = replace(project, deleted_at=now, updated_at=now)
            tables.update(project)
        purge = hard or context.config.recover_seconds == 0
        work = operation(context, VERB, "delete_timeline", project_id, argument={"purge": purge})
        tables.insert(work)
        return project, work

    project, work = await context.state.write(begin)
    await runner.finish([work])
    return project


async def _stop_instances(context: Context, work: Operation) -> None:
    for endpoint in await context.state.read(lambda tables: tables.endpoints(work.project_id)):
        await context.instances.retire(endpoint.id)


async def _let_go(context: Context, work: Operation) -> None:
    """Sockets and logs go; with ``purge`` the rows too, and the directory is doomed in the same transaction, so that
    no moment has files that nothing names."""
    endpoints = await context.state.read(lambda tables: tables.endpoints(work.project_id))
    for endpoint in endpoints:
        await asyncio.to_thread(context.layout.remove_traces, endpoint.id)
    if work.argument["purge"]:
        await context.state.write(lambda tables: drop_project(context, tables, work.project_id))
    for endpoint in endpoints:
        context.instances.forget(endpoint.id)


VERB: Final = Verb("delete_project", (_stop_instances, _let_go))
