"""Create, change and delete databases: carried out in the instance first, then copied to cell.db."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import psycopg
from psycopg import sql

from tenantry.cell.compute.admin import AdminConnection
from tenantry.cell.model import Database, DatabaseChange, DatabaseChanged, DatabaseCreate, Operation
from tenantry.cell.operations.context import Context, Verb
from tenantry.cell.operations.endpoints import endpoint_id_of
from tenantry.cell.operations.names import check_database
from tenantry.cell.operations.roles import branch_id_of, fresh, missing, write_down
from tenantry.cell.operations.runner import Runner
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.neon.ids import BranchId, ProjectId


async def _owner_of(admin: AdminConnection, name: str) -> str | None:
    found = await admin.execute(
        "select pg_catalog.pg_get_userbyid(datdba) from pg_catalog.pg_database where datname = %s", (name,)
    )
    row = await found.fetchone()
    return None if row is None else str(row[0])


async def _create(context: Context, work: Operation) -> None:
    name, owner = str(work.argument["name"]), str(work.argument["owner"])
    async with context.instances.admin(endpoint_id_of(work)) as admin:
        if await _owner_of(admin, name) is not None:
            # It was not there when the operation was written down: this step ran before, and a crash followed.
            return
        try:
            await admin.execute(
                sql.SQL("create database {} owner {}").format(sql.Identifier(name), sql.Identifier(owner))
            )
        except psycopg.errors.UndefinedObject as error:
            raise InvalidInput(f"role {owner!r} does not exist", field="database.owner_name") from error


async def _change(context: Context, work: Operation) -> None:
    name, new, owner = (work.argument[key] for key in ("name", "new_name", "owner"))
    async with context.instances.admin(endpoint_id_of(work)) as admin:
        current = str(name)
        if new != name and await _owner_of(admin, current) is not None:
            if await _owner_of(admin, str(new)) is not None:
                raise Conflict(f"database {new!r} already exists", field="database.name")
            try:
                await admin.execute(
                    sql.SQL("alter database {} rename to {}").format(sql.Identifier(current), sql.Identifier(str(new)))
                )
            except psycopg.errors.ObjectInUse as error:
                raise Conflict(f"database {name!r} has open sessions", next_step="end them, then rename it") from error
        try:
            await admin.execute(
                sql.SQL("alter database {} owner to {}").format(sql.Identifier(str(new)), sql.Identifier(str(owner)))
            )
        except psycopg.errors.UndefinedObject as error:
            raise InvalidInput(f"role {owner!r} does not exist", field="database.owner_name") from error


async def _drop(context: Context, work: Operation) -> None:
    async with context.instances.admin(endpoint_id_of(work)) as admin:
        await admin.execute(
            sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(str(work.argument["name"])))
        )


async def _note(context: Context, work: Operation) -> None:
    branch_id, name = branch_id_of(work), str(work.argument["name"])
    new, owner = str(work.argument.get("new_name", name)), str(work.argument["owner"])

    def note(tables: Tables) -> None:
        now = context.clock.now()
        known, there = tables.database(branch_id, name), tables.database(branch_id, new)
        if there is not None:
            tables.update(replace(there, owner_name=owner, updated_at=now))
            if known is not None and known.id != there.id:
                tables.delete_database(branch_id, name)
        elif known is not None:
            tables.update(replace(known, name=new, owner_name=owner, updated_at=now))
        else:
            tables.insert(
                Database(id=0, branch_id=branch_id, name=new, owner_name=owner, created_at=now, updated_at=now)
            )

    async with context.instances.copying(endpoint_id_of(work)):
        await context.state.write(note)


async def _forget(context: Context, work: Operation) -> None:
    branch_id, name = branch_id_of(work), str(work.argument["name"])
    async with context.instances.copying(endpoint_id_of(work)):
        await context.state.write(lambda tables: tables.delete_database(branch_id, name))


CREATE: Final = Verb("create_database", (_create, _note))
CHANGE: Final = Verb("update_database", (_change, _note))
DELETE: Final = Verb("delete_database", (_drop, _forget))


async def known_database(context: Context, project_id: ProjectId, branch_id: BranchId, name: str) -> Database:
    """The database as its instance has it, if it is awake, else as copied. Raises NotFound."""
    await fresh(context, project_id, branch_id)
    database = await context.state.read(lambda tables: tables.database(branch_id, name))
    if database is None:
        raise NotFound(f"database {name!r} does not exist on branch {branch_id}")
    return database


async def _changed(
    context: Context, branch_id: BranchId, name: str, operations: tuple[Operation, ...]
) -> DatabaseChanged:
    database = await context.state.read(lambda tables: tables.database(branch_id, name))
    if database is None:
        raise missing(f"database {name!r} of branch {branch_id}", operations)
    return DatabaseChanged(database=database, operations=operations)


async def create_database(
    context: Context, runner: Runner, project_id: ProjectId, branch_id: BranchId, request: DatabaseCreate
) -> DatabaseChanged:
    """Answers when it can be connected to. Raises Conflict (name taken) or InvalidInput (no such owner)."""
    check_database(request.name)
    await fresh(context, project_id, branch_id)
    if await context.state.read(lambda tables: tables.database(branch_id, request.name)) is not None:
        raise Conflict(f"database {request.name!r} already exists", field="database.name")
    work = await write_down(context, CREATE, project_id, branch_id, {"name": request.name, "owner": request.owner_name})
    return await _changed(context, branch_id, request.name, await runner.finish([work]))


async def update_database(
    context: Context,
    runner: Runner,
    project_id: ProjectId,
    branch_id: BranchId,
    name: str,
    change: DatabaseChange,
) -> DatabaseChanged:
    """Renames it, or gives it to another role."""
    known = await known_database(context, project_id, branch_id, name)
    new = change.name or name
    check_database(name)
    check_database(new)
    work = await write_down(
        context,
        CHANGE,
        project_id,
        branch_id,
        {"name": name, "new_name": new, "owner": change.owner_name or known.owner_name},
    )
    return await _changed(context, branch_id, new, await runner.finish([work]))


async def delete_database(
    context: Context, runner: Runner, project_id: ProjectId, branch_id: BranchId, name: str
) -> DatabaseChanged | None:
    """Drops it, ending its sessions; None when there is no such database."""
    await fresh(context, project_id, branch_id)
    database = await context.state.read(lambda tables: tables.database(branch_id, name))
    if database is None:
        return None
    check_database(name)
    operations = await runner.finish([await write_down(context, DELETE, project_id, branch_id, {"name": name})])
    return DatabaseChanged(database=database, operations=operations)
