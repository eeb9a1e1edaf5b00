"""Create and delete roles, reset their passwords: carried out in the instance first, then copied to cell.db."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import psycopg
from psycopg import sql

from tenantry.cell.compute.admin import AdminConnection
from tenantry.cell.compute.truth import GROUP_ROLE
from tenantry.cell.model import Branch, JsonObject, Operation, Role, RoleChanged, RoleCreate, unfinished
from tenantry.cell.operations.context import (
    Context,
    Verb,
    branch_of,
    idle_project,
    operation,
    read_write_endpoint,
)
from tenantry.cell.operations.endpoints import endpoint_id_of
from tenantry.cell.operations.names import check_role
from tenantry.cell.operations.passwords import new_password, not_stored, stored_password
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, Defect, NotFound, TenantryError, Unavailable
from tenantry.neon.ids import BranchId, ProjectId

CREATEROLE_MAJOR_MIN: Final = 16
"""Before 16, CREATEROLE lets a role grant itself any other, pg_execute_server_program among them."""


async def write_down(
    context: Context,
    verb: Verb,
    project_id: ProjectId,
    branch_id: BranchId,
    argument: JsonObject,
) -> Operation:
    """An ``apply_config`` operation on the branch's read-write endpoint. Raises NotFound or Locked."""

    def begin(tables: Tables) -> Operation:
        idle_project(tables, project_id)
        branch = branch_of(tables, project_id, branch_id)
        endpoint = read_write_endpoint(tables, branch)
        if endpoint is None:
            raise Conflict(
                f"branch {branch_id} has no read-write endpoint", next_step="create one; the change needs Postgres"
            )
        work = operation(
            context,
            verb,
            "apply_config",
            project_id,
            branch_id=branch_id,
            endpoint_id=endpoint.id,
            argument=argument,
        )
        tables.insert(work)
        return work

    return await context.state.write(begin)


def branch_id_of(work: Operation) -> BranchId:
    """The branch an operation is about; such an operation always has one."""
    if work.branch_id is None:
        raise Defect(f"operation {work.id} ({work.verb}) names no branch")
    return work.branch_id


def missing(what: str, operations: Sequence[Operation]) -> TenantryError:
    """Why nothing is known of what was to be made: it takes longer than anybody waits, or is gone again."""
    if any(unfinished(work) for work in operations):
        return Unavailable(
            f"{what} takes long to be made",
            next_step="it is there once the project's operations have finished",
            client_text=f"{what} is still being made",
        )
    return NotFound(f"{what} was made, and is gone again")


async def _role_in_instance(admin: AdminConnection, name: str) -> tuple[str | None] | None:
    found = await admin.execute("select rolpassword from pg_catalog.pg_authid where rolname = %s", (name,))
    row = await found.fetchone()
    return None if row is None else (row[0],)


async def _create(context: Context, work: Operation) -> None:
    name, verifier = str(work.argument["name"]), str(work.argument["verifier"])
    login = not work.argument.get("no_login")
    project = await context.state.read(lambda tables: tables.project(work.project_id))
    assert project is not None
    async with context.instances.admin(endpoint_id_of(work)) as admin:
        known = await _role_in_instance(admin, name)
        if known is not None:
            if login and known[0] == verifier:
                return
            raise Conflict(f"role {name!r} already exists", field="role.name")
        await admin.execute(
            sql.SQL("create role {} {} inherit createdb bypassrls noreplication {} in role {}").format(
                sql.Identifier(name),
                sql.SQL("login password {}").format(sql.Literal(verifier)) if login else sql.SQL("nologin"),
                sql.SQL("createrole" if project.pg_major >= CREATEROLE_MAJOR_MIN else "nocreaterole"),
                sql.Identifier(GROUP_ROLE),
            )
        )


async def _set_password(context: Context, work: Operation) -> None:
    name, verifier = str(work.argument["name"]), str(work.argument["verifier"])
    async with context.instances.admin(endpoint_id_of(work)) as admin:
        if await _role_in_instance(admin, name) is None:
            raise NotFound(f"role {name!r} does not exist")
        await admin.execute(
            sql.SQL("alter role {} login password {}").format(sql.Identifier(name), sql.Literal(verifier))
        )


async def _note_role(context: Context, work: Operation) -> None:
    """Copies the role with its sealed password; what a refresh copied meanwhile is completed."""
    name, branch_id = str(work.argument["name"]), branch_id_of(work)
    sealed = work.argument.get("sealed")

    def note(tables: Tables) -> None:
        now = context.clock.now()
        verifier = None if work.argument.get("no_login") else str(work.argument["verifier"])
        known = tables.role(branch_id, name)
        role = replace(
            known or Role(branch_id=branch_id, name=name, verifier=None, created_at=now, updated_at=now),
            verifier=verifier,
            password_sealed=bytes.fromhex(sealed) if isinstance(sealed, str) and verifier else None,
            updated_at=now,
        )
        tables.insert(role) if known is None else tables.update(role)

    async with context.instances.copying(endpoint_id_of(work)):
        await context.state.write(note)


