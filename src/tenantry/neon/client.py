"""A client of Neon's API v2: the same for our own cells and for Neon's cloud.

Synchronous and thread-safe: any number of threads may share one client and its pooled connections. Every call has
a deadline, and inside it only what cannot have happened is asked again: 423 (another change holds the project) and
429 for every method, refused connections for every method, 503 and broken connections for methods that may be
repeated. What may have happened (a POST whose answer was lost) is never sent twice.

Errors are those of :mod:`tenantry.errors`, with the server's message and request id. The key is in none of them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import quote

from tenantry.errors import Forbidden, InvalidInput, NotFound, NotSupported, Unavailable
from tenantry.neon import shapes
from tenantry.neon.ids import BranchId, EndpointId, OperationId, ProjectId, RegionId, SnapshotId
from tenantry.neon.transport import DEADLINE_SECONDS, JsonBody, Query, Transport

PAGE_PROJECTS: Final = 100
PAGE_BRANCHES: Final = 1000
_POLL_SECONDS_FIRST: Final = 0.02
_POLL_SECONDS_MAX: Final = 1.0
_OPERATION_DONE: Final = frozenset({"finished", "skipped"})
_OPERATION_LOST: Final = frozenset({"failed", "error", "cancelled"})


class NeonClient(Transport):
    """One account of one API. Close it (or use ``with``) to give its connections back; closing is safe twice."""

    _gives_operator_access = True
    _gives_many = True
    """Until it is known that this API does not."""

    def create_project(
        self,
        *,
        name: str | None = None,
        region_id: RegionId | None = None,
        pg_version: int | None = None,
        branch_name: str | None = None,
        role_name: str | None = None,
        database_name: str | None = None,
        org_id: str | None = None,
        store_passwords: bool | None = None,
        history_retention_seconds: int | None = None,
        settings: JsonBody | None = None,
        default_endpoint_settings: JsonBody | None = None,
        deadline_seconds: float | None = None,
    ) -> shapes.ProjectCreated:
        """Makes a project with one branch, endpoint, role and database. Names are not unique: two calls make two.

        An ``Unavailable`` whose field ``maybe_done`` is true means that the project may exist: look for its name.
        """
        branch = _said(name=branch_name, role_name=role_name, database_name=database_name)
        project = _said(
            name=name,
            region_id=region_id,
            pg_version=pg_version,
            branch=branch or None,
            org_id=org_id,
            store_passwords=store_passwords,
            history_retention_seconds=history_retention_seconds,
            settings=settings,
            default_endpoint_settings=default_endpoint_settings,
        )
        return self.ask(
            shapes.ProjectCreated, "POST", "/projects", body={"project": project}, deadline_seconds=deadline_seconds
        )

    def list_projects(
        self,
        *,
        cursor: str | None = None,
        limit: int = PAGE_PROJECTS,
        search: str | None = None,
        org_id: str | None = None,
        recoverable: bool | None = None,
    ) -> shapes.ProjectsResponse:
        """One page of projects; ``search`` matches a part of the name or id."""
        query: Query = {
            "cursor": cursor, "limit": limit, "search": search, "org_id": org_id, "recoverable": recoverable,
        }  # fmt: skip
        return self.ask(shapes.ProjectsResponse, "GET", "/projects", query=query)

    def projects(
        self,
        *,
        search: str | None = None,
        org_id: str | None = None,
        recoverable: bool | None = None,
        limit: int = PAGE_PROJECTS,
    ) -> Iterator[shapes.ProjectListItem]:
        """Every project, ``limit`` in a page."""
        cursor: str | None = None
        while True:
            page = self.list_projects(cursor=cursor, limit=limit, search=search, org_id=org_id, recoverable=recoverable)
            yield from page.projects
            following = page.pagination.cursor if page.pagination else None
            if not page.projects or following is None or following == cursor:
                return
            cursor = following

    def get_project(self, project_id: ProjectId) -> shapes.Project:
        return self.ask(shapes.ProjectResponse, "GET", _path("projects", project_id)).project

    def update_project(
        self,
        project_id: ProjectId,
        *,
        name: str | None = None,
        history_retention_seconds: int | None = None,
        settings: JsonBody | None = None,
        default_endpoint_settings: JsonBody | None = None,
    ) -> shapes.ProjectOperations:
        project = _said(
            name=name,
            history_retention_seconds=history_retention_seconds,
            settings=settings,
            default_endpoint_settings=default_endpoint_settings,
        )
        return self.ask(shapes.ProjectOperations, "PATCH", _path("projects", project_id), body={"project": project})

    def delete_project(self, project_id: ProjectId, *, hard: bool | None = None) -> shapes.Project:
        """NotFound when it is gone already, also when an earlier try of this call has done it.

        ``hard``: our cells keep nothing of it to recover. Neon's cloud does not know the word, and keeps it as it says.
        """
        query: Query = {"hard_delete": hard}
        return self.ask(shapes.ProjectResponse, "DELETE", _path("projects", project_id), query=query).project

    def recover_project(self, project_id: ProjectId) -> shapes.ProjectRecovered:
        return self.ask(shapes.ProjectRecovered, "POST", _path("projects", project_id, "recover"))

    def connection_uri(
        self,
        project_id: ProjectId,
        *,
        database_name: str,
        role_name: str,
        branch_id: BranchId | None = None,
        endpoint_id: EndpointId | None = None,
        pooled: bool = False,
    ) -> str:
        """A connection string with the password in it."""
        query: Query = {
            "database_name": database_name, "role_name": role_name, "branch_id": branch_id,
            "endpoint_id": endpoint_id, "pooled": pooled or None,
        }  # fmt: skip
        path = _path("projects", project_id, "connection_uri")
        return self.ask(shapes.ConnectionUriResponse, "GET", path, query=query).uri

    def operator_uri(
        self, project_id: ProjectId, *, database_name: str, role_name: str, branch_id: BranchId | None = None
    ) -> str:
        """A connection string for an operator's own work, which the project's quotas do not stop for some minutes.

        Our cells give one to keys that may; where there is no such thing (Neon's cloud) it is the plain one. A secret.
        """
        if self._gives_operator_access:
            asked = _said(database_name=database_name, role_name=role_name, branch_id=branch_id)
            path = _path("projects", project_id, "operator_access")
            try:
                return self.ask(shapes.OperatorAccess, "POST", path, body={"operator_access": asked}).uri
            except (NotFound, Forbidden, NotSupported, InvalidInput):
                uri = self.connection_uri(
                    project_id, database_name=database_name, role_name=role_name, branch_id=branch_id
                )
                # Nothing is wrong with the project, the role or the database, so it is this that is not offered.
                self._gives_operator_access = False
                return uri
        return self.connection_uri(project_id, database_name=database_name, role_name=role_name, branch_id=branch_id)

    def operator_accesses(self, wanted: Mapping[ProjectId, tuple[str, str]]) -> dict[ProjectId, shapes.OperatorAccess]:
        """The same for many projects, of which the database and the role are given, by few requests.

        Left out are those to which there is no way; all of them where the API has no such thing. ``operator_uri`` tells
        why. Each holds a secret.
        """
        if not (self._gives_operator_access and self._gives_many):
            return {}
        found: dict[ProjectId, shapes.OperatorAccess] = {}
        everything = [
            {"project_id": project_id, "database_name": database_name, "role_name": role_name}
            for project_id, (database_name, role_name) in wanted.items()
        ]
        for begin in range(0, len(everything), shapes.OPERATOR_ACCESSES_MAX):
            asked = everything[begin : begin + shapes.OPERATOR_ACCESSES_MAX]
            try:
                given = self.ask(shapes.OperatorAccesses, "POST", "/operator_access", body={"operator_access": asked})
            except (NotFound, Forbidden, NotSupported, InvalidInput):
                self._gives_many = False
                return {}
            found |= {ProjectId(each.project_id): each for each in given.operator_access if each.project_id}
        return found

    # -- branches --------------------------------------------------------------------------------------------

    def branches(self, project_id: ProjectId, *, search: str | None = None) -> Iterator[shapes.Branch]:
        """Every branch of the project, page by page."""
        cursor: str | None = None
        while True:
            query: Query = {"cursor": cursor, "limit": PAGE_BRANCHES, "search": search}
            page = self.ask(shapes.BranchesResponse, "GET", _path("projects", project_id, "branches"), query=query)
            yield from page.branches
            following = page.pagination.next if page.pagination else None
            if not page.branches or not following or following == cursor:
                return
            cursor = following

    def get_branch(self, project_id: ProjectId, branch_id: BranchId) -> shapes.Branch:
        return self.ask(shapes.BranchResponse, "GET", _branch(project_id, branch_id)).branch

    def branch_annotations(self, project_id: ProjectId, branch_id: BranchId) -> Mapping[str, str]:
        said = self.ask(shapes.BranchResponse, "GET", _branch(project_id, branch_id)).annotation
        return {} if said is None else said.value

    def create_branch(
        self,
        project_id: ProjectId,
        *,
        name: str | None = None,
        parent_id: BranchId | None = None,
        parent_lsn: str | None = None,
        parent_timestamp: datetime | None = None,
        init_source: Literal["parent-data", "schema-only"] | None = None,
        protected: bool | None = None,
        expires_at: datetime | None = None,
        endpoint: bool = True,
        endpoint_settings: JsonBody | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> shapes.BranchCreated:
        """``endpoint`` adds a read-write endpoint; ``endpoint_settings`` are the contract's fields for it."""
        body = _said(
            branch=_said(
                name=name,
                parent_id=parent_id,
                parent_lsn=parent_lsn,
                parent_timestamp=_moment(parent_timestamp),
                init_source=init_source,
                protected=protected,
                expires_at=_moment(expires_at),
            ),
            endpoints=[{"type": "read_write", **(endpoint_settings or {})}] if endpoint else None,
            annotation_value=annotations,
        )
        return self.ask(shapes.BranchCreated, "POST", _path("projects", project_id, "branches"), body=body)

    def update_branch(
        self,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        name: str | None = None,
        protected: bool | None = None,
        expires_at: datetime | None = None,
        never_expires: bool = False,
    ) -> shapes.BranchOperations:
        branch = _said(name=name, protected=protected, expires_at=_moment(expires_at))
        if never_expires:
            branch["expires_at"] = None
        return self.ask(shapes.BranchOperations, "PATCH", _branch(project_id, branch_id), body={"branch": branch})

    def delete_branch(
        self, project_id: ProjectId, branch_id: BranchId, *, hard: bool | None = None
    ) -> shapes.BranchOperations | None:
        """None when it was gone already."""
        path = _branch(project_id, branch_id)
        return self.delete(shapes.BranchOperations, path, query={"hard_delete": hard})

    def restore_branch(
        self,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        source_branch_id: BranchId,
        source_lsn: str | None = None,
        source_timestamp: datetime | None = None,
        preserve_under_name: str | None = None,
    ) -> shapes.BranchOperations:
        body = _said(
            source_branch_id=source_branch_id,
            source_lsn=source_lsn,
            source_timestamp=_moment(source_timestamp),
            preserve_under_name=preserve_under_name,
        )
        return self.ask(shapes.BranchOperations, "POST", _branch(project_id, branch_id, "restore"), body=body)

    def set_default_branch(self, project_id: ProjectId, branch_id: BranchId) -> shapes.BranchOperations:
        return self.ask(shapes.BranchOperations, "POST", _branch(project_id, branch_id, "set_as_default"))

    def branch_schema(
        self,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        database_name: str,
        lsn: str | None = None,
        timestamp: datetime | None = None,
    ) -> str:
        """The database's schema as SQL."""
        query: Query = {"db_name": database_name, "lsn": lsn, "timestamp": _moment(timestamp)}
        return self.ask(shapes.BranchSchema, "GET", _branch(project_id, branch_id, "schema"), query=query).sql or ""

    # -- endpoints -------------------------------------------------------------------------------------------

    def list_endpoints(self, project_id: ProjectId, *, branch_id: BranchId | None = None) -> list[shapes.Endpoint]:
        """Endpoints of the project, or of one of its branches."""
        path = _branch(project_id, branch_id, "endpoints") if branch_id else _path("projects", project_id, "endpoints")
        return self.ask(shapes.EndpointsResponse, "GET", path).endpoints

    def get_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> shapes.Endpoint:
        return self.ask(shapes.EndpointResponse, "GET", _endpoint(project_id, endpoint_id)).endpoint

    def create_endpoint(
        self,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        type: Literal["read_write", "read_only"] = "read_write",
        min_cu: float | None = None,
        max_cu: float | None = None,
        suspend_timeout_seconds: int | None = None,
    ) -> shapes.EndpointOperations:
        endpoint = _said(
            branch_id=branch_id,
            type=type,
            autoscaling_limit_min_cu=min_cu,
            autoscaling_limit_max_cu=max_cu,
            suspend_timeout_seconds=suspend_timeout_seconds,
        )
        path = _path("projects", project_id, "endpoints")
        return self.ask(shapes.EndpointOperations, "POST", path, body={"endpoint": endpoint})

    def update_endpoint(
        self,
        project_id: ProjectId,
        endpoint_id: EndpointId,
        *,
        name: str | None = None,
        min_cu: float | None = None,
        max_cu: float | None = None,
        suspend_timeout_seconds: int | None = None,
        disabled: bool | None = None,
        settings: JsonBody | None = None,
    ) -> shapes.EndpointOperations:
        endpoint = _said(
            name=name,
            autoscaling_limit_min_cu=min_cu,
            autoscaling_limit_max_cu=max_cu,
            suspend_timeout_seconds=suspend_timeout_seconds,
            disabled=disabled,
            settings=settings,
        )
        path = _endpoint(project_id, endpoint_id)
        return self.ask(shapes.EndpointOperations, "PATCH", path, body={"endpoint": endpoint})

    def delete_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> shapes.EndpointOperations | None:
        """None when it was gone already."""
        return self.delete(shapes.EndpointOperations, _endpoint(project_id, endpoint_id))

    def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> shapes.EndpointOperations:
        return self.ask(shapes.EndpointOperations, "POST", _endpoint(project_id, endpoint_id, "start"))

    def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> shapes.EndpointOperations:
        return self.ask(shapes.EndpointOperations, "POST", _endpoint(project_id, endpoint_id, "suspend"))

    def restart_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> shapes.EndpointOperations:
        return self.ask(shapes.EndpointOperations, "POST", _endpoint(project_id, endpoint_id, "restart"))

    # -- databases and roles ---------------------------------------------------------------------------------

    def list_databases(self, project_id: ProjectId, branch_id: BranchId) -> list[shapes.Database]:
        return self.ask(shapes.DatabasesResponse, "GET", _branch(project_id, branch_id, "databases")).databases

    def get_database(self, project_id: ProjectId, branch_id: BranchId, name: str) -> shapes.Database:
        path = _branch(project_id, branch_id, "databases", name)
        return self.ask(shapes.DatabaseResponse, "GET", path).database

    def create_database(
        self, project_id: ProjectId, branch_id: BranchId, *, name: str, owner_name: str
    ) -> shapes.DatabaseOperations:
        body = {"database": {"name": name, "owner_name": owner_name}}
        path = _branch(project_id, branch_id, "databases")
        return self.ask(shapes.DatabaseOperations, "POST", path, body=body)

    def update_database(
        self,
        project_id: ProjectId,
        branch_id: BranchId,
        name: str,
        *,
        new_name: str | None = None,
        owner_name: str | None = None,
    ) -> shapes.DatabaseOperations:
        body = {"database": _said(name=new_name, owner_name=owner_name)}
        path = _branch(project_id, branch_id, "databases", name)
        return self.ask(shapes.DatabaseOperations, "PATCH", path, body=body)

    def delete_database(
        self, project_id: ProjectId, branch_id: BranchId, name: str
    ) -> shapes.DatabaseOperations | None:
        """None when it was gone already."""
        return self.delete(shapes.DatabaseOperations, _branch(project_id, branch_id, "databases", name))

    def list_roles(self, project_id: ProjectId, branch_id: BranchId) -> list[shapes.Role]:
        return self.ask(shapes.RolesResponse, "GET", _branch(project_id, branch_id, "roles")).roles

    def get_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> shapes.Role:
        return self.ask(shapes.RoleResponse, "GET", _branch(project_id, branch_id, "roles", name)).role

    def create_role(self, project_id: ProjectId, branch_id: BranchId, *, name: str) -> shapes.RoleOperations:
        """The answer's role has its password."""
        body = {"role": {"name": name}}
        return self.ask(shapes.RoleOperations, "POST", _branch(project_id, branch_id, "roles"), body=body)

    def delete_role(self, project_id: ProjectId, branch_id: BranchId, name: str) -> shapes.RoleOperations | None:
        """None when it was gone already."""
        return self.delete(shapes.RoleOperations, _branch(project_id, branch_id, "roles", name))

    def reveal_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> str:
        """Conflict when the password is not stored."""
        path = _branch(project_id, branch_id, "roles", name, "reveal_password")
        return self.ask(shapes.RolePassword, "GET", path).password

    def reset_password(self, project_id: ProjectId, branch_id: BranchId, name: str) -> shapes.RoleOperations:
        """The answer's role has the new password; it holds when the operations have finished."""
        path = _branch(project_id, branch_id, "roles", name, "reset_password")
        return self.ask(shapes.RoleOperations, "POST", path)

    # -- operations ------------------------------------------------------------------------------------------

    def list_operations(
        self, project_id: ProjectId, *, cursor: str | None = None, limit: int | None = None
    ) -> shapes.OperationsResponse:
        """One page of operations, newest first."""
        path = _path("projects", project_id, "operations")
        return self.ask(shapes.OperationsResponse, "GET", path, query={"cursor": cursor, "limit": limit})

    def get_operation(
        self, project_id: ProjectId, operation_id: OperationId, *, deadline_seconds: float | None = None
    ) -> shapes.Operation:
        path = _path("projects", project_id, "operations", operation_id)
        return self.ask(shapes.OperationResponse, "GET", path, deadline_seconds=deadline_seconds).operation

    def wait_for_operations(
        self,
        project_id: ProjectId,
        operations: Iterable[shapes.Operation],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        stopping: threading.Event | None = None,
    ) -> list[shapes.Operation]:
        """Waits until every operation has finished and returns them as they are then.

        Raises Unavailable (with ``operation_id``) when one fails, when the deadline passes, or when ``stopping`` is
        set meanwhile.
        """
        deadline = time.monotonic() + deadline_seconds
        pause = stopping or threading.Event()
        return [self._wait_for(project_id, operation, deadline, pause) for operation in operations]

    def _wait_for(
        self, project_id: ProjectId, operation: shapes.Operation, deadline: float, pause: threading.Event
    ) -> shapes.Operation:
        wait = _POLL_SECONDS_FIRST
        while operation.status not in _OPERATION_DONE:
            if operation.status in _OPERATION_LOST:
                raise Unavailable(
                    f"operation {operation.action} of project {project_id} {operation.status}"
                    + (f": {operation.error}" if operation.error else ""),
                    next_step="look at the project's operations for the reason",
                    project_id=project_id,
                    operation_id=operation.id,
                )
            left = deadline - time.monotonic()
            if left <= 0 or pause.wait(min(wait, left)):
                raise Unavailable(
                    f"operation {operation.action} of project {project_id} is still {operation.status}",
                    next_step="it goes on by itself; look at it again later",
                    project_id=project_id,
                    operation_id=operation.id,
                )
            wait = min(wait * 2, _POLL_SECONDS_MAX)
            left = max(deadline - time.monotonic(), _POLL_SECONDS_FIRST)
            operation = self.get_operation(project_id, OperationId(operation.id), deadline_seconds=left)
        return operation

    # -- snapshots -------------------------------------------------------------------------------------------

    def create_snapshot(
        self,
        project_id: ProjectId,
        branch_id: BranchId,
        *,
        name: str | None = None,
        lsn: str | None = None,
        timestamp: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> shapes.SnapshotOperations:
        query: Query = {
            "name": name, "lsn": lsn, "timestamp": _moment(timestamp), "expires_at": _moment(expires_at),
        }  # fmt: skip
        return self.ask(shapes.SnapshotOperations, "POST", _branch(project_id, branch_id, "snapshot"), query=query)

    def list_snapshots(self, project_id: ProjectId) -> list[shapes.Snapshot]:
        return self.ask(shapes.SnapshotsResponse, "GET", _path("projects", project_id, "snapshots")).snapshots

    def rename_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId, name: str) -> shapes.Snapshot:
        path = _path("projects", project_id, "snapshots", snapshot_id)
        return self.ask(shapes.SnapshotResponse, "PATCH", path, body={"snapshot": {"name": name}}).snapshot

    def delete_snapshot(self, project_id: ProjectId, snapshot_id: SnapshotId) -> shapes.OperationsResponse:
        path = _path("projects", project_id, "snapshots", snapshot_id)
        return self.ask(shapes.OperationsResponse, "DELETE", path)

    def restore_snapshot(
        self,
        project_id: ProjectId,
        snapshot_id: SnapshotId,
        *,
        name: str | None = None,
        target_branch_id: BranchId | None = None,
        finalize: bool = False,
    ) -> shapes.SnapshotRestored:
        path = _path("projects", project_id, "snapshots", snapshot_id, "restore")
        body = _said(name=name, target_branch_id=target_branch_id, finalize_restore=finalize or None)
        return self.ask(shapes.SnapshotRestored, "POST", path, body=body)

    # -- the account -----------------------------------------------------------------------------------------

    def users_me(self) -> shapes.CurrentUser:
        return self.ask(shapes.CurrentUser, "GET", "/users/me")

    def auth_details(self) -> shapes.AuthDetails:
        return self.ask(shapes.AuthDetails, "GET", "/auth")

    def list_regions(self) -> list[shapes.Region]:
        return self.ask(shapes.RegionsResponse, "GET", "/regions").regions

    def list_api_keys(self) -> list[shapes.ApiKeyItem]:
        return self.ask(shapes.ApiKeyItems, "GET", "/api_keys").root

    def create_api_key(self, name: str) -> shapes.ApiKeyCreated:
        """The answer is the only time that the key is shown."""
        return self.ask(shapes.ApiKeyCreated, "POST", "/api_keys", body={"key_name": name})

    def revoke_api_key(self, key_id: int) -> shapes.ApiKeyRevoked:
        return self.ask(shapes.ApiKeyRevoked, "DELETE", _path("api_keys", str(key_id)))


def _said(**fields: object) -> dict[str, object]:
    """The fields that were given; the contract takes what is absent as "default" or "unchanged"."""
    return {name: value for name, value in fields.items() if value is not None}


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _path(*segments: str) -> str:
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def _branch(project_id: ProjectId, branch_id: BranchId, *segments: str) -> str:
    return _path("projects", project_id, "branches", branch_id, *segments)


def _endpoint(project_id: ProjectId, endpoint_id: EndpointId, *segments: str) -> str:
    return _path("projects", project_id, "endpoints", endpoint_id, *segments)
