"""Empty databases for a moment: a project at a provider, like a new tenant's, that is deleted again.

One that a killed process left is found by its name by the next that makes one, once it is old.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Final, Self
from uuid import UUID, uuid4

import psycopg

from tenantry.errors import TenantryError
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.providers.ports import Provider
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.telemetry import late_log

NAME: Final = "tenantry-reference"
"""Before the uuid in brackets that names of a fleet's projects end with: `tenantry doctor` knows one that was left."""
LEFT_AFTER: Final = timedelta(hours=2)
"""Nobody works in one for that long."""
WAKE_SECONDS_MAX: Final = 30


class ThrowawayProjects:
    """Makes empty databases at the fleet's providers. Threads may share it."""

    def __init__(self, provider_by_id: Callable[[ProviderId], Provider]) -> None:
        self._provider_by_id = provider_by_id

    @contextmanager
    def empty_database(self, place: str, major: int | None) -> Generator[str]:
        """The DSN, a secret, of an empty database of this major, or the provider's default, at the provider of this id.

        Raises TenantryError.
        """
        provider = self._provider_by_id(ProviderId(UUID(place)))
        project, home = provider.create_project(name=f"{NAME} [{uuid4()}]", region=None, pg_version=major)
        failpoint("reference.created")
        try:
            yield provider.operator_uri(project.id, home)
        finally:
            provider.delete_project(project.id, for_good=True)
            self._delete_left(provider)

    def _delete_left(self, provider: Provider) -> None:
        oldest = datetime.now(UTC) - LEFT_AFTER
        for project in provider.find_projects(NAME):
            if project.name.startswith(f"{NAME} [") and project.created_at < oldest:
                try:
                    provider.delete_project(project.id, for_good=True)
                except TenantryError:
                    continue  # the next one that makes a database tries again


class EmptyDatabase:
    """An empty database that is made, and deleted, while something else is done. Entered for as long as that may be."""

    def __init__(self, make: Callable[[], AbstractContextManager[str]]) -> None:
        """``make`` gives the DSN of one until its block ends."""
        self._make = make
        self._thread = ThreadPoolExecutor(1, "empty-database")
        self._made = ExitStack()
        self._coming: Future[str] | None = None
        self._deletions: list[Future[None]] = []
        self._closing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Returns when there is none any more."""
        self._closing = True
        self._delete_later()
        self._thread.shutdown()
        for each in self._deletions:
            each.result()

    def begin(self) -> None:
        """Lets it be made and woken. Without this it is made when it is wanted."""
        if self._coming is None:
            self._coming = self._thread.submit(self._create)

    @contextmanager
    def use(self) -> Generator[str]:
        """The DSN, a secret. The end does not wait until it is deleted. Raises TenantryError."""
        self.begin()
        assert self._coming is not None, "it was begun"
        coming, self._coming = self._coming, None
        try:
            yield coming.result()
        finally:
            self._delete_later()

    def _delete_later(self) -> None:
        self._deletions.append(self._thread.submit(self._delete))

    def _create(self) -> str:
        dsn = self._made.enter_context(self._make())
        # Whoever uses it hears why it does not answer.
        with suppress(psycopg.Error):
            if not self._closing:
                psycopg.connect(dsn, connect_timeout=WAKE_SECONDS_MAX).close()
        return dsn

    def _delete(self) -> None:
        try:
            self._made.close()
        except TenantryError as error:
            late_log("migrations").warning("a throwaway project is left", error=str(error))
