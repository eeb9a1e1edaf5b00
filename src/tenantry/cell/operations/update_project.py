"""Change a project's name, settings and history retention; nothing restarts."""

from __future__ import annotations

from dataclasses import replace

from tenantry.cell.model import Project, ProjectChange, ProjectChanged
from tenantry.cell.operations.context import Context, idle_project
from tenantry.cell.operations.names import check_settings
from tenantry.cell.state.tables import Tables
from tenantry.neon.ids import ProjectId


def changed(project: Project, change: ProjectChange) -> Project:
    """The project after the change. Raises InvalidInput for settings that no tenant may have."""
    defaults = {**project.default_endpoint_settings, **(change.default_endpoint_settings or {})}
    check_settings(defaults)
    retention = change.history_retention_seconds
    return replace(
        project,
        name=project.name if change.name is None else change.name,
        history_retention_seconds=project.history_retention_seconds if retention is None else retention,
        settings={**project.settings, **(change.settings or {})},
        default_endpoint_settings=defaults,
    )


async def update_project(context: Context, project_id: ProjectId, change: ProjectChange) -> ProjectChanged:
    """Raises NotFound, InvalidInput, or Locked while another change runs."""

    def apply(tables: Tables) -> Project:
        after = replace(changed(idle_project(tables, project_id), change), updated_at=context.clock.now())
        tables.update(after)
        return after

    return ProjectChanged(project=await context.state.write(apply))