async def _drop(context: Context, work: Operation) -> None:
    """Gives what the role owns to each database's owner, then drops it. Raises Conflict if it owns a database."""
    name, endpoint_id = str(work.argument["name"]), endpoint_id_of(work)
    role = sql.Identifier(name)
    async with context.instances.admin(endpoint_id) as admin:
        if await _role_in_instance(admin, name) is None:
            return
        rows = await (
            await admin.execute(
                "select datname, pg_catalog.pg_get_userbyid(datdba) from pg_catalog.pg_database where datallowconn"
            )
        ).fetchall()
        owned = sorted(str(database) for database, owner in rows if owner == name)
        if owned:
            raise Conflict(
                f"role {name!r} owns database {', '.join(owned)}",
                next_step="give the database to another role or delete it first",
            )
        for database, owner in rows:
            async with context.instances.admin(endpoint_id, str(database)) as inside:
                await inside.execute(sql.SQL("reassign owned by {} to {}").format(role, sql.Identifier(str(owner))))
                await inside.execute(sql.SQL("drop owned by {}").format(role))
        try:
            await admin.execute(sql.SQL("drop role {}").format(role))
        except psycopg.errors.DependentObjectsStillExist as error:
            raise Conflict(f"role {name!r} is still needed: {error.diag.message_primary}") from error


async def _forget_role(context: Context, work: Operation) -> None:
    branch_id, name = branch_id_of(work), str(work.argument["name"])
    async with context.instances.copying(endpoint_id_of(work)):
        await context.state.write(lambda tables: tables.delete_role(branch_id, name))


CREATE: Final = Verb("create_role", (_create, _note_role))
RESET: Final = Verb("reset_password", (_set_password, _note_role))
DELETE: Final = Verb("delete_role", (_drop, _forget_role))


async def known_role(context: Context, project_id: ProjectId, branch_id: BranchId, name: str) -> Role:
    """The role as its instance has it, if it is awake, else as copied. Raises NotFound."""
    await fresh(context, project_id, branch_id)
    role = await context.state.read(lambda tables: tables.role(branch_id, name))
    if role is None:
        raise NotFound(f"role {name!r} does not exist on branch {branch_id}")
    return role


async def fresh(context: Context, project_id: ProjectId, branch_id: BranchId) -> Branch:
    """Refreshes the copies of roles and databases of a branch whose instance is awake. Raises NotFound."""

    def look(tables: Tables) -> tuple[Branch, list[str]]:
        branch = branch_of(tables, project_id, branch_id)
        return branch, [endpoint.id for endpoint in tables.endpoints_of_branch(branch_id)]

    branch, _ = await context.state.read(look)
    endpoint = await context.state.read(lambda tables: read_write_endpoint(tables, branch))
    if endpoint is not None:
        await context.instances.refresh(endpoint.id)
    return branch


async def _with_password(
    context: Context, runner: Runner, verb: Verb, project_id: ProjectId, branch_id: BranchId, request: RoleCreate
) -> RoleChanged:
    password = await new_password(context, branch_id, request.name)
    project = await context.state.read(lambda tables: tables.project(project_id))
    keep = project is not None and project.store_passwords
    argument: JsonObject = {
        "name": request.name,
        "verifier": password.verifier,
        "sealed": (password.sealed if keep else not_stored(context, branch_id, request.name)).hex(),
        "no_login": request.no_login,
    }
    operations = await runner.finish([await write_down(context, verb, project_id, branch_id, argument)])
    role = await context.state.read(lambda tables: tables.role(branch_id, request.name))
    if role is None:
        raise missing(f"role {request.name!r} of branch {branch_id}", operations)
    return RoleChanged(role=role, password=None if request.no_login else password.clear, operations=operations)


async def create_role(
    context: Context, runner: Runner, project_id: ProjectId, branch_id: BranchId, request: RoleCreate
) -> RoleChanged:
    """Answers when the role can log in. Raises Conflict when the name is taken."""
    check_role(request.name)
    return await _with_password(context, runner, CREATE, project_id, branch_id, request)


async def reset_password(
    context: Context, runner: Runner, project_id: ProjectId, branch_id: BranchId, name: str
) -> RoleChanged:
    """A new random password, valid when this answers. Raises NotFound."""
    await known_role(context, project_id, branch_id, name)
    return await _with_password(context, runner, RESET, project_id, branch_id, RoleCreate(name=name))


async def delete_role(
    context: Context, runner: Runner, project_id: ProjectId, branch_id: BranchId, name: str
) -> RoleChanged | None:
    """None when there is no such role. Raises Conflict when it owns a database."""
    await fresh(context, project_id, branch_id)
    role = await context.state.read(lambda tables: tables.role(branch_id, name))
    if role is None:
        return None
    check_role(name)
    operations = await runner.finish([await write_down(context, DELETE, project_id, branch_id, {"name": name})])
    return RoleChanged(role=role, operations=operations)


async def reveal_password(context: Context, project_id: ProjectId, branch_id: BranchId, name: str) -> str | None:
    """The stored password in clear; None when it is not stored or was changed by SQL since."""
    role = await known_role(context, project_id, branch_id, name)
    return stored_password(context, role)
