"""What the HTTP API needs of the cell, said by the API itself.

Every call raises :class:`tenantry.errors.TenantryError` and nothing else: NotFound for a project, branch,
endpoint, role, database, operation, key or snapshot that does not exist (or is deleted), Locked while another
change of the same project runs, Conflict, InvalidInput, NotSupported (answered 501), LimitReached, Unavailable.
No call blocks the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

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
from tenantry.neon.ids import BranchId, EndpointId, OperationId, ProjectId, SnapshotId


class Keys(Protocol):
    """Who may come in. Keys are stored hashed; revoked ones are as if they had never been."""

    async def authenticate(self, presented_key: str) -> ApiKey | None:
        """The living key whose hash is the presented key's, or None. On every request's path: no durable write."""
        ...

    async def list_keys(self, owner: KeyOwner) -> Sequence[ApiKey]:
        """Living keys of the owner, oldest first."""
        ...

    async def create_key(self, name: str, owner: KeyOwner, project_id: ProjectId | None = None) -> CreatedKey:
        """With a project (NotFound when there is none) a key of the organization that reaches it alone."""
        ...

    async def revoke_key(self, key_id: int, owner: KeyOwner) -> ApiKey:
        """The owner's key as it is after its revocation; it opens nothing any more when this returns."""
        ...


class Projects(Protocol):
    async def create_project(self, request: ProjectCreate) -> CreatedProject: ...

    async def list_projects(
        self, *, after: ProjectId | None, limit: int, search: str | None, deleted: bool
    ) -> Sequence[Project]:
        """At most ``limit`` projects by id, after the cursor; with ``deleted`` only those that can be recovered."""
        ...

    async def get_project(self, project_id: ProjectId) -> Project: ...

    async def update_project(self, project_id: ProjectId, change: ProjectChange) -> ProjectChanged: ...

    async def delete_project(self, project_id: ProjectId, *, hard: bool) -> Project:
        """It can be recovered for a while, unless ``hard``, which also takes one for good that was deleted before."""
        ...

    async def recover_project(self, project_id: ProjectId) -> RecoveredProject: ...

    async def project_usage(
        self, project_ids: Sequence[ProjectId], *, byte_hours: bool = False
    ) -> Mapping[ProjectId, Usage]:
        """Counters of those projects that have any; a project that is left out has used nothing.

        ``byte_hours`` asks for the storage over time too, which costs more.
        """
        ...

    async def operator_access(self, project_id: ProjectId, seconds: int | None) -> OperatorAccess:
        """A token with which connections to the project pass its quotas, for so long (None: the cell's default)."""
        ...

    async def connection(self, project_id: ProjectId, request: ConnectionRequest) -> Connection:
        """Whom a connection string leads to. NotFound names the branch, endpoint, role or database that is missing."""
        ...

    async def known_connections(
        self, wanted: Sequence[tuple[ProjectId, ConnectionRequest]]
    ) -> Sequence[Connection | None]:
        """The same for many, in order, as the cell knows them without asking an instance; None for what is missing."""
        ...

    async def list_operations(
        self, project_id: ProjectId, *, after: OperationId | None, limit: int
    ) -> Sequence[Operation]:
        """At most ``limit`` operations, newest first, that are older than ``after``."""
        ...

    async def get_operation(self, project_id: ProjectId, operation_id: OperationId) -> Operation: ...


