"""Whom a connection string leads to, with the password where it is known. Changes nothing and wakes nobody."""

from __future__ import annotations

from tenantry.cell.model import Connection, ConnectionRequest, Database, Endpoint, Role
from tenantry.cell.operations.context import Context, branch_of, endpoint_of, living_project, read_write_endpoint
from tenantry.cell.operations.passwords import stored_keys, stored_password
from tenantry.cell.state.tables import Tables
from tenantry.errors import NotFound
from tenantry.neon.ids import EndpointId, ProjectId


async def connection_to(context: Context, project_id: ProjectId, request: ConnectionRequest) -> Connection:
    """As its instance has role and database, where that is awake. Raises NotFound for whichever is missing."""

    def find(tables: Tables) -> tuple[Endpoint, EndpointId | None]:
        living_project(tables, project_id)
        if request.endpoint_id is not None:
            endpoint = endpoint_of(tables, project_id, request.endpoint_id)
            branch = branch_of(tables, project_id, endpoint.branch_id)
            if request.branch_id not in (None, branch.id):
                raise NotFound(f"endpoint {endpoint.id} is not of branch {request.branch_id}")
            writing = read_write_endpoint(tables, branch)
            return endpoint, writing.id if writing else None
        if request.branch_id is not None:
            branch = branch_of(tables, project_id, request.branch_id)
        else:
            branch = next(branch for branch in tables.branches(project_id) if branch.default)
        endpoint = read_write_endpoint(tables, branch)
        if endpoint is None:
            raise NotFound(f"branch {branch.id} has no read-write endpoint", next_step="create one")
        return endpoint, endpoint.id

    endpoint, writing = await context.state.read(find)
    if writing is not None:
        await context.instances.refresh(writing)

    def look(tables: Tables) -> tuple[Database, Role]:
        database = tables.database(endpoint.branch_id, request.database_name)
        if database is None:
            raise NotFound(f"database {request.database_name!r} does not exist on branch {endpoint.branch_id}")
        role = tables.role(endpoint.branch_id, request.role_name)
        if role is None:
            raise NotFound(f"role {request.role_name!r} does not exist on branch {endpoint.branch_id}")
        return database, role

    database, role = await context.state.read(look)
    return Connection(
        endpoint=context.instances.overlay(endpoint),
        database_name=database.name,
        role_name=role.name,
        password=stored_password(context, role),
        keys=stored_keys(context, role),
    )
