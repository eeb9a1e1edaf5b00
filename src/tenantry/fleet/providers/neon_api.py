"""A provider that speaks the Neon API v2: our own cells, and Neon's cloud."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Final, cast

from tenantry.errors import NotFound
from tenantry.fleet.providers.neon_account import NeonAccount
from tenantry.fleet.providers.neon_reports import look_at
from tenantry.fleet.providers.ports import (
    FEATURES,
    EndpointState,
    Feature,
    Health,
    Home,
    Limits,
    ListedProject,
    OperatorWay,
    ProviderEndpoint,
    ProviderProject,
    UsedOnDay,
)
from tenantry.neon.ids import BranchId, EndpointId, ProjectId, RegionId
from tenantry.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from tenantry.neon import shapes
    from tenantry.neon.client import NeonClient

START_SECONDS_MAX: Final = 60.0
"""Waking and putting to sleep, as long as anybody waits for it."""
PAGE_MAX: Final = 400
"""Projects in one answer, as the contract allows."""
_QUOTAS: Final = {
    "quota_active_seconds": "active_time_seconds",
    "quota_compute_seconds": "compute_time_seconds",
    "quota_written_bytes": "written_data_bytes",
    "quota_sent_bytes": "data_transfer_bytes",
    "quota_logical_bytes": "logical_size_bytes",
}
"""Our names of quotas, and the contract's."""


class NeonProvider:
    """See ``ports.Provider``. Threads may share it. Closing it closes its account, or its client."""

    def __init__(self, access: NeonAccount | NeonClient, name: str = "home") -> None:
        self._access = access
        self.name: Final = name
        self.features: Final = frozenset(FEATURES)

    @property
    def _client(self) -> NeonClient:
        return self._access.client if isinstance(self._access, NeonAccount) else self._access

    def find_projects(self, part_of_name: str) -> Sequence[ProviderProject]:
        # The API's search also looks at ids.
        return [_project(item) for item in self._client.projects(search=part_of_name) if part_of_name in item.name]

    def list_projects(self) -> Iterator[ListedProject]:
        for item in self._client.projects(limit=PAGE_MAX):
            yield ListedProject(project=_project(item), limits=_listed_limits(item))

    def create_project(
        self, *, name: str, region: str | None, pg_version: int | None, limits: Limits | None = None
    ) -> tuple[ProviderProject, Home]:
        wanted = limits or Limits()
        quota = _quota(wanted)
        made = self._client.create_project(
            name=name,
            region_id=None if region is None else RegionId(region),
            pg_version=pg_version,
            history_retention_seconds=wanted.history_seconds,
            settings={"quota": quota} if quota else None,
            default_endpoint_settings=_compute(wanted) or None,
        )
        return _project(made.project), _home(ProjectId(made.project.id), made.databases)

    def home(self, project_id: ProjectId) -> Home:
        return _home(project_id, self._client.list_databases(project_id, self._default_branch(project_id)))

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

    def operator_ways(self, homes: Mapping[ProjectId, Home]) -> Mapping[ProjectId, OperatorWay]:
        given = self._client.operator_accesses(
            {project_id: (home.database_name, home.role_name) for project_id, home in homes.items()}
        )
        return {project_id: OperatorWay(each.uri, _keys(each)) for project_id, each in given.items()}

    def new_password(self, project_id: ProjectId, home: Home) -> None:
        branch = self._default_branch(project_id)
        changed = self._client.reset_password(project_id, branch, home.role_name)
        self._client.wait_for_operations(project_id, changed.operations)

    def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        changed = self._client.suspend_endpoint(project_id, endpoint_id)
        self._client.wait_for_operations(project_id, changed.operations, deadline_seconds=START_SECONDS_MAX)

    def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        changed = self._client.start_endpoint(project_id, endpoint_id)
        self._client.wait_for_operations(project_id, changed.operations, deadline_seconds=START_SECONDS_MAX)

    def limits(self, project_id: ProjectId) -> Limits:
        project = self._client.get_project(project_id)
        endpoint = self._writing_endpoint(project_id)
        return Limits(
            cu_min=None if endpoint is None else endpoint.autoscaling_limit_min_cu,
            cu_max=None if endpoint is None else endpoint.autoscaling_limit_max_cu,
            suspend_seconds=None if endpoint is None else endpoint.suspend_timeout_seconds,
            history_seconds=project.history_retention_seconds,
            **_held_quota(project.settings),
        )

    def change_limits(self, project_id: ProjectId, wanted: Limits) -> None:
        compute, quota = _compute(wanted), _quota(wanted)
        if quota and len(quota) < len(_QUOTAS):
            # The API replaces it whole by what is said.
            settings = self._client.get_project(project_id).settings
            quota = _quota(Limits(**_held_quota(settings))) | quota
        # The endpoint first: that the project's defaults are right says that its endpoint is.
        if compute and (endpoint := self._writing_endpoint(project_id)) is not None:
            resized = self._client.update_endpoint(
                project_id,
                EndpointId(endpoint.id),
                min_cu=wanted.cu_min,
                max_cu=wanted.cu_max,
                suspend_timeout_seconds=wanted.suspend_seconds,
            )
            self._client.wait_for_operations(project_id, resized.operations)
            failpoint("change_limits.endpoint")
        if compute or quota or wanted.history_seconds is not None:
            changed = self._client.update_project(
                project_id,
                history_retention_seconds=wanted.history_seconds,
                settings={"quota": quota} if quota else None,
                default_endpoint_settings=compute or None,
            )
            self._client.wait_for_operations(project_id, changed.operations)

    def usage(self, since: date, until: date, projects: Sequence[ProjectId] | None = None) -> Iterator[UsedOnDay]:
        # Shapes that no other verb needs.
        from tenantry.fleet.providers.neon_usage import used_on_days  # noqa: PLC0415

        return used_on_days(self._client, since, until, projects)

    def rename_project(self, project_id: ProjectId, name: str) -> None:
        self._client.wait_for_operations(project_id, self._client.update_project(project_id, name=name).operations)

    def refuse_connections(self, project_id: ProjectId, refused: bool) -> None:
        for endpoint in self._client.list_endpoints(project_id):
            if endpoint.disabled != refused:
                changed = self._client.update_endpoint(project_id, EndpointId(endpoint.id), disabled=refused)
                self._client.wait_for_operations(project_id, changed.operations, deadline_seconds=START_SECONDS_MAX)

    def delete_project(self, project_id: ProjectId, *, for_good: bool = False) -> bool:
        try:
            self._client.delete_project(project_id, hard=for_good or None)
        except NotFound:
            return False
        return True

    def api(self, feature: Feature) -> NeonClient:
        assert feature in self.features
        return self._client

    def check(self) -> Health:
        return look_at(self._client)

    def close(self) -> None:
        self._access.close()

    def _default_branch(self, project_id: ProjectId) -> BranchId:
        branch = next((branch for branch in self._client.branches(project_id) if branch.default), None)
        if branch is None:
            raise NotFound(f"project {project_id} has no default branch", project_id=project_id)
        return BranchId(branch.id)

    def _writing_endpoint(self, project_id: ProjectId) -> shapes.Endpoint | None:
        """The read-write endpoint of the default branch."""
        found = self._client.list_endpoints(project_id, branch_id=self._default_branch(project_id))
        return next((endpoint for endpoint in found if endpoint.type == "read_write"), None)


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


