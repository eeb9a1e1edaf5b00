"""What the fake cell remembers, and how it finds and makes things: a cell's memory without files."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from tenantry.cell.model import (
    Annotation,
    ApiKey,
    BackupSlot,
    Branch,
    Database,
    Endpoint,
    Operation,
    OperationAction,
    Project,
    Role,
    Snapshot,
    unfinished,
)
from tenantry.errors import Conflict, InvalidInput, Locked, NotFound, NotSupported
from tenantry.neon.ids import (
    BranchId,
    EndpointId,
    HeadId,
    OperationId,
    ProjectId,
    SnapshotId,
    new_endpoint_id,
    new_operation_id,
)

MAJORS: Final = (17, 18)
RESERVED_ROLES: Final = frozenset({"neon_superuser", "cloud_admin", "postgres", "public", "none"})
RESERVED_DATABASES: Final = frozenset({"postgres", "template0", "template1"})
HEAD: Final = HeadId("none")

V = TypeVar("V")


class FakeStore:
    """The memory of ``FakeCell``; not for use by itself."""

    def __init__(self, *, looks: int = 0, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._looks = looks
        self._held: set[ProjectId] = set()
        self._looked: dict[OperationId, int] = {}
        self._projects: dict[ProjectId, Project] = {}
        self._branches: dict[BranchId, Branch] = {}
        self._deleted_branches: dict[BranchId, Branch] = {}
        self._endpoints: dict[EndpointId, Endpoint] = {}
        self._roles: dict[tuple[BranchId, str], Role] = {}
        self._passwords: dict[tuple[BranchId, str], str] = {}
        self._databases: dict[tuple[BranchId, str], Database] = {}
        self._operations: dict[OperationId, Operation] = {}
        self._annotations: dict[BranchId, Annotation] = {}
        self._snapshots: dict[SnapshotId, Snapshot] = {}
        self._schedules: dict[BranchId, list[BackupSlot]] = {}
        self._keys: dict[int, ApiKey] = {}
        self._database_ids = 0

    def now(self) -> datetime:
        return self._clock()

    def _looked_at(self, operation: Operation) -> Operation:
        """The operation, one step further."""
        self._looked[operation.id] = self._looked.get(operation.id, 0) + 1
        if unfinished(operation) and self._looked[operation.id] >= self._looks:
            now = self.now()
            operation = replace(operation, status="finished", updated_at=now, finished_at=now)
            self._operations[operation.id] = operation
        return operation

    def _begin(
        self,
        project_id: ProjectId,
        action: OperationAction,
        *,
        branch_id: BranchId | None = None,
        endpoint_id: EndpointId | None = None,
    ) -> Operation:
        now = self.now()
        operation = Operation(
            id=new_operation_id(),
            project_id=project_id,
            branch_id=branch_id,
            endpoint_id=endpoint_id,
            action=action,
            status="running" if self._looks else "finished",
            verb=action,
            created_at=now,
            updated_at=now,
            finished_at=None if self._looks else now,
        )
        self._operations[operation.id] = operation
        return operation

    # -- looking up and making -------------------------------------------------------------------------------

    def _project(self, project_id: ProjectId) -> Project:
        project = self._projects.get(project_id)
        if project is None or project.deleted_at is not None:
            raise NotFound(f"project {project_id} does not exist")
        return project

    def _free(self, project_id: ProjectId) -> Project:
        """The project, unless another change of it runs."""
        project = self._project(project_id)
        running = [found for found in self._operations.values() if found.project_id == project_id and unfinished(found)]
        if project_id in self._held or running:
            raise Locked(f"project {project_id} has running operations", next_step="ask again when they have finished")
        return project

    def _branches_of(self, project_id: ProjectId, among: Mapping[BranchId, Branch]) -> list[Branch]:
        return [branch for branch in among.values() if branch.project_id == project_id]

    def _branch(self, project_id: ProjectId, branch_id: BranchId) -> Branch:
        self._project(project_id)
        branch = self._branches.get(branch_id)
        if branch is None or branch.project_id != project_id:
            raise NotFound(f"branch {branch_id} does not exist")
        return branch

    def _default_branch(self, project_id: ProjectId) -> Branch:
        return next(branch for branch in self._branches_of(project_id, self._branches) if branch.default)

    def _check_branch_name(self, project_id: ProjectId, name: str) -> None:
        if any(branch.name == name for branch in self._branches_of(project_id, self._branches)):
            raise Conflict(f"branch name {name!r} is taken")

    def _copy(self, source: Branch, branch_id: BranchId, name: str) -> Branch:
        """A child of ``source`` with the same roles, passwords and databases."""
        self._check_branch_name(source.project_id, name)
        now = self.now()
        branch = replace(
            source,
            id=branch_id,
            name=name,
            parent_id=source.id,
            default=False,
            state_changed_at=now,
            created_at=now,
            updated_at=now,
        )
        self._branches[branch_id] = branch
        for role in of_branch(self._roles, source.id):
            self._roles[branch_id, role.name] = replace(role, branch_id=branch_id)
            if (source.id, role.name) in self._passwords:
                self._passwords[branch_id, role.name] = self._passwords[source.id, role.name]
        for database in of_branch(self._databases, source.id):
            self._add_database(branch, database.name, database.owner_name)
        return branch

    def _annotate(self, branch_id: BranchId, value: dict[str, str]) -> None:
        if value:
            now = self.now()
            self._annotations[branch_id] = Annotation(branch_id=branch_id, value=value, created_at=now, updated_at=now)

    def _endpoints_of(self, project_id: ProjectId, branch_id: BranchId | None) -> list[Endpoint]:
        return [
            endpoint
            for endpoint in self._endpoints.values()
            if endpoint.project_id == project_id and branch_id in (None, endpoint.branch_id)
        ]

    def _endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint:
        self._project(project_id)
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None or endpoint.project_id != project_id:
            raise NotFound(f"endpoint {endpoint_id} does not exist")
        return endpoint

    def _read_write(self, branch: Branch) -> Endpoint:
        for endpoint in self._endpoints_of(branch.project_id, branch.id):
            if endpoint.type == "read_write":
                return endpoint
        raise NotFound(f"branch {branch.id} has no read-write endpoint")

    def _add_endpoint(
        self,
        branch: Branch,
        kind: str,
        *,
        min_cu: float | None,
        max_cu: float | None,
        suspend_timeout_seconds: int | None,
        settings: dict[str, object] | None = None,
    ) -> Endpoint:
        if kind != "read_write":
            raise NotSupported("read-only endpoints are not served")
        if any(endpoint.type == kind for endpoint in self._endpoints_of(branch.project_id, branch.id)):
            raise Conflict(f"branch {branch.id} has a read-write endpoint")
        now = self.now()
        smallest = 0.25 if min_cu is None else min_cu
        endpoint = Endpoint(
            id=new_endpoint_id(),
            project_id=branch.project_id,
            branch_id=branch.id,
            min_cu=smallest,
            max_cu=smallest if max_cu is None else max_cu,
            suspend_timeout_seconds=suspend_timeout_seconds or 0,
            settings=settings or {},
            state="idle",
            created_at=now,
            updated_at=now,
        )
        self._endpoints[endpoint.id] = endpoint
        return endpoint

    def _role(self, branch_id: BranchId, name: str) -> Role:
        role = self._roles.get((branch_id, name))
        if role is None:
            raise NotFound(f"role {name!r} does not exist")
        return role

    def _add_role(self, branch: Branch, name: str, *, stored: bool) -> tuple[Role, str]:
        """The role with a new password."""
        now, password = self.now(), secrets.token_urlsafe(16)
        known = self._roles.get((branch.id, name))
        role = Role(
            branch_id=branch.id,
            name=name,
            verifier=None,
            created_at=known.created_at if known else now,
            updated_at=now,
        )
        self._roles[branch.id, name] = role
        if stored:
            self._passwords[branch.id, name] = password
        return role, password

    def _database(self, branch_id: BranchId, name: str) -> Database:
        database = self._databases.get((branch_id, name))
        if database is None:
            raise NotFound(f"database {name!r} does not exist")
        return database

    def _add_database(self, branch: Branch, name: str, owner_name: str) -> Database:
        now = self.now()
        self._database_ids += 1
        database = Database(
            id=self._database_ids,
            branch_id=branch.id,
            name=name,
            owner_name=owner_name,
            created_at=now,
            updated_at=now,
        )
        self._databases[branch.id, name] = database
        return database

    def _snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId) -> Snapshot:
        self._project(project_id)
        snapshot = self._snapshots.get(snapshot_id)
        if snapshot is None or snapshot.project_id != project_id:
            raise NotFound(f"snapshot {snapshot_id} does not exist")
        return snapshot


def of_branch(among: Mapping[tuple[BranchId, str], V], branch_id: BranchId) -> list[V]:
    return [value for (owner, _), value in among.items() if owner == branch_id]


def check_name(kind: str, name: str, reserved: frozenset[str]) -> None:
    if name.lower() in reserved or name.lower().startswith("pg_"):
        raise InvalidInput(f"the {kind} name {name!r} is reserved", next_step="choose another")


def hashed(clear: str) -> bytes:
    return hashlib.sha256(clear.encode()).digest()
