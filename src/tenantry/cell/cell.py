"""The cell as its HTTP API sees it: reads are answered here, changes are handed to their verbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from tenantry.cell.consumption import ConsumedProject, Grain
from tenantry.cell.model import (
    Annotation,
    ApiKey,
    BackupSlot,
    Branch,
    BranchChange,
    BranchChanged,
    BranchCreate,
    BranchRestore,
    Connection,
    ConnectionRequest,
    CreatedBranch,
    CreatedKey,
    CreatedProject,
    Database,
    DatabaseChange,
    DatabaseChanged,
    DatabaseCreate,
    Endpoint,
    EndpointChange,
    EndpointChanged,
    EndpointCreate,
    KeyOwner,
    Operation,
    OperatorAccess,
    Project,
    ProjectChange,
    ProjectChanged,
    ProjectCreate,
    RecoveredBranch,
    RecoveredProject,
    RestoredSnapshot,
    Role,
    RoleChanged,
    RoleCreate,
    SchemaPoint,
    Snapshot,
    SnapshotChanged,
    SnapshotCreate,
    SnapshotRestore,
    Usage,
)
from tenantry.cell.operations import branches, databases, endpoints, roles, snapshots
from tenantry.cell.operations.connection import connection_to, known_connections
from tenantry.cell.operations.context import Context, branch_of, endpoint_of, living_project
from tenantry.cell.operations.create_project import create_project
from tenantry.cell.operations.delete_project import delete_project
from tenantry.cell.operations.finalize_restore import finalize_restore
from tenantry.cell.operations.keys import Keys
from tenantry.cell.operations.purge import recoverable_since
from tenantry.cell.operations.quotas import operator_access_for
from tenantry.cell.operations.recover_branch import recover_branch
from tenantry.cell.operations.recover_project import recover_project
from tenantry.cell.operations.restore_branch import restore_branch
from tenantry.cell.operations.runner import Runner
from tenantry.cell.operations.schema import Schemas
from tenantry.cell.operations.spares import Newborn
from tenantry.cell.operations.update_project import update_project
from tenantry.cell.operations.usage import consumption, usage_of_branches, usage_of_projects
from tenantry.cell.state.tables import Tables
from tenantry.errors import NotFound
from tenantry.neon.ids import BranchId, EndpointId, OperationId, ProjectId, SnapshotId


class Cell:
    """Implements ``api.ports.CellApi``."""

    def __init__(self, context: Context, runner: Runner, newborn: Newborn, keys: Keys) -> None:
        self._context = context
        self._runner = runner
        self._newborn = newborn
        self._keys = keys
        self._schemas = Schemas(context)

    def now(self) -> datetime:
        return self._context.clock.now()

    # -- keys --------------------------------------------------------------------------------------------

    async def authenticate(self, presented_key: str) -> ApiKey | None:
        return await self._keys.authenticate(presented_key)

    async def list_keys(self, owner: KeyOwner) -> Sequence[ApiKey]:
        return self._keys.living(owner)

    async def create_key(self, name: str, owner: KeyOwner, project_id: ProjectId | None = None) -> CreatedKey:
        return await self._keys.create(name, owner=owner, project_id=project_id)

    async def revoke_key(self, key_id: int, owner: KeyOwner) -> ApiKey:
        return await self._keys.revoke(key_id, owner)

    # -- projects ----------------------------------------------------------------------------------------

    async def create_project(self, request: ProjectCreate) -> CreatedProject:
        return await create_project(self._context, self._newborn, self._runner, request)

    async def list_projects(
        self, *, after: ProjectId | None, limit: int, search: str | None, deleted: bool
    ) -> Sequence[Project]:
        since = recoverable_since(self._context) if deleted else None
        return await self._context.state.read(
            lambda tables: tables.projects(after=after, limit=limit, search=search, deleted_since=since)
        )

    async def get_project(self, project_id: ProjectId) -> Project:
        return await self._context.state.read(lambda tables: living_project(tables, project_id))

    async def update_project(self, project_id: ProjectId, change: ProjectChange) -> ProjectChanged:
        return await update_project(self._context, project_id, change)

    async def delete_project(self, project_id: ProjectId, *, hard: bool = False) -> Project:
        return await delete_project(self._context, self._runner, project_id, hard=hard)

    async def recover_project(self, project_id: ProjectId) -> RecoveredProject:
        return await recover_project(self._context, project_id)

    async def project_usage(
        self, project_ids: Sequence[ProjectId], *, byte_hours: bool = False
    ) -> Mapping[ProjectId, Usage]:
        return await usage_of_projects(self._context, project_ids, byte_hours_too=byte_hours)

    async def operator_access(self, project_id: ProjectId, seconds: int | None) -> OperatorAccess:
        return await operator_access_for(self._context, project_id, seconds)

    async def consumption(
        self,
        project_ids: Sequence[ProjectId] | None,
        *,
        before: tuple[datetime, ProjectId] | None,
        limit: int,
        grain: Grain,
        begin: datetime,
        end: datetime,
    ) -> Sequence[ConsumedProject]:
        return await consumption(
            self._context, project_ids, before=before, limit=limit, grain=grain, begin=begin, end=end
        )

    async def connection(self, project_id: ProjectId, request: ConnectionRequest) -> Connection:
        return await connection_to(self._context, project_id, request)

    async def known_connections(
        self, wanted: Sequence[tuple[ProjectId, ConnectionRequest]]
    ) -> Sequence[Connection | None]:
        return await known_connections(self._context, wanted)

    async def list_operations(
        self, project_id: ProjectId, *, after: OperationId | None, limit: int
    ) -> Sequence[Operation]:
        def look(tables: Tables) -> Sequence[Operation]:
            living_project(tables, project_id)
            return tables.operations(project_id, after=after, limit=limit)

        return await self._context.state.read(look)

    async def get_operation(self, project_id: ProjectId, operation_id: OperationId) -> Operation:
        found = await self._context.state.read(lambda tables: tables.operation(operation_id))
        if found is None or found.project_id != project_id:
            raise NotFound(f"operation {operation_id} does not exist")
        return found

    # -- branches ----------------------------------------------------------------------------------------

    async def list_branches(self, project_id: ProjectId, *, deleted: bool) -> Sequence[Branch]:
        def look(tables: Tables) -> Sequence[Branch]:
            living_project(tables, project_id)
            gone = tables.branches_deleted_since(project_id, recoverable_since(self._context)) if deleted else []
            return [*tables.branches(project_id), *gone]

        return await self._context.state.read(look)

    async def get_branch(self, project_id: ProjectId, branch_id: BranchId) -> Branch:
        return await self._context.state.read(lambda tables: branch_of(tables, project_id, branch_id))

    async def create_branch(self, project_id: ProjectId, request: BranchCreate) -> CreatedBranch:
        return await branches.create_branch(self._context, self._runner, project_id, request)

    async def update_branch(self, project_id: ProjectId, branch_id: BranchId, change: BranchChange) -> BranchChanged:
        return await branches.update_branch(self._context, project_id, branch_id, change)

    async def delete_branch(self, project_id: ProjectId, branch_id: BranchId, *, hard: bool) -> BranchChanged | None:
        return await branches.delete_branch(self._context, self._runner, project_id, branch_id, hard=hard)

    async def set_default_branch(self, project_id: ProjectId, branch_id: BranchId) -> BranchChanged:
        return await branches.set_default_branch(self._context, project_id, branch_id)

    async def restore_branch(self, project_id: ProjectId, branch_id: BranchId, to: BranchRestore) -> BranchChanged:
        return await restore_branch(self._context, self._runner, project_id, branch_id, to)

    async def recover_branch(self, project_id: ProjectId, branch_id: BranchId) -> RecoveredBranch:
        return await recover_branch(self._context, project_id, branch_id)

    async def finalize_restore(
        self, project_id: ProjectId, branch_id: BranchId, *, name: str | None
    ) -> Sequence[Operation]:
        return await finalize_restore(self._context, self._runner, project_id, branch_id, name=name)

    async def branch_usage(self, branch_ids: Sequence[BranchId]) -> Mapping[BranchId, Usage]:
        return await usage_of_branches(self._context, branch_ids)

    async def annotations(self, branch_ids: Sequence[BranchId]) -> Mapping[BranchId, Annotation]:
        return await self._context.state.read(lambda tables: tables.annotations(branch_ids))

    async def branch_schema(self, project_id: ProjectId, point: SchemaPoint) -> str:
        return await self._schemas.of(project_id, point)

    async def compare_schema(self, project_id: ProjectId, point: SchemaPoint, base: SchemaPoint | None) -> str:
        return await self._schemas.difference(project_id, point, base)

    # -- endpoints ---------------------------------------------------------------------------------------

    async def list_endpoints(self, project_id: ProjectId, branch_id: BranchId | None) -> Sequence[Endpoint]:
        def look(tables: Tables) -> Sequence[Endpoint]:
            living_project(tables, project_id)
            if branch_id is None:
                return tables.endpoints(project_id)
            return tables.endpoints_of_branch(branch_of(tables, project_id, branch_id).id)

        return [self._context.instances.overlay(e) for e in await self._context.state.read(look)]

    async def get_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint:
        found = await self._context.state.read(lambda tables: endpoint_of(tables, project_id, endpoint_id))
        return self._context.instances.overlay(found)

    async def create_endpoint(self, project_id: ProjectId, request: EndpointCreate) -> EndpointChanged:
        return await endpoints.create_endpoint(self._context, self._runner, project_id, request)

    async def update_endpoint(
        self, project_id: ProjectId, endpoint_id: EndpointId, change: EndpointChange
    ) -> EndpointChanged:
        return await endpoints.update_endpoint(self._context, self._runner, project_id, endpoint_id, change)

    async def delete_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged | None:
        return await endpoints.delete_endpoint(self._context, self._runner, project_id, endpoint_id)

    async def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged:
        return await endpoints.start_endpoint(self._context, self._runner, project_id, endpoint_id)

    async def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged:
        return await endpoints.suspend_endpoint(self._context, self._runner, project_id, endpoint_id)

    async def restart_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged:
        return await endpoints.restart_endpoint(self._context, self._runner, project_id, endpoint_id)

    # -- roles and databases -----------------------------------------------------------------------------

    async def list_roles(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[Role]:
        await roles.fresh(self._context, project_id, branch_id)
        return await self._context.state.read(lambda tables: tables.roles(branch_id))

    async def get_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Role:
        return await roles.known_role(self._context, project_id, branch_id, name)

    async def create_role(self, project_id: ProjectId, branch_id: BranchId, request: RoleCreate) -> RoleChanged:
        return await roles.create_role(self._context, self._runner, project_id, branch_id, request)

    async def delete_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> RoleChanged | None:
        return await roles.delete_role(self._context, self._runner, project_id, branch_id, name)

    async def reveal_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> str | None:
        return await roles.reveal_password(self._context, project_id, branch_id, name)

    async def reset_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> RoleChanged:
        return await roles.reset_password(self._context, self._runner, project_id, branch_id, name)

    async def list_databases(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[Database]:
        await roles.fresh(self._context, project_id, branch_id)
        return await self._context.state.read(lambda tables: tables.databases(branch_id))

    async def get_database(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Database:
        return await databases.known_database(self._context, project_id, branch_id, name)

    async def create_database(
        self, project_id: ProjectId, branch_id: BranchId, request: DatabaseCreate
    ) -> DatabaseChanged:
        return await databases.create_database(self._context, self._runner, project_id, branch_id, request)

    async def update_database(
        self, project_id: ProjectId, branch_id: BranchId, name: str, change: DatabaseChange
    ) -> DatabaseChanged:
        return await databases.update_database(self._context, self._runner, project_id, branch_id, name, change)

    async def delete_database(self, project_id: ProjectId, branch_id: BranchId, name: str) -> DatabaseChanged | None:
        return await databases.delete_database(self._context, self._runner, project_id, branch_id, name)

    # -- snapshots ---------------------------------------------------------------------------------------

    async def create_snapshot(
        self, project_id: ProjectId, branch_id: BranchId, request: SnapshotCreate
    ) -> SnapshotChanged:
        return await snapshots.create_snapshot(self._context, project_id, branch_id, request)

    async def list_snapshots(self, project_id: ProjectId) -> Sequence[Snapshot]:
        return await snapshots.list_snapshots(self._context, project_id)

    async def rename_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId, name: str | None) -> Snapshot:
        return await snapshots.rename_snapshot(self._context, project_id, snapshot_id, name)

    async def delete_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId) -> Sequence[Operation]:
        await snapshots.delete_snapshot(self._context, project_id, snapshot_id)
        return ()

    async def restore_snapshot(
        self, project_id: ProjectId, snapshot_id: SnapshotId, request: SnapshotRestore
    ) -> RestoredSnapshot:
        return await snapshots.restore_snapshot(self._context, self._runner, project_id, snapshot_id, request)

    async def backup_schedule(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[BackupSlot]:
        return await snapshots.schedule(self._context, project_id, branch_id)

    async def set_backup_schedule(
        self, project_id: ProjectId, branch_id: BranchId, schedule: Sequence[BackupSlot]
    ) -> None:
        await snapshots.set_schedule(self._context, project_id, branch_id, schedule)
