"""Create a project: a spare makes it one commit; other majors clone first; other names are given by SQL after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from psycopg import sql

from tenantry.cell.compute.settings import settings_of_new
from tenantry.cell.model import (
    Annotation,
    Branch,
    BuildId,
    CreatedProject,
    Database,
    Endpoint,
    Head,
    Operation,
    Project,
    ProjectCreate,
    Role,
    RolePassword,
    Spare,
)
from tenantry.cell.operations.context import Context, Verb, operation, read_write_endpoint
from tenantry.cell.operations.names import check_compute, check_database, check_role, check_settings
from tenantry.cell.operations.passwords import not_stored, opened, place
from tenantry.cell.operations.runner import Runner, note_begun, note_ended
from tenantry.cell.operations.spares import DATABASE, ROLE, Newborn, take_spare
from tenantry.cell.state.tables import Tables
from tenantry.errors import Defect, InvalidInput
from tenantry.neon.ids import RegionId, new_endpoint_id
from tenantry.runtime.failpoints import failpoint

HISTORY_SECONDS_DEFAULT: Final = 86_400


@dataclass(frozen=True, slots=True)
class Rows:
    """What a created project is in the database, decided before anything is written."""

    project: Project
    branch: Branch
    head: Head
    endpoint: Endpoint
    role: Role
    database: Database
    annotation: Annotation | None
    operation: Operation


def check(request: ProjectCreate) -> None:
    """Raises InvalidInput for what no project can have."""
    check_role(role_name(request))
    check_database(request.database_name or DATABASE)
    check_settings(request.default_endpoint_settings)
    check_compute(*compute(request))


def role_name(request: ProjectCreate) -> str:
    """The owner's name: as asked, else the database's name with ``_owner``."""
    return request.role_name or f"{request.database_name or DATABASE}_owner"


def compute(request: ProjectCreate) -> tuple[float, float, int]:
    """Smallest size, largest size (CU) and suspend timeout of the first endpoint."""
    defaults = request.default_endpoint_settings

    def number(name: str, asked: float | None, fallback: float) -> float:
        value = asked if asked is not None else defaults.get(name, fallback)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput(f"{name} must be a number", field=name)
        return float(value)

    smallest = number("autoscaling_limit_min_cu", request.min_cu, 0.25)
    largest = number("autoscaling_limit_max_cu", request.max_cu, max(smallest, 0.25))
    timeout = number("suspend_timeout_seconds", request.suspend_timeout_seconds, 0)
    return smallest, largest, int(timeout)


def plan(context: Context, request: ProjectCreate, head: Spare, major: int) -> Rows:
    """The rows of the new project on the files of ``head``. Decides only."""
    now = context.clock.now()
    smallest, largest, timeout = compute(request)
    renamed = role_name(request) != ROLE or (request.database_name or DATABASE) != DATABASE
    project = Project(
        id=head.project_id,
        name=request.name or str(head.project_id),
        region_id=request.region_id or RegionId(context.config.region),
        pg_major=major,
        uid=head.uid,
        store_passwords=request.store_passwords,
        history_retention_seconds=(
            HISTORY_SECONDS_DEFAULT if request.history_retention_seconds is None else request.history_retention_seconds
        ),
        settings=request.settings,
        default_endpoint_settings=request.default_endpoint_settings,
        created_at=now,
        updated_at=now,
    )
    branch = Branch(
        id=head.branch_id,
        project_id=project.id,
        name=request.branch_name or "main",
        state="init" if renamed else "ready",
        state_changed_at=now,
        default=True,
        head_id=head.head_id,
        created_at=now,
        updated_at=now,
    )
    endpoint = Endpoint(
        id=new_endpoint_id(),
        project_id=project.id,
        branch_id=branch.id,
        min_cu=smallest,
        max_cu=largest,
        suspend_timeout_seconds=timeout,
        settings=settings_of_new(request.default_endpoint_settings, {}),
        state="idle",
        created_at=now,
        updated_at=now,
    )
    sealed = head.password_sealed
    if not request.store_passwords:
        sealed = not_stored(context, branch.id, role_name(request))
    elif renamed:
        text = context.sealer.open(sealed, place=place(branch.id, ROLE))
        sealed = context.sealer.seal(text, place=place(branch.id, role_name(request)))
    work = operation(
        context,
        VERB,
        "create_timeline",
        project.id,
        branch_id=branch.id,
        argument={"role_name": role_name(request), "database_name": request.database_name or DATABASE},
    )
    return Rows(
        project=project,
        branch=branch,
        head=Head(
            id=head.head_id,
            project_id=project.id,
            branch_id=branch.id,
            build_id=head.build_id,
            created_at=now,
        ),
        endpoint=endpoint,
        role=Role(
            branch_id=branch.id,
            name=role_name(request),
            verifier=head.verifier,
            password_sealed=sealed,
            created_at=now,
            updated_at=now,
        ),
        database=Database(
            id=0,
            branch_id=branch.id,
            name=request.database_name or DATABASE,
            owner_name=role_name(request),
            created_at=now,
            updated_at=now,
        ),
        annotation=(
            Annotation(branch_id=branch.id, value=request.annotations, created_at=now, updated_at=now)
            if request.annotations
            else None
        ),
        operation=work if renamed else _already_finished(work),
    )


def _already_finished(work: Operation) -> Operation:
    return replace(work, status="finished", step=len(VERB.steps), finished_at=work.created_at)


async def create_project(context: Context, newborn: Newborn, runner: Runner, request: ProjectCreate) -> CreatedProject:
    """Answers once the project is durable and its first connection would succeed.

    Raises InvalidInput (also for a major without an engine) or OperatorError (no disk, no uid).
    """
    check(request)
    major = request.pg_major or context.config.default_major
    engine = await context.engines.for_major(major)
    build_id = BuildId(engine.build_id)
    failpoint("create_project.start")

    def take(tables: Tables) -> tuple[Rows, Spare] | None:
        head = take_spare(tables, build_id)
        if head is None:
            return None
        rows = plan(context, request, head, major)
        _insert(tables, rows)
        return rows, head

    taken = await context.state.write(take)
    if taken is not None:
        rows, head = taken
    else:
        head, _ = await newborn.make(major)
        failpoint("create_project.cloned")
        try:
            rows = plan(context, request, head, major)
            await context.state.write(lambda tables: _insert(tables, rows))
        finally:
            newborn.uids.settle(head.uid)
    failpoint("create_project.written")
    if rows.operation.status == "finished":
        note_begun([rows.operation])
        note_ended(rows.operation)
        operations: Sequence[Operation] = (rows.operation,)
    else:
        operations = await runner.finish([rows.operation])
    clear = opened(context, head.password_sealed, head.branch_id, ROLE)
    database = await context.state.read(lambda tables: tables.database(rows.branch.id, rows.database.name))
    return CreatedProject(
        project=rows.project,
        branch=rows.branch,
        endpoint=rows.endpoint,
        roles=(RolePassword(role=rows.role, password=clear),),
        databases=(database or rows.database,),
        operations=operations,
    )


def _insert(tables: Tables, rows: Rows) -> None:
    for record in (rows.project, rows.branch, rows.head, rows.endpoint, rows.role, rows.database, rows.operation):
        tables.insert(record)
    if rows.annotation is not None:
        tables.insert(rows.annotation)


async def _give_names(context: Context, work: Operation) -> None:
    """Renames the template's role and database; SCRAM verifiers survive a renaming."""
    assert work.branch_id is not None
    branch = await context.state.read(lambda tables: tables.branch(work.branch_id))  # pyright: ignore[reportArgumentType] - asserted above
    endpoint = await context.state.read(lambda tables: read_write_endpoint(tables, branch) if branch else None)
    if branch is None or endpoint is None:
        raise Defect(f"operation {work.id} names a branch without an endpoint")
    role, database = str(work.argument["role_name"]), str(work.argument["database_name"])
    async with context.instances.admin(endpoint.id) as admin:
        for kind, catalogue, column, old, new in (
            (sql.SQL("role"), "pg_roles", "rolname", ROLE, role),
            (sql.SQL("database"), "pg_database", "datname", DATABASE, database),
        ):
            found = await admin.execute(
                sql.SQL("select 1 from pg_catalog.{} where {} = %s").format(
                    sql.Identifier(catalogue), sql.Identifier(column)
                ),
                (old,),
            )
            if old != new and await found.fetchone() is not None:
                await admin.execute(
                    sql.SQL("alter {} {} rename to {}").format(kind, sql.Identifier(old), sql.Identifier(new))
                )


async def _ready(context: Context, work: Operation) -> None:
    def mark(tables: Tables) -> None:
        branch = tables.branch(work.branch_id) if work.branch_id else None
        if branch is not None and branch.state != "ready":
            tables.update(replace(branch, state="ready", state_changed_at=context.clock.now()))

    await context.state.write(mark)


VERB: Final = Verb("create_project", (_give_names, _ready))
