"""All projects, a few at a time: a large cell is gone through in turns."""

from __future__ import annotations

from typing import Final

from tenantry.cell.model import Project
from tenantry.cell.operations.context import Context
from tenantry.neon.ids import ProjectId

PROJECTS_PER_TURN_MAX: Final = 200


class Turns:
    """Begins anew after the last project."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._after: ProjectId | None = None

    async def next(self) -> list[Project]:
        """The next PROJECTS_PER_TURN_MAX living projects, or those that are left."""
        after = self._after
        projects = await self._context.state.read(
            lambda tables: tables.projects(after=after, limit=PROJECTS_PER_TURN_MAX)
        )
        self._after = projects[-1].id if len(projects) == PROJECTS_PER_TURN_MAX else None
        return projects
