"""A provider that speaks the Neon API v2: our own cells, and Neon's cloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

from tenantry.errors import NotFound
from tenantry.fleet.tenants.ports import EndpointState, Home, ProviderEndpoint, ProviderProject
from tenantry.neon import shapes
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import BranchId, EndpointId, ProjectId, RegionId

START_SECONDS_MAX: Final = 60.0
"""Waking and putting to sleep, as long as anybody waits for it."""


class NeonProvider:
    """See ``ports.Provider``. Threads may share it."""

    def __init__(self, client: NeonClient) -> None:
        self._client = client

    def find_projects(self, part_of_name: str) -> Sequence[ProviderProject]:
        # The API's search also looks at ids.
        return [_project(item) for item in self._client.projects(search=part_of_name) if part_of_name in item.name]

    def create_project(self, *, name: str, region: str | None, pg_version: int | None) -> tuple[ProviderProject, Home]:
        made = self._client.create_project(
            name=name, region_id=None if region is None else RegionId(region), pg_version=pg_version
        )
        return _project(made.project), _home(ProjectId(made.project.id), made.databases)

    def home(self, project_id: ProjectId) -> Home:
        branch = next((branch for branch in self._client.branches(project_id) if branch.default), None)
        if branch is None:
            raise NotFound(f"project {project_id} has no default branch", project_id=project_id)
        return _home(project_id, self._client.list_databases(project_id, BranchId(branch.id)))

    def endpoints(self, project_id: ProjectId) -> Sequence[ProviderEndpoint]:
        return [
            ProviderEndpoint(
                id=EndpointId(endpoint.id),
                host=endpoint.host,
                # What the API calls init is on its way up: not asleep, not yet awake.
                state=cast(EndpointState, endpoint.current_state),
                suspend_timeout_seconds=endpoint.suspend_timeout_seconds,
                cu_min=endpoint.autoscaling_limit_min_cu,
                cu_max=endpoint.autoscaling_limit_max_cu,
                last_active=endpoint.last_active,
            )
            for endpoint in self._client.list_endpoints(project_id)
        ]

    def connection_uri(self, project_id: ProjectId, home: Home, *, pooled: bool) -> str:
        return self._client.connection_uri(
            project_id, database_name=home.database_name, role_name=home.role_name, pooled=pooled
        )

    def operator_uri(self, project_id: ProjectId, home: Home) -> str:
        return self._client.operator_uri(project_id, database_name=home.database_name, role_name=home.role_name)

    def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        changed = self._client.suspend_endpoint(project_id, endpoint_id)
        self._client.wait_for_operations(project_id, changed.operations, deadline_seconds=START_SECONDS_MAX)

    def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        changed = self._client.start_endpoint(project_id, endpoint_id)
        self._client.wait_for_operations(project_id, changed.operations, deadline_seconds=START_SECONDS_MAX)

    def delete_project(self, project_id: ProjectId) -> bool:
        try:
            self._client.delete_project(project_id)
        except NotFound:
            return False
        return True


def _project(project: shapes.Project | shapes.ProjectListItem) -> ProviderProject:
    return ProviderProject(
        id=ProjectId(project.id),
        name=project.name,
        region=RegionId(project.region_id),
        pg_version=project.pg_version,
        created_at=project.created_at,
    )


def _home(project_id: ProjectId, databases: Sequence[shapes.Database]) -> Home:
    """The first database that was made is the one that the project was made for."""
    if not databases:
        raise NotFound(f"project {project_id} has no database", project_id=project_id)
    first = min(databases, key=lambda database: (database.created_at, database.id))
    return Home(database_name=first.name, role_name=first.owner_name)
