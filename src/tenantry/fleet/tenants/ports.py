"""What a tenant's life needs of whoever owns the projects, said by the verbs themselves.

Every call raises :class:`tenantry.errors.TenantryError` only. A provider retries what is worth it (423, 429) within
its own deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from tenantry.neon.ids import EndpointId, ProjectId, RegionId

EndpointState = Literal["init", "active", "idle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderProject:
    id: ProjectId
    name: str
    region: RegionId
    pg_version: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a tenant's data lives inside its project: the default branch's first database and its owner."""

    database_name: str
    role_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEndpoint:
    id: EndpointId
    host: str
    state: EndpointState
    suspend_timeout_seconds: int
    """0: the provider's default; -1: never."""
    cu_min: float
    cu_max: float
    last_active: datetime | None


class Provider(Protocol):
    def find_projects(self, part_of_name: str) -> Sequence[ProviderProject]:
        """Every project whose name contains the text."""
        ...

    def create_project(self, *, name: str, region: str | None, pg_version: int | None) -> tuple[ProviderProject, Home]:
        """Makes a project, by the provider's defaults where None is given. Not idempotent."""
        ...

    def home(self, project_id: ProjectId) -> Home:
        """Raises NotFound for a project that is not there (any more)."""
        ...

    def endpoints(self, project_id: ProjectId) -> Sequence[ProviderEndpoint]: ...

    def connection_uri(self, project_id: ProjectId, home: Home, *, pooled: bool) -> str:
        """A libpq URI with its password: a secret. Wakes nobody."""
        ...

    def operator_uri(self, project_id: ProjectId, home: Home) -> str:
        """The same for an operator's own work (migrations, backups): quotas do not stop it, where the provider can.

        Good for connections that are opened within some minutes. A secret. Wakes nobody.
        """
        ...

    def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        """Returns once the endpoint sleeps. Safe for one that does."""
        ...

    def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        """Returns once the endpoint is awake. Safe for one that is."""
        ...

    def delete_project(self, project_id: ProjectId) -> bool:
        """False when it was not there (any more)."""
        ...
