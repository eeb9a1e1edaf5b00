"""Create, delete, rename and choose branches; the restoring is in its own file."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tenantry.cell.model import (
    Annotation,
    Branch,
    BranchChange,
    BranchChanged,
    BranchCreate,
    BranchEndpointCreate,
    CreatedBranch,
    Database,
    DeletionMethod,
    Endpoint,
    Head,
    JsonObject,
    Operation,
    Project,
    Role,
    RolePassword,
)
from tenantry.cell.operations.context import Context, Verb, branch_of, idle_project, living_project, operation
from tenantry.cell.operations.endpoints import check_one_writer, new_endpoint
from tenantry.cell.operations.history import head_of, heads_by_id
from tenantry.cell.operations.new_head import Source, check_lsn, forget, make_head, opened, read_source
from tenantry.cell.operations.outline_head import make_outline_head
from tenantry.cell.operations.passwords import resealed, stored_password
from tenantry.cell.operations.purge import drop_branch
from tenantry.cell.operations.records import copy_truth
from tenantry.cell.operations.roles import branch_id_of, fresh
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage import sizes
from tenantry.errors import Conflict, Defect, InvalidInput, LimitReached, Locked, NotFound
from tenantry.neon.ids import BranchId, HeadId, ProjectId, new_branch_id, new_head_id
from tenantry.postgres.lsn import format_lsn

BRANCHES_PER_PROJECT_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Place:
    """One state of one head's history."""

    head_id: HeadId
    lsn: str

    @property
    def argument(self) -> JsonObject:
        return {"source_head": self.head_id, "lsn": self.lsn}

    @staticmethod
    def of(work: Operation) -> Place | None:
        """As ``argument`` has it; None for a head as it is."""
        head_id, lsn = work.argument.get("source_head"), work.argument.get("lsn")
        return None if head_id is None else Place(HeadId(str(head_id)), str(lsn))


# ---------------------------------------------------------------------------------------------------- create


async def create_branch(
    context: Context, runner: Runner, project_id: ProjectId, request: BranchCreate, *, state: Place | None = None
) -> CreatedBranch:
    """Answers when the branch can be connected to. Raises InvalidInput for a point outside of the history.

    With ``state`` it is made from there, whatever head its parent runs by now.
    """
    if request.expires_at is not None and request.expires_at <= context.clock.now():
        raise InvalidInput("expires_at is in the past", field="branch.expires_at")
    parent = await _parent(context, project_id, request.parent_id)
    await fresh(context, project_id, parent.id)
    chosen = state or await resolve(context, parent, lsn=request.parent_lsn, moment=request.parent_timestamp)

    def begin(tables: Tables) -> tuple[Branch, list[Endpoint], list[Role], list[Database], Operation]:
        project = idle_project(tables, project_id)
        origin = branch_of(tables, project_id, parent.id)
        if state is None:
            check_head(origin, chosen)
        branch, head = plan_branch(context, tables, project, origin, request, source_head(tables, origin, chosen))
        tables.insert(branch)
        tables.insert(head)
        roles, databases = copy_roles_and_databases(context, tables, origin.id, branch.id)
        endpoints = _endpoints(context, tables, project, branch, request.endpoints)
        if request.annotations:
            now = context.clock.now()
            tables.insert(Annotation(branch_id=branch.id, value=request.annotations, created_at=now, updated_at=now))
        argument: JsonObject = {**({} if chosen is None else chosen.argument), "parent": origin.id}
        work = operation(context, CREATE, "create_branch", project_id, branch_id=branch.id, argument=argument)
        tables.insert(work)
        return branch, endpoints, roles, databases, work

    branch, endpoints, _, _, work = await context.state.write(begin)
    operations = await runner.finish([work])

    def look(tables: Tables) -> CreatedBranch:
        after = branch_of(tables, project_id, branch.id)
        return CreatedBranch(
            branch=after,
            endpoints=tuple(endpoints),
            roles=tuple(_with_password(context, role) for role in tables.roles(branch.id)),
            databases=tuple(tables.databases(branch.id)),
            operations=operations,
        )

    return await context.state.read(look)


async def _parent(context: Context, project_id: ProjectId, parent_id: BranchId | None) -> Branch:
    def look(tables: Tables) -> Branch:
        living_project(tables, project_id)
        if parent_id is not None:
            return branch_of(tables, project_id, parent_id)
        return next(branch for branch in tables.branches(project_id) if branch.default)

    return await context.state.read(look)