def _compute(wanted: Limits) -> dict[str, object]:
    return _given(
        autoscaling_limit_min_cu=wanted.cu_min,
        autoscaling_limit_max_cu=wanted.cu_max,
        suspend_timeout_seconds=wanted.suspend_seconds,
    )


def _quota(wanted: Limits) -> dict[str, object]:
    return _given(**{theirs: getattr(wanted, ours) for ours, theirs in _QUOTAS.items()})


def _held_quota(settings: shapes.ProjectSettings | None) -> dict[str, int | None]:
    """Under our names. The contract's zero is no limit."""
    quota = settings.quota if settings is not None else None
    return {ours: getattr(quota, theirs, None) or None for ours, theirs in _QUOTAS.items()}


def _listed_limits(item: shapes.ProjectListItem) -> Limits:
    defaults = item.default_endpoint_settings
    return Limits(
        cu_min=None if defaults is None else defaults.autoscaling_limit_min_cu,
        cu_max=None if defaults is None else defaults.autoscaling_limit_max_cu,
        suspend_seconds=None if defaults is None else defaults.suspend_timeout_seconds,
        history_seconds=item.history_retention_seconds,
        **_held_quota(item.settings),
    )


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _keys(access: shapes.OperatorAccess) -> tuple[str, str] | None:
    client_key, server_key = access.scram_client_key, access.scram_server_key
    return None if client_key is None or server_key is None else (client_key, server_key)
