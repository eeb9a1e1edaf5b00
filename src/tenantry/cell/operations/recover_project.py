"""Recover a deleted project: its branches, endpoints, roles and passwords are as they were; everything sleeps."""

from __future__ import annotations

from dataclasses import replace

from tenantry.cell.model import Endpoint, RecoveredProject
from tenantry.cell.operations.context import Context, check_idle
from tenantry.cell.operations.purge import recoverable_since
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, NotFound
from tenantry.neon.ids import ProjectId


async def recover_project(context: Context, project_id: ProjectId) -> RecoveredProject:
    """Raises NotFound when there is nothing to recover (any more), Conflict for a living project, Locked."""

    def apply(tables: Tables) -> tuple[RecoveredProject, list[Endpoint]]:
        project = tables.project(project_id)
        if project is not None and project.deleted_at is None:
            raise Conflict(f"project {project_id} is not deleted", project_id=project_id)
        if project is None or project.deleted_at is None or project.deleted_at <= recoverable_since(context):
            raise NotFound(f"there is no project {project_id} to recover", project_id=project_id)
        check_idle(tables, project_id)
        project = replace(project, deleted_at=None, updated_at=context.clock.now())
        tables.update(project)
        branches = tuple(tables.branches(project_id))
        return RecoveredProject(project=project, branches=branches), tables.endpoints(project_id)

    recovered, endpoints = await context.state.write(apply)
    for endpoint in endpoints:
        # A deletion that failed half-way had retired them.
        context.instances.forget_retired(endpoint.id)
    return recovered
