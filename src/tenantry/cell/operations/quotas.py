"""What a project may still consume, asked of everything that is known this moment; and the operator's way past it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from tenantry.cell import operator_access
from tenantry.cell.consumption import Amounts, period_of
from tenantry.cell.model import OperatorAccess, Project
from tenantry.cell.operations.context import Context, living_project
from tenantry.cell.operations.usage import with_running
from tenantry.cell.quotas import Spent, exceeded, limits_of, refusing, spent_of
from tenantry.cell.state.tables import Tables
from tenantry.errors import InvalidInput, QuotaExceeded
from tenantry.neon.ids import ProjectId

OPERATOR_KEY: Final = "operator access"
"""What the key of tokens is derived for."""


def spent_now(context: Context, tables: Tables, project: Project) -> list[Spent]:
    """Each quota of the project and what is used of it; nothing is looked up for a project without quotas."""
    if not limits_of(project.settings):
        return []
    start, _ = period_of(context.clock.now())
    sums = tables.meters.sums_of_projects([project.id], start)
    running = context.instances.readings(project.id)
    used = with_running(tables, sums, running, start, lambda reading: reading.project_id)
    return spent_of(project.settings, used.get(project.id, Amounts()))


def exceeded_quota(context: Context, tables: Tables, project: Project) -> QuotaExceeded | None:
    """Why nobody may connect to the project or start it, or None."""
    refused = refusing(spent_now(context, tables, project))
    return None if refused is None else exceeded(refused, period_of(context.clock.now())[1])


def check_quota(context: Context, tables: Tables, project_id: ProjectId) -> None:
    """Raises QuotaExceeded."""
    refused = exceeded_quota(context, tables, living_project(tables, project_id))
    if refused is not None:
        raise refused


async def operator_access_for(context: Context, project_id: ProjectId, seconds: int | None) -> OperatorAccess:
    """A token with which connections to the project pass its quotas until it expires; sessions may go on after that.

    Raises NotFound, InvalidInput.
    """
    lasts = operator_access.SECONDS_DEFAULT if seconds is None else seconds
    if not 1 <= lasts <= operator_access.SECONDS_MAX:
        raise InvalidInput(
            f"expires_in_seconds: between 1 and {operator_access.SECONDS_MAX}", field="expires_in_seconds"
        )
    await context.state.read(lambda tables: living_project(tables, project_id))
    until = context.clock.now().replace(microsecond=0) + timedelta(seconds=lasts)
    key = context.sealer.derive(OPERATOR_KEY)
    return OperatorAccess(operator_access.issue(key, project_id, until), until)
