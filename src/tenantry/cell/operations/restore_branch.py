"""Restore a branch: a new head from a point of some history takes the place of the branch's present one.

The connection string stays. The old head becomes a branch of its own when the caller gives it a name, and goes
otherwise. A crash leaves either the old head or the new one, never neither: the swap is one transaction.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from tenantry.cell.compute.truth import Truth
from tenantry.cell.model import BranchChanged, BranchRestore, Head, Operation, Project, unfinished
from tenantry.cell.operations.branches import (
    Place,
    check_head,
    check_name,
    copy_roles_and_databases,
    kept_verifiers,
    resolve,
    roles_of_the_past,
    source_head,
)
from tenantry.cell.operations.context import Context, Verb, branch_of, idle_project, operation
from tenantry.cell.operations.history import head_of
from tenantry.cell.operations.new_head import Source, forget, make_head_with_roles, read_source
from tenantry.cell.operations.purge import release_head
from tenantry.cell.operations.records import copy_truth
from tenantry.cell.operations.roles import branch_id_of, fresh
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, Defect, InvalidInput
from tenantry.neon.ids import BranchId, HeadId, ProjectId, new_branch_id, new_head_id
from tenantry.runtime.failpoints import failpoint


async def restore_branch(
    context: Context,
    runner: Runner,
    project_id: ProjectId,
    branch_id: BranchId,
    to: BranchRestore,
    *,
    state: Place | None = None,
) -> BranchChanged:
    """Answers when the branch is in the state that was asked for. Raises InvalidInput, Conflict or HistoryGap.

    With ``state`` that is the one, whatever head the source runs by now.
    """
    in_place = to.source_branch_id == branch_id
    if in_place and to.source_lsn is None and to.source_timestamp is None:
        raise InvalidInput("a branch is restored to a point of its own past", next_step="give an LSN or a time")
    if in_place and to.preserve_under_name is None:
        raise InvalidInput(
            "restoring a branch to its own past keeps the present under another name",
            next_step="give preserve_under_name",
            field="preserve_under_name",
        )
    source = await context.state.read(lambda tables: branch_of(tables, project_id, to.source_branch_id))
    await fresh(context, project_id, branch_id)
    chosen = state or await resolve(context, source, lsn=to.source_lsn, moment=to.source_timestamp)

    def begin(tables: Tables) -> Operation:
        idle_project(tables, project_id)
        branch = branch_of(tables, project_id, branch_id)
        origin = branch_of(tables, project_id, to.source_branch_id)
        if state is None:
            check_head(origin, chosen)
        source_head(tables, origin, chosen)
        if to.preserve_under_name is not None:
            check_name(tables.branches(project_id), to.preserve_under_name)
        elif tables.children(branch_id):
            raise Conflict(
                f"branch {branch.name!r} has children, whose past is its present head",
                next_step="give preserve_under_name",
                field="preserve_under_name",
            )
        work = operation(
            context,
            VERB,
            "create_branch",
            project_id,
            branch_id=branch_id,
            argument={
                **({} if chosen is None else chosen.argument),
                "source": to.source_branch_id,
                "preserve": to.preserve_under_name,
                "moment": None if to.source_timestamp is None else to.source_timestamp.isoformat(),
                "head": new_head_id(),
                "backup": new_branch_id(),
            },
        )
        tables.insert(work)
        return work

    operations = await runner.finish([await context.state.write(begin)])
    done = not any(unfinished(work) for work in operations)

    def after(tables: Tables) -> BranchChanged:
        return BranchChanged(
            branch=branch_of(tables, project_id, branch_id),
            operations=operations,
            roles_of_the_past=roles_of_the_past(tables, branch_id) if done else None,
        )

    return await context.state.read(after)


async def _restore(context: Context, work: Operation) -> None:
    """Makes the new head and swaps it in. Running again makes it anew, unless the swap has happened."""
    branch_id, head_id = branch_id_of(work), HeadId(str(work.argument["head"]))
    chosen = Place.of(work)

    def look(tables: Tables) -> tuple[Project, Head, Source, dict[str, str]] | None:
        project, branch = tables.project(work.project_id), tables.branch(branch_id)
        origin = tables.branch(BranchId(str(work.argument["source"])))
        if project is None or branch is None or origin is None:
            raise Defect(f"operation {work.id} restores a branch whose rows are gone")
        if branch.head_id == head_id:
            return None
        return (
            project,
            head_of(tables, branch),
            read_source(tables, project, origin, source_head(tables, origin, chosen), chosen and chosen.lsn),
            kept_verifiers(tables, branch_id),
        )

    found = await context.state.read(look)
    if found is None:
        return
    project, old, source, keep = found
    planned = Head(
        id=head_id,
        project_id=project.id,
        branch_id=branch_id,
        generation=old.generation + 1,
        build_id=source.head.build_id,
        timeline=source.head.timeline,
        origin_head_id=source.head.id,
        created_at=context.clock.now(),
    )
    head, holds = await make_head_with_roles(context, source, planned, keep)
    failpoint("restore_branch.made")
    endpoints = await context.state.read(lambda tables: tables.endpoints_of_branch(branch_id))
    async with context.instances.asleep([endpoint.id for endpoint in endpoints]):
        failpoint("restore_branch.asleep")
        await context.state.write(lambda tables: _swap(context, tables, work, head, holds))
    failpoint("restore_branch.swapped")


async def _undo(context: Context, work: Operation) -> None:
    """A head that has not taken the branch's place leaves no file."""
    head_id = HeadId(str(work.argument["head"]))

    def look(tables: Tables) -> tuple[Project | None, bool]:
        return tables.project(work.project_id), tables.head(head_id) is not None

    project, swapped = await context.state.read(look)
    if project is not None and not swapped:
        await forget(context, project, head_id)


