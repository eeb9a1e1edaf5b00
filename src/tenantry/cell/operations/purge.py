"""What was deleted and is not recovered in time goes for good: rows first, then files in the background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from tenantry.cell.model import Branch, Endpoint, Head, Project
from tenantry.cell.operations.context import Context
from tenantry.cell.state.tables import Tables
from tenantry.neon.ids import BranchId, ProjectId

_log = structlog.get_logger("purge")
RECOVERABLE_BRANCHES_MAX: Final = 1_000
"""Of one project: the earliest deleted go before their time. More than can live at once, so no slip is past help."""


def recoverable_since(context: Context) -> datetime:
    """What was deleted up to this moment cannot be recovered any more."""
    return context.clock.now() - timedelta(seconds=context.config.recover_seconds)


async def purge(context: Context) -> int:
    """Looks at everything that is deleted; how many projects and branches went for good."""
    until = recoverable_since(context)

    def look(tables: Tables) -> tuple[list[Project], list[Branch]]:
        return (
            tables.projects_deleted_until(until),
            tables.branches_deleted_until(until, kept_max=RECOVERABLE_BRANCHES_MAX),
        )

    projects, branches = await context.state.read(look)
    gone = 0
    for project in projects:

        def lost(tables: Tables, project: Project = project) -> list[Endpoint] | None:
            now = tables.project(project.id)
            if now is None or now.deleted_at != project.deleted_at or tables.operations_unfinished(project.id):
                return None
            return tables.endpoints(project.id)

        def drop(tables: Tables, project: Project = project) -> None:
            drop_project(context, tables, project.id)

        gone += await _drop(context, lost, drop, f"project {project.id}")
    for branch in branches:

        def lost_one(tables: Tables, branch: Branch = branch) -> list[Endpoint] | None:
            now = tables.branch(branch.id)
            if now is None or now.deleted_at != branch.deleted_at or tables.operations_unfinished(branch.project_id):
                return None
            return tables.endpoints_of_branch(branch.id)

        def drop_one(tables: Tables, branch: Branch = branch) -> None:
            drop_branch(context, tables, branch.id)

        gone += await _drop(context, lost_one, drop_one, f"branch {branch.id}")
    return gone


async def _drop(
    context: Context, lost: Callable[[Tables], list[Endpoint] | None], drop: Callable[[Tables], None], what: str
) -> bool:
    """``lost`` answers the endpoints of what is still to go; None when it was recovered meanwhile, or somebody is at
    it."""
    endpoints = await context.state.read(lost)
    if endpoints is None:
        return False
    for endpoint in endpoints:
        # It sleeps since it was deleted, unless stopping it failed then.
        await context.instances.suspend(endpoint.id, insist=True)

    def drop_if_lost(tables: Tables) -> bool:
        if lost(tables) is None:
            return False
        drop(tables)
        return True

    dropped = await context.state.write(drop_if_lost)
    if dropped:
        _log.info("cannot be recovered any more", what=what)
        for endpoint in endpoints:
            context.instances.forget(endpoint.id)
    return dropped


def drop_project(context: Context, tables: Tables, project_id: ProjectId) -> None:
    """The rows go and the directory is doomed. Harmless twice."""
    project = tables.project(project_id)
    if project is not None:
        path = context.layout.relative(context.layout.project(project.id))
        tables.doom(path, project.uid, context.clock.now())
        tables.delete_project(project.id)


def drop_branch(context: Context, tables: Tables, branch_id: BranchId) -> None:
    """The branch's rows go, and of its heads what nobody else needs. Harmless twice."""
    branch = tables.branch(branch_id)
    project = None if branch is None else tables.project(branch.project_id)
    if branch is None or project is None:
        return
    for head in tables.heads(project.id):
        if head.branch_id == branch_id:
            release_head(context, tables, project, head)
    tables.delete_branch(branch_id)


def release_head(context: Context, tables: Tables, project: Project, head: Head) -> None:
    """No branch runs the head any more: it goes, unless its history is the past of others, which then stays."""
    now, directory = context.clock.now(), context.layout.head(project.id, head.id)
    needed = any(other.origin_head_id == head.id for other in tables.heads(project.id)) or any(
        snapshot.head_id == head.id for snapshot in tables.snapshots(project.id)
    )
    if needed:
        tables.update(replace(head, branch_id=None))
        tables.doom(context.layout.relative(directory / "data"), project.uid, now)
    else:
        tables.delete_head(head.id)
        tables.doom(context.layout.relative(directory), project.uid, now)