class Branches(Protocol):
    async def list_branches(self, project_id: ProjectId, *, deleted: bool) -> Sequence[Branch]:
        """Every branch of the project, in any order; with ``deleted`` also those that can be recovered."""
        ...

    async def get_branch(self, project_id: ProjectId, branch_id: BranchId) -> Branch: ...

    async def create_branch(self, project_id: ProjectId, request: BranchCreate) -> CreatedBranch: ...

    async def update_branch(
        self, project_id: ProjectId, branch_id: BranchId, change: BranchChange
    ) -> BranchChanged: ...

    async def delete_branch(self, project_id: ProjectId, branch_id: BranchId, *, hard: bool) -> BranchChanged | None:
        """As a project's. None when there is no such branch; NotFound when there is no such project."""
        ...

    async def set_default_branch(self, project_id: ProjectId, branch_id: BranchId) -> BranchChanged: ...

    async def restore_branch(self, project_id: ProjectId, branch_id: BranchId, to: BranchRestore) -> BranchChanged: ...

    async def recover_branch(self, project_id: ProjectId, branch_id: BranchId) -> RecoveredBranch: ...

    async def finalize_restore(
        self, project_id: ProjectId, branch_id: BranchId, *, name: str | None
    ) -> Sequence[Operation]: ...

    async def branch_usage(self, branch_ids: Sequence[BranchId]) -> Mapping[BranchId, Usage]:
        """Counters of those branches that have any."""
        ...

    async def annotations(self, branch_ids: Sequence[BranchId]) -> Mapping[BranchId, Annotation]:
        """Labels of those branches that have any."""
        ...

    async def branch_schema(self, project_id: ProjectId, point: SchemaPoint) -> str:
        """The schema as SQL."""
        ...

    async def compare_schema(self, project_id: ProjectId, point: SchemaPoint, base: SchemaPoint | None) -> str:
        """A unified diff from ``base`` (None: the branch's parent at its head) to ``point``."""
        ...


class Endpoints(Protocol):
    async def list_endpoints(self, project_id: ProjectId, branch_id: BranchId | None) -> Sequence[Endpoint]: ...

    async def get_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint: ...

    async def create_endpoint(self, project_id: ProjectId, request: EndpointCreate) -> EndpointChanged: ...

    async def update_endpoint(
        self, project_id: ProjectId, endpoint_id: EndpointId, change: EndpointChange
    ) -> EndpointChanged: ...

    async def delete_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged | None:
        """None when there is no such endpoint; NotFound when there is no such project."""
        ...

    async def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged: ...

    async def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged: ...

    async def restart_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged: ...


class Roles(Protocol):
    async def list_roles(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[Role]: ...

    async def get_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Role: ...

    async def create_role(self, project_id: ProjectId, branch_id: BranchId, request: RoleCreate) -> RoleChanged: ...

    async def delete_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> RoleChanged | None:
        """None when there is no such role; NotFound when there is no such project or branch."""
        ...

    async def reveal_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> str | None:
        """The password in clear; None when it is not stored, or was changed by SQL since."""
        ...

    async def reset_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> RoleChanged: ...


class Databases(Protocol):
    async def list_databases(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[Database]: ...

    async def get_database(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Database: ...

    async def create_database(
        self, project_id: ProjectId, branch_id: BranchId, request: DatabaseCreate
    ) -> DatabaseChanged: ...

    async def update_database(
        self, project_id: ProjectId, branch_id: BranchId, name: str, change: DatabaseChange
    ) -> DatabaseChanged: ...

    async def delete_database(self, project_id: ProjectId, branch_id: BranchId, name: str) -> DatabaseChanged | None:
        """None when there is no such database; NotFound when there is no such project or branch."""
        ...


class Snapshots(Protocol):
    async def create_snapshot(
        self, project_id: ProjectId, branch_id: BranchId, request: SnapshotCreate
    ) -> SnapshotChanged: ...

    async def list_snapshots(self, project_id: ProjectId) -> Sequence[Snapshot]: ...

    async def rename_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId, name: str | None) -> Snapshot: ...

    async def delete_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId) -> Sequence[Operation]: ...

    async def restore_snapshot(
        self, project_id: ProjectId, snapshot_id: SnapshotId, request: SnapshotRestore
    ) -> RestoredSnapshot: ...

    async def backup_schedule(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[BackupSlot]: ...

    async def set_backup_schedule(
        self, project_id: ProjectId, branch_id: BranchId, schedule: Sequence[BackupSlot]
    ) -> None: ...


class Consumption(Protocol):
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
        """What projects (None: all) consumed in the frames of a range, the youngest project first.

        ``before`` is the last project of the page before: when it was made, and its id. Raises RangeOutside.
        """
        ...


class CellApi(Keys, Projects, Branches, Endpoints, Roles, Databases, Snapshots, Consumption, Protocol):
    """The cell as the HTTP API sees it."""

    def now(self) -> datetime:
        """The cell's clock, aware and in UTC."""
        ...