async def resolve(context: Context, branch: Branch, *, lsn: str | None, moment: datetime | None) -> Place | None:
    """What a request names in a branch's history; None for the branch as it is now.

    Raises InvalidInput where it lies outside of the history, HistoryGap where the log is missing.
    """
    if lsn is not None and moment is not None:
        raise InvalidInput("give a position or a time, not both", field="timestamp")
    if lsn is None and moment is None:
        return None

    def look(tables: Tables) -> tuple[Project, Head, dict[HeadId, Head]]:
        project = living_project(tables, branch.project_id)
        return project, head_of(tables, branch), heads_by_id(tables, project)

    project, head, heads = await context.state.read(look)
    checked = None if lsn is None else check_lsn(lsn)
    point = await asyncio.to_thread(lambda: context.keeper.point(project, head, heads, lsn=checked, moment=moment))
    return Place(head.id, format_lsn(point.lsn))


def check_head(branch: Branch, place: Place | None) -> None:
    """Raises Locked when the branch got another head since ``place`` was found: there its position means nothing."""
    if place is not None and place.head_id != branch.head_id:
        raise Locked(f"branch {branch.id} was restored a moment ago", next_step="ask again", branch_id=branch.id)


def source_head(tables: Tables, branch: Branch, place: Place | None) -> Head:
    """The head that a new one begins from. Raises Conflict when it is gone."""
    if place is None:
        return head_of(tables, branch)
    head = tables.head(place.head_id)
    if head is None:
        raise Conflict(f"the history that {place.lsn} was a position of is gone", head_id=place.head_id)
    return head


def plan_branch(
    context: Context, tables: Tables, project: Project, origin: Branch, request: BranchCreate, source: Head
) -> tuple[Branch, Head]:
    """The rows of a new branch of ``origin``. Raises Conflict for a name that is taken, LimitReached.

    With the schema only it is a root of its own, though its head is made from the origin's.
    """
    siblings = tables.branches(project.id)
    check_number(siblings, project.id)
    now = context.clock.now()
    branch_id = new_branch_id()
    name = request.name or str(branch_id)
    check_name(siblings, name)
    head = Head(
        id=new_head_id(),
        project_id=project.id,
        branch_id=branch_id,
        build_id=source.build_id,
        timeline=source.timeline,
        origin_head_id=source.id,
        created_at=now,
    )
    rooted = request.init_source == "schema-only"
    branch = Branch(
        id=branch_id,
        project_id=project.id,
        name=name,
        parent_id=None if rooted else origin.id,
        parent_lsn=None if rooted else request.parent_lsn,
        parent_timestamp=None if rooted else request.parent_timestamp,
        init_source=request.init_source,
        restore_status=None if request.restored_from is None else "restored",
        restored_from=request.restored_from,
        restored_as=request.restored_as,
        state="init",
        state_changed_at=now,
        protected=request.protected,
        head_id=head.id,
        expires_at=request.expires_at,
        created_at=now,
        updated_at=now,
    )
    return branch, head


def check_number(siblings: list[Branch], project_id: ProjectId) -> None:
    """Raises LimitReached when there is no room for one more."""
    if len(siblings) >= BRANCHES_PER_PROJECT_MAX:
        raise LimitReached(
            f"project {project_id} has {len(siblings)} branches, which is the most that one can have",
            next_step="delete branches that are not used any more",
        )


def check_name(
    siblings: list[Branch], name: str, *, but: BranchId | None = None, next_step: str = "choose another name"
) -> None:
    """Raises Conflict when another branch of the project has this name."""
    if any(branch.name == name and branch.id != but for branch in siblings):
        raise Conflict(
            f"a branch named {name!r} already exists in this project", next_step=next_step, field="branch.name"
        )


def copy_roles_and_databases(
    context: Context, tables: Tables, origin: BranchId, branch: BranchId
) -> tuple[list[Role], list[Database]]:
    """The copies of a parent's roles and databases for its child, with passwords sealed for their new place."""
    roles: list[Role] = []
    for role in tables.roles(origin):
        roles.append(replace(role, branch_id=branch, password_sealed=resealed(context, role, branch)))
        tables.insert(roles[-1])
    databases = [replace(database, id=0, branch_id=branch) for database in tables.databases(origin)]
    for database in databases:
        tables.insert(database)
    return roles, databases


def _endpoints(
    context: Context,
    tables: Tables,
    project: Project,
    branch: Branch,
    requests: tuple[BranchEndpointCreate, ...],
) -> list[Endpoint]:
    made: list[Endpoint] = []
    for request in requests:
        check_one_writer(made, request.type)
        made.append(new_endpoint(context, project, branch.id, request))
        tables.insert(made[-1])
    return made


