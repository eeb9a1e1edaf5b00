from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Self

import pytest

from tenantry.errors import NotFound, TenantryError
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import (
    FEATURES,
    EndpointState,
    Feature,
    Health,
    Home,
    Limits,
    ListedProject,
    ProviderEndpoint,
    ProviderProject,
    UsedOnDay,
    no_feature,
)
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import EndpointId, ProjectId, RegionId


class MemoryProvider:
    """A provider whose projects live in a dict, and which can kill its caller before or after any call."""

    class Killed(BaseException):
        """Ends a verb as SIGKILL would: nothing catches it, and the open transaction is rolled back."""

    name = "memory"

    def __init__(self) -> None:
        self.features: frozenset[Feature] = frozenset(FEATURES)
        self.held: dict[ProjectId, Limits] = {}
        self.projects: dict[ProjectId, ProviderProject] = {}
        self.states: dict[ProjectId, EndpointState] = {}
        self.shut: set[ProjectId] = set()
        """Those whose clients are turned away."""
        self.gone_for_good: set[ProjectId] = set()
        self.calls: list[str] = []
        self.kill_at: tuple[str, str] | None = None
        self.before_create: list[ProviderProject] = []
        """Appear when the next create_project arrives: requests of the dead that were still on the wire."""
        self.refusal: TenantryError | None = None
        """What create_project answers."""
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def _moment(self, moment: str, call: str) -> None:
        if moment == "before":
            self.calls.append(call)
        if self.kill_at == (moment, call):
            self.kill_at = None
            raise self.Killed

    def born(self, name: str, region: str = "local", pg_version: int = 18) -> ProviderProject:
        number = next(self._numbers)
        return ProviderProject(
            id=ProjectId(f"cool-sun-{number:08}"),
            name=name,
            region=RegionId(region),
            pg_version=pg_version,
            created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
        )

    def find_projects(self, part_of_name: str) -> Sequence[ProviderProject]:
        self._moment("before", "find")
        # In no useful order, as an API may answer.
        return [project for project in reversed(self.projects.values()) if part_of_name in project.name]

    def list_projects(self) -> Iterator[ListedProject]:
        self._moment("before", "list")
        for project in list(self.projects.values()):
            yield ListedProject(project=project, limits=self.held.get(project.id, Limits()))

    def create_project(
        self, *, name: str, region: str | None, pg_version: int | None, limits: Limits | None = None
    ) -> tuple[ProviderProject, Home]:
        self._moment("before", "create")
        if self.refusal is not None:
            raise self.refusal
        with self._lock:
            for late in self.before_create:
                self.projects[late.id] = late
            project = self.born(name, region or "local", pg_version or 18)
            self.projects[project.id] = project
            self.states[project.id] = "idle"
            self.held[project.id] = limits or Limits()
        self._moment("after", "create")
        return project, self.home(project.id)

    def home(self, project_id: ProjectId) -> Home:
        if project_id not in self.projects:
            raise NotFound(f"no project {project_id}")
        return Home(database_name="neondb", role_name="neondb_owner")

    def endpoints(self, project_id: ProjectId) -> Sequence[ProviderEndpoint]:
        self.home(project_id)
        return [
            ProviderEndpoint(
                id=EndpointId(f"ep-{project_id}"),
                host=f"ep-{project_id}.localhost",
                state=self.states[project_id],
                suspend_timeout_seconds=0,
                cu_min=0.25,
                cu_max=0.25,
                last_active=None,
            )
        ]

    def connection_uri(self, project_id: ProjectId, home: Home, *, pooled: bool) -> str:
        self.home(project_id)
        pooler = "-pooler" if pooled else ""
        return f"postgresql://{home.role_name}:secret@ep-{project_id}{pooler}.localhost/{home.database_name}"

    def operator_uri(self, project_id: ProjectId, home: Home) -> str:
        return self.connection_uri(project_id, home, pooled=False) + "?options=operator%3Dtoken"

    def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        self.calls.append("suspend")
        self.states[project_id] = "idle"

    def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        self.calls.append("start")
        self.states[project_id] = "active"

    def of(self, tenant: Tenant) -> Self:
        """For verbs that ask who has a tenant."""
        del tenant
        return self

    def check(self) -> Health:
        return Health(version="memory", regions=[RegionId("local")], clock_seconds=0.0)

    def rename_project(self, project_id: ProjectId, name: str) -> None:
        self._moment("before", "rename")
        self.home(project_id)
        self.projects[project_id] = replace(self.projects[project_id], name=name)
        self._moment("after", "rename")

    def new_password(self, project_id: ProjectId, home: Home) -> None:
        self._moment("before", "password")
        self.home(project_id)

    def limits(self, project_id: ProjectId) -> Limits:
        self.home(project_id)
        return self.held.get(project_id, Limits())

    def change_limits(self, project_id: ProjectId, wanted: Limits) -> None:
        self._moment("before", "limits")
        self.home(project_id)
        said = {field.name: getattr(wanted, field.name) for field in fields(wanted)}
        known = self.held.get(project_id, Limits())
        self.held[project_id] = replace(known, **{name: value for name, value in said.items() if value is not None})
        self._moment("after", "limits")

    def usage(self, since: date, until: date, projects: Sequence[ProjectId] | None = None) -> Iterator[UsedOnDay]:
        del since, until, projects
        return iter(())

    def api(self, feature: Feature) -> NeonClient:
        raise no_feature(self.name, "memory", feature)

    def close(self) -> None:
        pass

    def refuse_connections(self, project_id: ProjectId, refused: bool) -> None:
        self._moment("before", "door")
        self.home(project_id)
        (self.shut.add if refused else self.shut.discard)(project_id)
        self._moment("after", "door")

    def delete_project(self, project_id: ProjectId, *, for_good: bool = False) -> bool:
        self._moment("before", "delete")
        if for_good:
            self.gone_for_good.add(project_id)
        gone = self.projects.pop(project_id, None) is None
        self._moment("after", "delete")
        return not gone


@pytest.fixture
def provider() -> MemoryProvider:
    return MemoryProvider()
