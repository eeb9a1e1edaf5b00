"""A cell without Postgres: the HTTP API's port, kept in memory, for tests of everything that speaks the API.

It refuses what a cell refuses and forgets what a cell forgets. What it cannot know without a database (schemas, the
effect of SQL) it does not pretend to: those calls raise NotSupported.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

from tenantry.cell.consumption import ConsumedProject, Grain, frames_of
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
    OperationAction,
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
    RolePassword,
    SchemaPoint,
    Snapshot,
    SnapshotChanged,
    SnapshotCreate,
    SnapshotRestore,
    Uid,
    Usage,
)
from tenantry.errors import Conflict, InvalidInput, NotFound, NotSupported
from tenantry.neon.ids import (
    BranchId,
    EndpointId,
    OperationId,
    ProjectId,
    RegionId,
    SnapshotId,
    new_branch_id,
    new_project_id,
    new_snapshot_id,
)
from tenantry.testing.fake_store import (
    HEAD,
    MAJORS,
    RESERVED_DATABASES,
    RESERVED_ROLES,
    FakeStore,
    check_name,
    hashed,
    of_branch,
)


class FakeCell(FakeStore):
    """Implements ``tenantry.cell.api.ports.CellApi``.

    Changes hold at once. With ``looks`` above 0 their operations are unfinished, and the project locked, until
    somebody has looked at them that often. ``hold`` and ``release`` lock and free a project by hand.
    """

    # -- for tests -------------------------------------------------------------------------------------------

    def new_key(self, name: str = "test", *, owner: KeyOwner = "account", project_id: ProjectId | None = None) -> str:
        """A key that opens the API."""
        clear = secrets.token_urlsafe(32)
        self._add_key(name, clear, owner, project_id)
        return clear

    def hold(self, project_id: ProjectId) -> None:
        """From now on a change of the project runs, as far as anybody can see."""
        self._held.add(project_id)

    def release(self, project_id: ProjectId) -> None:
        self._held.discard(project_id)

    # -- keys ------------------------------------------------------------------------------------------------

    async def authenticate(self, presented_key: str) -> ApiKey | None:
        key_hash = hashed(presented_key)
        return next((key for key in self._living_keys() if secrets.compare_digest(key.key_hash, key_hash)), None)

    async def list_keys(self, owner: KeyOwner) -> Sequence[ApiKey]:
        return [key for key in self._living_keys() if key.owner == owner]

    async def create_key(self, name: str, owner: KeyOwner, project_id: ProjectId | None = None) -> CreatedKey:
        if project_id is not None:
            self._project(project_id)
        clear = secrets.token_urlsafe(32)
        return CreatedKey(key=self._add_key(name, clear, owner, project_id), clear=clear)

    async def revoke_key(self, key_id: int, owner: KeyOwner) -> ApiKey:
        key = self._keys.get(key_id)
        if key is None or key.owner != owner or key.revoked_at is not None:
            raise NotFound(f"API key {key_id} does not exist")
        self._keys[key_id] = replace(key, revoked_at=self.now())
        return self._keys[key_id]

    def _living_keys(self) -> Iterable[ApiKey]:
        return (key for key in self._keys.values() if key.revoked_at is None)

    def _add_key(self, name: str, clear: str, owner: KeyOwner, project_id: ProjectId | None) -> ApiKey:
        key = ApiKey(
            id=len(self._keys) + 1,
            name=name,
            key_hash=hashed(clear),
            created_at=self.now(),
            owner=owner,
            project_id=project_id,
        )
        self._keys[key.id] = key
        return key

    # -- projects --------------------------------------------------------------------------------------------

    async def create_project(self, request: ProjectCreate) -> CreatedProject:
        major = MAJORS[-1] if request.pg_major is None else request.pg_major
        if major not in MAJORS:
            raise InvalidInput(f"Postgres {major} is not installed", next_step=f"choose one of {MAJORS}")
        database_name = request.database_name or "neondb"
        role_name = request.role_name or f"{database_name}_owner"
        check_name("role", role_name, RESERVED_ROLES)
        check_name("database", database_name, RESERVED_DATABASES)
        now, project_id = self.now(), new_project_id()
        project = Project(
            id=project_id,
            name=request.name or project_id,
            region_id=request.region_id or RegionId("local"),
            pg_major=major,
            uid=Uid(0),
            store_passwords=request.store_passwords,
            history_retention_seconds=(
                86_400 if request.history_retention_seconds is None else request.history_retention_seconds
            ),
            settings=request.settings,
            default_endpoint_settings=request.default_endpoint_settings,
            created_at=now,
            updated_at=now,
        )
        branch = Branch(
            id=new_branch_id(),
            project_id=project_id,
            name=request.branch_name or "main",
            state="ready",
            state_changed_at=now,
            default=True,
            head_id=HEAD,
            created_at=now,
            updated_at=now,
        )
        self._projects[project_id] = project
        self._branches[branch.id] = branch
        self._annotate(branch.id, request.annotations)
        endpoint = self._add_endpoint(
            branch,
            "read_write",
            min_cu=request.min_cu,
            max_cu=request.max_cu,
            suspend_timeout_seconds=request.suspend_timeout_seconds,
        )
        role, password = self._add_role(branch, role_name, stored=request.store_passwords)
        database = self._add_database(branch, database_name, role_name)
        return CreatedProject(
            project=project,
            branch=branch,
            endpoint=endpoint,
            roles=(RolePassword(role=role, password=password),),
            databases=(database,),
            operations=(
                self._begin(project_id, "create_timeline", branch_id=branch.id),
                self._begin(project_id, "start_compute", branch_id=branch.id, endpoint_id=endpoint.id),
            ),
        )

    async def list_projects(
        self, *, after: ProjectId | None, limit: int, search: str | None, deleted: bool
    ) -> Sequence[Project]:
        wanted = (search or "").lower()
        fitting = [
            project
            for project in sorted(self._projects.values(), key=lambda project: project.id)
            if (project.deleted_at is not None) == deleted
            and (after is None or project.id > after)
            and (wanted in project.name.lower() or wanted in project.id)
        ]
        return fitting[:limit]

    async def get_project(self, project_id: ProjectId) -> Project:
        return self._project(project_id)

    async def update_project(self, project_id: ProjectId, change: ProjectChange) -> ProjectChanged:
        project = self._free(project_id)
        retention = change.history_retention_seconds
        self._projects[project_id] = replace(
            project,
            name=project.name if change.name is None else change.name,
            history_retention_seconds=project.history_retention_seconds if retention is None else retention,
            settings={**project.settings, **(change.settings or {})},
            default_endpoint_settings={**project.default_endpoint_settings, **(change.default_endpoint_settings or {})},
            updated_at=self.now(),
        )
        return ProjectChanged(project=self._projects[project_id])

    async def delete_project(self, project_id: ProjectId, *, hard: bool = False) -> Project:
        gone = self._projects.get(project_id)
        if hard and gone is not None and gone.deleted_at is not None:
            return self._projects.pop(project_id)
        project = replace(self._free(project_id), deleted_at=self.now())
        self._projects[project_id] = project
        return self._projects.pop(project_id) if hard else project

    async def recover_project(self, project_id: ProjectId) -> RecoveredProject:
        project = self._projects.get(project_id)
        if project is None:
            raise NotFound(f"project {project_id} does not exist")
        if project.deleted_at is None:
            raise Conflict(f"project {project_id} is not deleted")
        self._projects[project_id] = replace(project, deleted_at=None)
        return RecoveredProject(
            project=self._projects[project_id], branches=tuple(self._branches_of(project_id, self._branches))
        )

    async def project_usage(
        self, project_ids: Sequence[ProjectId], *, byte_hours: bool = False
    ) -> Mapping[ProjectId, Usage]:
        return {}

    async def operator_access(self, project_id: ProjectId, seconds: int | None) -> OperatorAccess:
        self._project(project_id)
        return OperatorAccess(f"fake-{project_id}", self.now() + timedelta(seconds=seconds or 900))

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
        """Nobody has consumed anything."""
        frames_of(grain, begin, end, self.now())
        return []

    async def known_connections(self, wanted: Sequence[tuple[ProjectId, ConnectionRequest]]) -> list[Connection | None]:
        found: list[Connection | None] = [None] * len(wanted)
        for place, each in enumerate(wanted):
            with suppress(NotFound):
                found[place] = await self.connection(*each)
        return found

    async def connection(self, project_id: ProjectId, request: ConnectionRequest) -> Connection:
        self._project(project_id)
        if request.endpoint_id is not None:
            endpoint = self._endpoint(project_id, request.endpoint_id)
            if request.branch_id not in (None, endpoint.branch_id):
                raise NotFound(f"branch {request.branch_id} has no endpoint {endpoint.id}")
        else:
            branch = self._branch(project_id, request.branch_id or self._default_branch(project_id).id)
            endpoint = self._read_write(branch)
        role = self._role(endpoint.branch_id, request.role_name)
        database = self._database(endpoint.branch_id, request.database_name)
        return Connection(
            endpoint=endpoint,
            database_name=database.name,
            role_name=role.name,
            password=self._passwords.get((endpoint.branch_id, role.name)),
        )

    # -- operations ------------------------------------------------------------------------------------------

    async def list_operations(
        self, project_id: ProjectId, *, after: OperationId | None, limit: int
    ) -> Sequence[Operation]:
        self._project(project_id)
        newest_first = [found for found in reversed(self._operations.values()) if found.project_id == project_id]
        if after is not None:
            ids = [found.id for found in newest_first]
            if after not in ids:
                raise NotFound(f"operation {after} does not exist")
            newest_first = newest_first[ids.index(after) + 1 :]
        return newest_first[:limit]

    async def get_operation(self, project_id: ProjectId, operation_id: OperationId) -> Operation:
        self._project(project_id)
        operation = self._operations.get(operation_id)
        if operation is None or operation.project_id != project_id:
            raise NotFound(f"operation {operation_id} does not exist")
        return self._looked_at(operation)

    # -- branches --------------------------------------------------------------------------------------------

    async def list_branches(self, project_id: ProjectId, *, deleted: bool) -> Sequence[Branch]:
        self._project(project_id)
        living = self._branches_of(project_id, self._branches)
        return [*living, *self._branches_of(project_id, self._deleted_branches)] if deleted else living

    async def get_branch(self, project_id: ProjectId, branch_id: BranchId) -> Branch:
        return self._branch(project_id, branch_id)

    async def create_branch(self, project_id: ProjectId, request: BranchCreate) -> CreatedBranch:
        self._free(project_id)
        parent = self._branch(project_id, request.parent_id) if request.parent_id else self._default_branch(project_id)
        branch_id = new_branch_id()
        branch = self._copy(parent, branch_id, request.name or branch_id)
        self._branches[branch_id] = replace(
            branch,
            parent_lsn=request.parent_lsn,
            parent_timestamp=request.parent_timestamp,
            protected=request.protected,
            expires_at=request.expires_at,
        )
        self._annotate(branch_id, request.annotations)
        endpoints = tuple(
            self._add_endpoint(
                branch,
                asked.type,
                min_cu=asked.min_cu,
                max_cu=asked.max_cu,
                suspend_timeout_seconds=asked.suspend_timeout_seconds,
                settings=asked.settings,
            )
            for asked in request.endpoints
        )
        return CreatedBranch(
            branch=self._branches[branch_id],
            endpoints=endpoints,
            roles=tuple(
                RolePassword(role=role, password=self._passwords.get((branch_id, role.name)))
                for role in of_branch(self._roles, branch_id)
            ),
            databases=tuple(of_branch(self._databases, branch_id)),
            operations=(self._begin(project_id, "create_branch", branch_id=branch_id),),
        )

    async def update_branch(self, project_id: ProjectId, branch_id: BranchId, change: BranchChange) -> BranchChanged:
        self._free(project_id)
        branch = self._branch(project_id, branch_id)
        if change.name is not None and change.name != branch.name:
            self._check_branch_name(project_id, change.name)
        expires_at = None if change.never_expires else change.expires_at or branch.expires_at
        self._branches[branch_id] = replace(
            branch,
            name=change.name or branch.name,
            protected=branch.protected if change.protected is None else change.protected,
            expires_at=expires_at,
            updated_at=self.now(),
        )
        return BranchChanged(branch=self._branches[branch_id])

    async def delete_branch(self, project_id: ProjectId, branch_id: BranchId, *, hard: bool) -> BranchChanged | None:
        self._free(project_id)
        branch = self._branches.get(branch_id)
        if hard and branch is None:
            branch = self._deleted_branches.pop(branch_id, None)
            return None if branch is None else BranchChanged(branch=branch)
        if branch is None or branch.project_id != project_id:
            return None
        if branch.default or branch.protected:
            raise Conflict(f"branch {branch_id} is {'the default' if branch.default else 'protected'}")
        if any(other.parent_id == branch_id for other in self._branches.values()):
            raise Conflict(f"branch {branch_id} has children", next_step="delete them first")
        del self._branches[branch_id]
        if not hard:
            self._deleted_branches[branch_id] = replace(branch, deleted_at=self.now(), deletion_method="user")
        operation = self._begin(project_id, "delete_timeline", branch_id=branch_id)
        return BranchChanged(branch=branch, operations=(operation,))

    async def set_default_branch(self, project_id: ProjectId, branch_id: BranchId) -> BranchChanged:
        self._free(project_id)
        chosen = self._branch(project_id, branch_id)
        for branch in self._branches_of(project_id, self._branches):
            self._branches[branch.id] = replace(branch, default=branch.id == chosen.id)
        return BranchChanged(branch=self._branches[branch_id])

    async def restore_branch(self, project_id: ProjectId, branch_id: BranchId, to: BranchRestore) -> BranchChanged:
        self._free(project_id)
        branch = self._branch(project_id, branch_id)
        self._branch(project_id, to.source_branch_id)
        if to.source_branch_id == branch_id and to.source_lsn is None and to.source_timestamp is None:
            raise InvalidInput("source_timestamp: a branch is restored to its own past by a time or an LSN")
        if to.preserve_under_name is None:
            if to.source_branch_id == branch_id:
                raise InvalidInput("preserve_under_name: is required here")
            return BranchChanged(branch=branch, operations=(self._begin(project_id, "create_branch"),))
        backup = replace(self._copy(branch, new_branch_id(), to.preserve_under_name), parent_id=branch.parent_id)
        self._branches[backup.id] = backup
        for child in self._branches_of(project_id, self._branches):
            if child.parent_id == branch_id:
                self._branches[child.id] = replace(child, parent_id=backup.id)
        self._branches[branch_id] = replace(branch, parent_id=backup.id, updated_at=self.now())
        return BranchChanged(
            branch=self._branches[branch_id],
            operations=(self._begin(project_id, "create_branch", branch_id=branch_id),),
            roles_of_the_past=tuple(
                name for of, name in self._roles if of == branch_id and (of, name) not in self._passwords
            ),
        )

    async def recover_branch(self, project_id: ProjectId, branch_id: BranchId) -> RecoveredBranch:
        self._free(project_id)
        branch = self._deleted_branches.get(branch_id)
        if branch is None or branch.project_id != project_id:
            raise NotFound(f"branch {branch_id} cannot be recovered")
        del self._deleted_branches[branch_id]
        branch = replace(branch, deleted_at=None, deletion_method=None, expires_at=None)
        self._branches[branch_id] = branch
        return RecoveredBranch(branch=branch, endpoints=tuple(self._endpoints_of(project_id, branch_id)))

    async def finalize_restore(
        self, project_id: ProjectId, branch_id: BranchId, *, name: str | None
    ) -> Sequence[Operation]:
        self._free(project_id)
        self._branch(project_id, branch_id)
        raise Conflict(f"branch {branch_id} has no restore to finalize", name=name)

    async def branch_usage(self, branch_ids: Sequence[BranchId]) -> Mapping[BranchId, Usage]:
        return {}

    async def annotations(self, branch_ids: Sequence[BranchId]) -> Mapping[BranchId, Annotation]:
        return {branch_id: self._annotations[branch_id] for branch_id in branch_ids if branch_id in self._annotations}

    async def branch_schema(self, project_id: ProjectId, point: SchemaPoint) -> str:
        self._no_postgres(project_id, point)

    async def compare_schema(self, project_id: ProjectId, point: SchemaPoint, base: SchemaPoint | None) -> str:
        self._no_postgres(project_id, point)

    def _no_postgres(self, project_id: ProjectId, point: SchemaPoint) -> NoReturn:
        self._branch(project_id, point.branch_id)
        self._database(point.branch_id, point.database_name)
        raise NotSupported("a cell without Postgres has no schemas")

    # -- endpoints -------------------------------------------------------------------------------------------

    async def list_endpoints(self, project_id: ProjectId, branch_id: BranchId | None) -> Sequence[Endpoint]:
        self._project(project_id)
        if branch_id is not None:
            self._branch(project_id, branch_id)
        return self._endpoints_of(project_id, branch_id)

    async def get_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint:
        return self._endpoint(project_id, endpoint_id)

    async def create_endpoint(self, project_id: ProjectId, request: EndpointCreate) -> EndpointChanged:
        self._free(project_id)
        branch = self._branch(project_id, request.branch_id)
        endpoint = self._add_endpoint(
            branch,
            request.type,
            min_cu=request.min_cu,
            max_cu=request.max_cu,
            suspend_timeout_seconds=request.suspend_timeout_seconds,
            settings=request.settings,
        )
        return self._endpoint_changed(endpoint, "create_compute")

    async def update_endpoint(
        self, project_id: ProjectId, endpoint_id: EndpointId, change: EndpointChange
    ) -> EndpointChanged:
        self._free(project_id)
        endpoint = self._endpoint(project_id, endpoint_id)
        if change.branch_id not in (None, endpoint.branch_id):
            raise NotSupported("an endpoint cannot move to another branch")
        timeout = change.suspend_timeout_seconds
        return self._endpoint_changed(
            replace(
                endpoint,
                name=endpoint.name if change.name is None else change.name,
                min_cu=endpoint.min_cu if change.min_cu is None else change.min_cu,
                max_cu=endpoint.max_cu if change.max_cu is None else change.max_cu,
                suspend_timeout_seconds=endpoint.suspend_timeout_seconds if timeout is None else timeout,
                disabled=endpoint.disabled if change.disabled is None else change.disabled,
                settings={**endpoint.settings, **(change.settings or {})},
            ),
            "apply_config",
        )

    async def delete_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged | None:
        self._free(project_id)
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None or endpoint.project_id != project_id:
            return None
        changed = self._endpoint_changed(endpoint, "suspend_compute")
        del self._endpoints[endpoint_id]
        return changed

    async def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged:
        self._free(project_id)
        endpoint = self._endpoint(project_id, endpoint_id)
        if endpoint.disabled:
            raise Conflict(f"endpoint {endpoint_id} is disabled", next_step="enable it first")
        return self._endpoint_changed(replace(endpoint, state="active", started_at=self.now()), "start_compute")

    async def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged:
        self._free(project_id)
        endpoint = self._endpoint(project_id, endpoint_id)
        return self._endpoint_changed(replace(endpoint, state="idle", suspended_at=self.now()), "suspend_compute")

    async def restart_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> EndpointChanged:
        suspended = await self.suspend_endpoint(project_id, endpoint_id)
        endpoint = replace(suspended.endpoint, state="active", started_at=self.now())
        started = self._endpoint_changed(endpoint, "start_compute")
        return EndpointChanged(endpoint=endpoint, operations=(*suspended.operations, *started.operations))

    def _endpoint_changed(self, endpoint: Endpoint, action: OperationAction) -> EndpointChanged:
        self._endpoints[endpoint.id] = replace(endpoint, updated_at=self.now())
        operation = self._begin(endpoint.project_id, action, branch_id=endpoint.branch_id, endpoint_id=endpoint.id)
        return EndpointChanged(endpoint=self._endpoints[endpoint.id], operations=(operation,))

    # -- roles and databases ---------------------------------------------------------------------------------

    async def list_roles(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[Role]:
        self._branch(project_id, branch_id)
        return of_branch(self._roles, branch_id)

    async def get_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Role:
        self._branch(project_id, branch_id)
        return self._role(branch_id, name)

    async def create_role(self, project_id: ProjectId, branch_id: BranchId, request: RoleCreate) -> RoleChanged:
        project = self._free(project_id)
        branch = self._branch(project_id, branch_id)
        check_name("role", request.name, RESERVED_ROLES)
        if (branch_id, request.name) in self._roles:
            raise Conflict(f"role {request.name!r} already exists")
        role, password = self._add_role(branch, request.name, stored=project.store_passwords)
        return RoleChanged(
            role=role,
            password=None if request.no_login else password,
            operations=(self._begin(project_id, "apply_config", branch_id=branch_id),),
        )

    async def delete_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> RoleChanged | None:
        self._free(project_id)
        self._branch(project_id, branch_id)
        role = self._roles.get((branch_id, name))
        if role is None:
            return None
        if any(database.owner_name == name for database in of_branch(self._databases, branch_id)):
            raise Conflict(f"role {name!r} owns a database", next_step="give it to another role or delete it first")
        del self._roles[branch_id, name]
        self._passwords.pop((branch_id, name), None)
        return RoleChanged(role=role, operations=(self._begin(project_id, "apply_config", branch_id=branch_id),))

    async def reveal_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> str | None:
        self._branch(project_id, branch_id)
        self._role(branch_id, name)
        return self._passwords.get((branch_id, name))

    async def reset_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> RoleChanged:
        project = self._free(project_id)
        branch = self._branch(project_id, branch_id)
        self._role(branch_id, name)
        role, password = self._add_role(branch, name, stored=project.store_passwords)
        operation = self._begin(project_id, "apply_config", branch_id=branch_id)
        return RoleChanged(role=role, password=password, operations=(operation,))

    async def list_databases(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[Database]:
        self._branch(project_id, branch_id)
        return of_branch(self._databases, branch_id)

    async def get_database(self, project_id: ProjectId, branch_id: BranchId, name: str) -> Database:
        self._branch(project_id, branch_id)
        return self._database(branch_id, name)

    async def create_database(
        self, project_id: ProjectId, branch_id: BranchId, request: DatabaseCreate
    ) -> DatabaseChanged:
        self._free(project_id)
        branch = self._branch(project_id, branch_id)
        check_name("database", request.name, RESERVED_DATABASES)
        self._role(branch_id, request.owner_name)
        if (branch_id, request.name) in self._databases:
            raise Conflict(f"database {request.name!r} already exists")
        database = self._add_database(branch, request.name, request.owner_name)
        operation = self._begin(project_id, "apply_config", branch_id=branch_id)
        return DatabaseChanged(database=database, operations=(operation,))

    async def update_database(
        self, project_id: ProjectId, branch_id: BranchId, name: str, change: DatabaseChange
    ) -> DatabaseChanged:
        self._free(project_id)
        self._branch(project_id, branch_id)
        database = self._database(branch_id, name)
        new_name, owner = change.name or name, change.owner_name or database.owner_name
        check_name("database", new_name, RESERVED_DATABASES)
        self._role(branch_id, owner)
        if new_name != name and (branch_id, new_name) in self._databases:
            raise Conflict(f"database {new_name!r} already exists")
        del self._databases[branch_id, name]
        database = replace(database, name=new_name, owner_name=owner, updated_at=self.now())
        self._databases[branch_id, new_name] = database
        operation = self._begin(project_id, "apply_config", branch_id=branch_id)
        return DatabaseChanged(database=database, operations=(operation,))

    async def delete_database(self, project_id: ProjectId, branch_id: BranchId, name: str) -> DatabaseChanged | None:
        self._free(project_id)
        self._branch(project_id, branch_id)
        database = self._databases.pop((branch_id, name), None)
        if database is None:
            return None
        operation = self._begin(project_id, "apply_config", branch_id=branch_id)
        return DatabaseChanged(database=database, operations=(operation,))

    # -- snapshots -------------------------------------------------------------------------------------------

    async def create_snapshot(
        self, project_id: ProjectId, branch_id: BranchId, request: SnapshotCreate
    ) -> SnapshotChanged:
        self._free(project_id)
        self._branch(project_id, branch_id)
        now, snapshot_id = self.now(), new_snapshot_id()
        snapshot = Snapshot(
            id=snapshot_id,
            project_id=project_id,
            source_branch_id=branch_id,
            head_id=HEAD,
            name=request.name or snapshot_id,
            lsn=request.lsn,
            timestamp=request.timestamp or now,
            created_at=now,
            expires_at=request.expires_at,
        )
        self._snapshots[snapshot_id] = snapshot
        operation = self._begin(project_id, "create_branch", branch_id=branch_id)
        return SnapshotChanged(snapshot=snapshot, operations=(operation,))

    async def list_snapshots(self, project_id: ProjectId) -> Sequence[Snapshot]:
        self._project(project_id)
        return [snapshot for snapshot in self._snapshots.values() if snapshot.project_id == project_id]

    async def rename_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId, name: str | None) -> Snapshot:
        self._free(project_id)
        snapshot = self._snapshot(project_id, snapshot_id)
        self._snapshots[snapshot_id] = replace(snapshot, name=name or snapshot.name)
        return self._snapshots[snapshot_id]

    async def delete_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId) -> Sequence[Operation]:
        self._free(project_id)
        self._snapshot(project_id, snapshot_id)
        del self._snapshots[snapshot_id]
        return [self._begin(project_id, "delete_timeline")]

    async def restore_snapshot(
        self, project_id: ProjectId, snapshot_id: SnapshotId, request: SnapshotRestore
    ) -> RestoredSnapshot:
        self._free(project_id)
        snapshot = self._snapshot(project_id, snapshot_id)
        if request.target_branch_id is not None:
            self._branch(project_id, request.target_branch_id)
            raise NotSupported("the fake cell restores snapshots into new branches only")
        source = self._branch(project_id, snapshot.source_branch_id or self._default_branch(project_id).id)
        branch = self._copy(source, new_branch_id(), request.name or f"restored {snapshot.name}")
        operation = self._begin(project_id, "create_branch", branch_id=branch.id)
        return RestoredSnapshot(branch=branch, endpoints=(), operations=(operation,))

    async def backup_schedule(self, project_id: ProjectId, branch_id: BranchId) -> Sequence[BackupSlot]:
        self._branch(project_id, branch_id)
        return self._schedules.get(branch_id, [])

    async def set_backup_schedule(
        self, project_id: ProjectId, branch_id: BranchId, schedule: Sequence[BackupSlot]
    ) -> None:
        self._free(project_id)
        self._branch(project_id, branch_id)
        self._schedules[branch_id] = list(schedule)