def kept_verifiers(tables: Tables, branch_id: BranchId) -> dict[str, str]:
    """Of each role whose password the API has set the verifier that goes with it; what SQL made is as it was then."""
    return {r.name: r.verifier for r in tables.roles(branch_id) if r.password_sealed and r.verifier}


def roles_of_the_past(tables: Tables, branch_id: BranchId) -> tuple[str, ...]:
    """Of a restored branch: whose password is the one of then, because SQL had set it, or the role was gone since."""
    return tuple(r.name for r in tables.roles(branch_id) if r.verifier and not r.password_sealed)


def _with_password(context: Context, role: Role) -> RolePassword:
    return RolePassword(role=role, password=stored_password(context, role))


async def _make(context: Context, work: Operation) -> None:
    branch_id, chosen = branch_id_of(work), Place.of(work)

    def look(tables: Tables) -> tuple[Branch, Head, Branch, Source, dict[str, str]]:
        branch = tables.branch(branch_id)
        project = tables.project(work.project_id)
        parent = tables.branch(BranchId(str(work.argument["parent"])))
        if branch is None or project is None or parent is None:
            raise Defect(f"operation {work.id} makes a branch whose rows are gone")
        source = read_source(tables, project, parent, source_head(tables, parent, chosen), chosen and chosen.lsn)
        return branch, head_of(tables, branch), parent, source, kept_verifiers(tables, branch_id)

    planned, head, parent, source, keep = await context.state.read(look)
    if head.made:
        return
    size = parent.logical_size
    if planned.init_source == "schema-only":
        made, holds = await make_outline_head(context, source, head, keep)
        size = await asyncio.to_thread(sizes.logical_bytes, context.layout.head_data(work.project_id, head.id))
    else:
        made, holds = await make_head(context, source, head, keep)
        if holds is None and await _changed_by_sql(context, source, branch_id):
            holds = await opened(context, source, made, {})

    def note(tables: Tables) -> None:
        tables.update(made)
        branch = tables.branch(branch_id)
        if branch is not None:
            now = context.clock.now()
            after = replace(branch, state="ready", state_changed_at=now, logical_size=size)
            if branch.parent_id is not None:
                after = replace(
                    after,
                    parent_lsn=branch.parent_lsn or made.origin_lsn,
                    parent_timestamp=branch.parent_timestamp or now,
                )
            tables.update(after)
            if holds is not None:
                copy_truth(tables, branch_id, holds, now)

    await context.state.write(note)


async def _changed_by_sql(context: Context, source: Source, branch_id: BranchId) -> bool:
    """Whether the parent's roles or databases may differ from those that the branch was given when it was planned: then
    nobody but its head knows what was copied with it."""
    if source.endpoint is not None:
        await context.instances.refresh(source.endpoint.id)

    def differ(tables: Tables) -> bool:
        (theirs, ours) = (
            (
                {role.name: role.verifier for role in tables.roles(i)},
                {database.name: database.owner_name for database in tables.databases(i)},
            )
            for i in (source.branch.id, branch_id)
        )
        return theirs != ours

    return await context.state.read(differ)


async def _unmake(context: Context, work: Operation) -> None:
    """A branch that could not be made leaves no row and no file."""
    branch = await context.state.read(lambda tables: tables.branch(branch_id_of(work)))
    project = await context.state.read(lambda tables: tables.project(work.project_id))
    if branch is not None and project is not None:
        await forget(context, project, branch.head_id)
    await _let_go(context, replace(work, argument={"purge": True}))


# ---------------------------------------------------------------------------------------------------- delete


async def delete_branch(
    context: Context,
    runner: Runner,
    project_id: ProjectId,
    branch_id: BranchId,
    *,
    hard: bool = False,
    method: DeletionMethod = "user",
) -> BranchChanged | None:
    """Answers when its instances have stopped; None when there is no such branch. It can be recovered for a while.

    With ``hard`` it cannot, and also one that was deleted before goes for good. Raises Conflict for the default
    branch, a protected one, one with children, and one with snapshots.
    """

    def begin(tables: Tables) -> tuple[Branch, Operation] | None:
        idle_project(tables, project_id)
        branch, now = tables.branch(branch_id), context.clock.now()
        if branch is None or branch.project_id != project_id or (branch.deleted_at is not None and not hard):
            return None
        if branch.deleted_at is None:
            check_deletable(tables, branch)
            branch = replace(branch, deleted_at=now, deletion_method=method, updated_at=now)
            tables.update(branch)
            for heir in tables.children(branch.id):  # it stands on its own
                tables.update(replace(heir, parent_id=None))
        purge = hard or context.config.recover_seconds == 0
        work = operation(context, DELETE, "delete_timeline", project_id, branch_id=branch_id, argument={"purge": purge})
        tables.insert(work)
        return branch, work

    begun = await context.state.write(begin)
    if begun is None:
        return None
    branch, work = begun
    return BranchChanged(branch=branch, operations=await runner.finish([work]))


