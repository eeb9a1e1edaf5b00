"""The one project that carries a uuid: adopted where it is there, else made (docs/decisions/0002, 0015)."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from tenantry.errors import InvalidInput
from tenantry.fleet.providers.ports import Home, Limits, Provider, ProviderProject


def project_of(
    provider: Provider,
    mark: UUID,
    *,
    name: str,
    region: str | None,
    pg_version: int | None,
    limits: Limits,
    fresh: bool,
    made: Callable[[], None] = lambda: None,
) -> tuple[ProviderProject, Home] | InvalidInput:
    """Or why it cannot be made. The caller holds the row of ``mark``; ``fresh`` says that nobody can have tried before.

    ``made`` is called between the making and whatever follows it.
    """
    found = [] if fresh else _oldest_first(provider, mark)
    home: Home | None = None
    if not found:
        try:
            project, home = provider.create_project(name=name, region=region, pg_version=pg_version, limits=limits)
        except InvalidInput as refusal:
            return refusal
        made()
        # A request of a killed predecessor may have arrived between our search and our own request.
        found = [project] if fresh else _oldest_first(provider, mark) or [project]
        home = home if found[0].id == project.id else None
    for stray in found[1:]:
        provider.delete_project(stray.id)
    return found[0], home or provider.home(found[0].id)


def _oldest_first(provider: Provider, mark: UUID) -> list[ProviderProject]:
    """Of several projects the same one wins, whoever looks."""
    return sorted(provider.find_projects(str(mark)), key=lambda project: (project.created_at, project.id))
