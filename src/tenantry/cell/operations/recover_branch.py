"""Recover a deleted branch: its endpoints, roles and passwords are as they were; it sleeps and expires no more."""

from __future__ import annotations

from dataclasses import replace

from tenantry.cell.model import Branch, RecoveredBranch
from tenantry.cell.operations.branches import check_name, check_number
from tenantry.cell.operations.context import Context, idle_project
from tenantry.cell.operations.purge import recoverable_since
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, NotFound
from tenantry.neon.ids import BranchId, ProjectId


async def recover_branch(context: Context, project_id: ProjectId, branch_id: BranchId) -> RecoveredBranch:
    """Raises NotFound when there is nothing to recover (any more), LimitReached, Locked.

    Conflict for a living branch, one whose name another has meanwhile, and one whose parent is deleted.
    """

    def apply(tables: Tables) -> RecoveredBranch:
        idle_project(tables, project_id)
        branch = tables.branch(branch_id)
        if branch is not None and branch.project_id == project_id and branch.deleted_at is None:
            raise Conflict(f"branch {branch_id} is not deleted", branch_id=branch_id)
        if (
            branch is None
            or branch.project_id != project_id
            or branch.deleted_at is None
            or branch.deleted_at <= recoverable_since(context)
        ):
            raise NotFound(f"there is no branch {branch_id} to recover", branch_id=branch_id)
        siblings = tables.branches(project_id)
        check_number(siblings, project_id)
        check_name(siblings, branch.name, next_step="rename that one, then recover this")
        _check_parent(tables, branch)
        # What has expired must not go again at once.
        after = replace(branch, deleted_at=None, deletion_method=None, expires_at=None, updated_at=context.clock.now())
        tables.update(after)
        return RecoveredBranch(branch=after, endpoints=tuple(tables.endpoints_of_branch(branch_id)))

    recovered = await context.state.write(apply)
    for endpoint in recovered.endpoints:
        context.instances.forget_retired(endpoint.id)
    return recovered


def _check_parent(tables: Tables, branch: Branch) -> None:
    parent = None if branch.parent_id is None else tables.branch(branch.parent_id)
    if parent is not None and parent.deleted_at is not None:
        raise Conflict(
            f"the parent of branch {branch.name!r} is deleted too",
            next_step=f"recover {parent.id} first",
            parent_id=parent.id,
        )