def unborn(tables: Tables) -> list[tuple[ProjectId, HeadId]]:
    """Heads that unfinished restores are making, whose rows come with the swap."""
    return [
        (work.project_id, HeadId(str(work.argument["head"])))
        for work in tables.operations_unfinished()
        if work.verb == VERB.name
    ]


def _swap(context: Context, tables: Tables, work: Operation, head: Head, holds: Truth) -> None:
    branch = tables.branch(branch_id_of(work))
    project = tables.project(work.project_id)
    if branch is None or project is None:
        raise Defect(f"operation {work.id} restores a branch whose rows are gone")
    old, now = head_of(tables, branch), context.clock.now()
    if old.generation >= head.generation:
        raise Conflict(f"branch {branch.id} has another head meanwhile", generation=old.generation)
    preserve = work.argument["preserve"]
    moment = work.argument["moment"]
    tables.insert(head)
    after = replace(
        branch,
        head_id=head.id,
        parent_lsn=head.origin_lsn,
        parent_timestamp=now if moment is None else datetime.fromisoformat(str(moment)),
        updated_at=now,
    )
    if preserve is None:
        tables.update(after)
        release_head(context, tables, project, old)
    else:
        backup = replace(
            branch,
            id=BranchId(str(work.argument["backup"])),
            name=str(preserve),
            default=False,
            protected=False,
            expires_at=None,
            preserved_of=branch.id,
            restore_status=None,
            restored_from=None,
            restored_as=None,
            created_at=now,
            updated_at=now,
        )
        tables.insert(backup)
        tables.update(replace(old, branch_id=backup.id))
        copy_roles_and_databases(context, tables, branch.id, backup.id)
        for child in tables.children(branch.id, deleted=True):
            tables.update(replace(child, parent_id=backup.id))
        in_place = work.argument["source"] == branch.id
        tables.update(replace(after, parent_id=backup.id) if in_place else after)
    copy_truth(tables, branch.id, holds, now)


VERB: Final = Verb("restore_branch", (_restore,), _undo)
