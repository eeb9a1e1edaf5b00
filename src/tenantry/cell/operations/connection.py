"""Whom a connection string leads to, with the password where it is known. Changes nothing and wakes nobody."""

from __future__ import annotations

from collections.abc import Sequence

from tenantry.cell.model import Connection, ConnectionRequest, Database, Endpoint, Role
from tenantry.cell.operations.context import Context, branch_of, endpoint_of, living_project, read_write_endpoint
from tenantry.cell.operations.passwords import stored_keys, stored_password
from tenantry.cell.state.tables import Tables
from tenantry.errors import NotFound
from tenantry.neon.ids import EndpointId, ProjectId


async def connection_to(context: Context, project_id: ProjectId, request: ConnectionRequest) -> Connection:
    """As its instance has role and database, where that is awake. Raises NotFound for whichever is missing."""
    endpoint, writing = await context.state.read(lambda tables: _endpoints(tables, project_id, request))
    if writing is not None:
        await context.instances.refresh(writing)
    database, role = await context.state.read(lambda tables: _names(tables, endpoint, request))
    return _connection(context, endpoint, database, role)


async def known_connections(
    context: Context, wanted: Sequence[tuple[ProjectId, ConnectionRequest]]
) -> list[Connection | None]:
    """The same for many, by one look at what the cell knows; no instance is asked. None where something is missing.

    What SQL has changed in an instance that is awake may not be known yet: who fails to log in asks for it alone.
    """

    def look(tables: Tables) -> list[tuple[Endpoint, Database, Role] | None]:
        return [found(tables, *each) for each in wanted]

    def found(
        tables: Tables, project_id: ProjectId, request: ConnectionRequest
    ) -> tuple[Endpoint, Database, Role] | None:
        try:
            endpoint, _ = _endpoints(tables, project_id, request)
            return endpoint, *_names(tables, endpoint, request)
        except NotFound:
            return None

    return [each and _connection(context, *each) for each in await context.state.read(look)]


def _endpoints(tables: Tables, project_id: ProjectId, request: ConnectionRequest) -> tuple[Endpoint, EndpointId | None]:
    """Where to, and the endpoint whose instance has the branch's truth. Raises NotFound."""
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


def _names(tables: Tables, endpoint: Endpoint, request: ConnectionRequest) -> tuple[Database, Role]:
    """Raises NotFound."""
    database = tables.database(endpoint.branch_id, request.database_name)
    if database is None:
        raise NotFound(f"database {request.database_name!r} does not exist on branch {endpoint.branch_id}")
    role = tables.role(endpoint.branch_id, request.role_name)
    if role is None:
        raise NotFound(f"role {request.role_name!r} does not exist on branch {endpoint.branch_id}")
    return database, role


def _connection(context: Context, endpoint: Endpoint, database: Database, role: Role) -> Connection:
    return Connection(
        endpoint=context.instances.overlay(endpoint),
        database_name=database.name,
        role_name=role.name,
        password=stored_password(context, role),
        keys=stored_keys(context, role),
    )
