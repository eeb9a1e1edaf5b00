"""Let a branch that was made from a snapshot take the place of the one it was made for.

The other's endpoints, its name, and what made it special move over, and so do today's passwords: whoever connects as
before finds the snapshot's state. The former state stays as a branch under another name, behind whatever endpoint the
restored branch had been looked at through.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from typing import Final

from tenantry.cell.model import Branch, Operation
from tenantry.cell.operations.branches import check_name, kept_verifiers
from tenantry.cell.operations.context import Context, Verb, branch_of, idle_project, operation
from tenantry.cell.operations.history import head_of
from tenantry.cell.operations.new_head import Source, give_verifiers, read_source, visit
from tenantry.cell.operations.passwords import resealed
from tenantry.cell.operations.records import copy_truth
from tenantry.cell.operations.roles import branch_id_of, fresh
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, Defect
from tenantry.neon.ids import BranchId, EndpointId, ProjectId
from tenantry.runtime.failpoints import failpoint


async def finalize_restore(
    context: Context, runner: Runner, project_id: ProjectId, branch_id: BranchId, *, name: str | None
) -> Sequence[Operation]:
    """``name`` is for the branch that is replaced. Answers when the endpoints have moved.

    Raises Conflict for a branch that waits for nothing, when the other is gone, and for a name that is taken.
    """
    target = await context.state.read(lambda tables: _target(tables, project_id, branch_id))
    await fresh(context, project_id, target.id)

    def begin(tables: Tables) -> Operation:
        idle_project(tables, project_id)
        target, siblings = _target(tables, project_id, branch_id), tables.branches(project_id)
        chosen = name or former_name(target.name, {sibling.name for sibling in siblings})
        check_name(siblings, chosen)
        work = operation(
            context,
            VERB,
            "apply_config",
            project_id,
            branch_id=branch_id,
            argument={"target": target.id, "name": chosen},
        )
        tables.insert(work)
        return work

    return await runner.finish([await context.state.write(begin)])


def former_name(name: str, taken: Collection[str]) -> str:
    """``main (old)``, or with the first number that is free. Pure."""
    names = (f"{name} (old)" if number == 1 else f"{name} (old {number})" for number in count(1))
    return next(each for each in names if each not in taken)


def _target(tables: Tables, project_id: ProjectId, branch_id: BranchId) -> Branch:
    branch = branch_of(tables, project_id, branch_id)
    if branch.restore_status != "restored" or branch.restored_as is None:
        raise Conflict(
            f"branch {branch.name!r} has no restore to finalize",
            next_step="restore a snapshot with finalize_restore: false first",
            branch_id=branch_id,
        )
    target = tables.branch(branch.restored_as)
    if target is None or target.deleted_at is not None:
        raise Conflict(
            f"the branch whose place {branch.name!r} was to take is gone", next_step="use it as it is, or rename it"
        )
    return target


async def _carry_over(context: Context, work: Operation) -> None:
    """Gives the restored branch's roles today's passwords of the other, in its instance first, then in cell.db."""
    branch_id, target_id = branch_id_of(work), BranchId(str(work.argument["target"]))

    def look(tables: Tables) -> tuple[Source, dict[str, str]]:
        project, branch = tables.project(work.project_id), tables.branch(branch_id)
        if project is None or branch is None:
            raise Defect(f"operation {work.id} finalizes a branch whose rows are gone")
        source = read_source(tables, project, branch, head_of(tables, branch), None)
        return source, kept_verifiers(tables, target_id)

    source, keep = await context.state.read(look)
    async with visit(context, source) as admin:
        holds = await give_verifiers(admin, keep)
    failpoint("finalize_restore.given")

    def note(tables: Tables) -> None:
        now = context.clock.now()
        copy_truth(tables, branch_id, holds, now)
        for name, verifier in keep.items():
            role, other = tables.role(branch_id, name), tables.role(target_id, name)
            if role is not None and other is not None and role.verifier == verifier:
                tables.update(replace(role, password_sealed=resealed(context, other, branch_id), updated_at=now))

    async with nullcontext() if source.endpoint is None else context.instances.copying(source.endpoint.id):
        await context.state.write(note)


async def _move(context: Context, work: Operation) -> None:
    """The endpoints change places while all of them sleep, in one transaction."""
    branch_id, target_id = branch_id_of(work), BranchId(str(work.argument["target"]))

    def look(tables: Tables) -> list[EndpointId]:
        return [e.id for i in (branch_id, target_id) for e in tables.endpoints_of_branch(i)]

    endpoints = await context.state.read(look)
    async with context.instances.asleep(endpoints):
        await context.state.write(lambda tables: _swap(context, tables, work, branch_id, target_id))


def _swap(context: Context, tables: Tables, work: Operation, branch_id: BranchId, target_id: BranchId) -> None:
    branch, target, now = tables.branch(branch_id), tables.branch(target_id), context.clock.now()
    if branch is None or target is None:
        raise Defect(f"operation {work.id} finalizes a branch whose rows are gone")
    if branch.restore_status == "finalized":
        return
    ours, theirs = tables.endpoints_of_branch(branch_id), tables.endpoints_of_branch(target_id)
    for endpoint in ours:
        tables.update(replace(endpoint, branch_id=target_id, updated_at=now))
    for endpoint in theirs:
        tables.update(replace(endpoint, branch_id=branch_id, updated_at=now))
    # First the name that becomes free.
    tables.update(
        replace(
            target,
            name=str(work.argument["name"]),
            default=False,
            protected=False,
            preserved_of=branch_id,
            updated_at=now,
        )
    )
    tables.update(
        replace(
            branch,
            name=target.name,
            default=target.default,
            protected=target.protected,
            expires_at=target.expires_at,
            restore_status="finalized",
            updated_at=now,
        )
    )
    tables.set_schedule(branch_id, tables.schedule(target_id), now)
    tables.set_schedule(target_id, [], now)


VERB: Final = Verb("finalize_restore", (_carry_over, _move))