def check_deletable(tables: Tables, branch: Branch) -> None:
    """Raises Conflict saying what forbids to delete the branch."""
    if branch.default:
        raise Conflict(
            f"branch {branch.name!r} is the default branch", next_step="make another branch the default first"
        )
    if branch.protected:
        raise Conflict(f"branch {branch.name!r} is protected", next_step="take its protection away first")
    children = [child for child in tables.children(branch.id) if not _outlives(child, branch)]
    if children:
        raise Conflict(
            f"branch {branch.name!r} has children: {', '.join(child.name for child in children[:10])}",
            next_step="delete them first",
        )
    if any(snapshot.source_branch_id == branch.id for snapshot in tables.snapshots(branch.project_id)):
        raise Conflict(f"branch {branch.name!r} has snapshots", next_step="delete them first")


def _outlives(child: Branch, parent: Branch) -> bool:
    """What was restored in place has its former state for a parent, and so has what that was restored to before. A
    former state may be forgotten, and they stay."""
    return parent.preserved_of is not None and parent.preserved_of in (child.id, child.preserved_of)


async def _retire(context: Context, work: Operation) -> None:
    branch_id = branch_id_of(work)
    for endpoint in await context.state.read(lambda tables: tables.endpoints_of_branch(branch_id)):
        await context.instances.retire(endpoint.id)


async def _let_go(context: Context, work: Operation) -> None:
    """Sockets and logs go; with ``purge`` the rows and the files too."""
    branch_id = branch_id_of(work)
    endpoints = await context.state.read(lambda tables: tables.endpoints_of_branch(branch_id))
    for endpoint in endpoints:
        await asyncio.to_thread(context.layout.remove_traces, endpoint.id)
    if work.argument["purge"]:
        await context.state.write(lambda tables: drop_branch(context, tables, branch_id))
    for endpoint in endpoints:
        context.instances.forget(endpoint.id)


# ------------------------------------------------------------------------------------------- change, choose


async def update_branch(
    context: Context, project_id: ProjectId, branch_id: BranchId, change: BranchChange
) -> BranchChanged:
    """Renames it, protects it, or sets when it goes. Raises NotFound, Conflict or Locked."""

    def apply(tables: Tables) -> Branch:
        idle_project(tables, project_id)
        branch = branch_of(tables, project_id, branch_id)
        name = branch.name if change.name is None else change.name
        check_name(tables.branches(project_id), name, but=branch.id)
        after = replace(
            branch,
            name=name,
            protected=branch.protected if change.protected is None else change.protected,
            expires_at=None if change.never_expires else change.expires_at or branch.expires_at,
            updated_at=context.clock.now(),
        )
        if after.expires_at is not None and (after.default or after.protected):
            raise Conflict(f"branch {branch.name!r} is default or protected and cannot expire")
        tables.update(after)
        return after

    return BranchChanged(branch=await context.state.write(apply))


async def set_default_branch(context: Context, project_id: ProjectId, branch_id: BranchId) -> BranchChanged:
    """Connection strings without a branch lead here from now on."""

    def apply(tables: Tables) -> Branch:
        idle_project(tables, project_id)
        chosen = branch_of(tables, project_id, branch_id)
        now = context.clock.now()
        for branch in tables.branches(project_id):
            if branch.default and branch.id != chosen.id:
                tables.update(replace(branch, default=False, updated_at=now))
        after = replace(chosen, default=True, expires_at=None, updated_at=now)
        tables.update(after)
        return after

    return BranchChanged(branch=await context.state.write(apply))


async def branch_by_name(context: Context, project_id: ProjectId, name: str) -> Branch:
    """Raises NotFound."""
    branches = await context.state.read(lambda tables: tables.branches(project_id))
    found = next((branch for branch in branches if branch.name == name), None)
    if found is None:
        raise NotFound(f"branch {name!r} does not exist")
    return found


CREATE: Final = Verb("create_branch", (_make,), _unmake)
DELETE: Final = Verb("delete_branch", (_retire, _let_go))
