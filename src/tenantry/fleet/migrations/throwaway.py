"""Empty databases for a moment: a project at a provider, like a new tenant's, that is deleted again.

One that a killed process left is found by its name by the next that makes one, once it is old.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4

from tenantry.errors import TenantryError
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.providers.ports import Provider
from tenantry.neon.ids import ProjectId
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.telemetry import late_log

NAME: Final = "tenantry-reference"
"""Before the uuid in brackets that names of a fleet's projects end with: `tenantry doctor` knows one that was left."""
LEFT_AFTER: Final = timedelta(hours=2)
"""Nobody works in one for that long."""
Later = Callable[[Callable[[], None]], object]
"""Does what it is given some time, in another thread."""


class ThrowawayProjects:
    """Makes empty databases at the fleet's providers. Threads may share it."""

    def __init__(self, provider_by_id: Callable[[ProviderId], Provider]) -> None:
        self._provider_by_id = provider_by_id

    @contextmanager
    def empty_database(self, place: str, major: int | None, *, later: Later | None = None) -> Generator[str]:
        """The DSN, a secret, of an empty database of this major, or the provider's default, at the provider of this id.

        With ``later`` the end does not wait until the project is deleted. Raises TenantryError.
        """
        provider = self._provider_by_id(ProviderId(UUID(place)))
        project, home = provider.create_project(name=f"{NAME} [{uuid4()}]", region=None, pg_version=major)
        failpoint("reference.created")
        try:
            yield provider.operator_uri(project.id, home)
        finally:
            if later is None:
                provider.delete_project(project.id, for_good=True)
                self._delete_left(provider)
            else:
                later(lambda: self._delete_quietly(provider, project.id))

    def _delete_quietly(self, provider: Provider, project_id: ProjectId) -> None:
        try:
            provider.delete_project(project_id, for_good=True)
            self._delete_left(provider)
        except TenantryError as error:
            late_log("migrations").warning("a throwaway project is left", project_id=project_id, error=str(error))

    def _delete_left(self, provider: Provider) -> None:
        oldest = datetime.now(UTC) - LEFT_AFTER
        for project in provider.find_projects(NAME):
            if project.name.startswith(f"{NAME} [") and project.created_at < oldest:
                try:
                    provider.delete_project(project.id, for_good=True)
                except TenantryError:
                    continue  # the next one that makes a database tries again
