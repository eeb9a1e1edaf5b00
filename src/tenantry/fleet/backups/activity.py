"""Whether a tenant has changed since a backup, told by its provider without waking it.

While a tenant sleeps nobody can write to it, and the provider tells when somebody was last there. A backup is somebody:
what the provider tells just after it stands for the backup's state where nobody wrote meanwhile, and nobody else was
connected at its end. Whoever is not sure takes another backup.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import psycopg

from tenantry.errors import TenantryError
from tenantry.fleet.backups import questions
from tenantry.fleet.providers.ports import Provider
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from tenantry.neon.shapes import Project, ProjectListItem

LEAVING_SECONDS_MAX: Final = 1.0
"""How long the sessions of our own programs may take to be gone, after they have ended."""
_POLL_SECONDS: Final = 0.02


def activity_of(project: Project | ProjectListItem) -> dict[str, object] | None:
    """What the provider tells, as the catalog keeps it; None where it does not.

    That somebody was connected, and that a branch was restored or took another's place.
    """
    last = project.compute_last_active_at
    return None if last is None else {"last_active": last.isoformat(), "updated": project.updated_at.isoformat()}


def is_unchanged(then: Mapping[str, object] | None, now: Mapping[str, object] | None) -> bool:
    """Whether the provider tells today what it told when the backup was taken. Pure."""
    return then is not None and now is not None and dict(then) == dict(now)


def activity_after(provider: Provider, project_id: ProjectId) -> dict[str, object] | None:
    """What it tells twice in a row, and so goes on to tell; None where it tells nothing, or somebody is there still.

    A provider may hear of the end of a session after whoever has ended it. Wakes nobody.
    """
    if "suspend" not in provider.features:
        return None
    deadline = time.monotonic() + LEAVING_SECONDS_MAX
    before, last = None, False
    try:
        while not last:
            # Two looks at least, however long the first has taken.
            last = before is not None and time.monotonic() >= deadline
            now = activity_of(provider.api("suspend").get_project(project_id))
            if now is None or now == before:
                return now
            before = now
            time.sleep(_POLL_SECONDS)
    except TenantryError:
        pass
    return None


def quiet_since(session: psycopg.Connection, transaction: str) -> bool:
    """Whether nobody has written since that was the next transaction, and nobody else is connected now."""
    deadline = time.monotonic() + LEAVING_SECONDS_MAX
    while True:
        others = session.execute(questions.OTHERS).fetchone()
        if others == (0,):
            break
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return session.execute(questions.NEXT_TRANSACTION).fetchone() == (transaction,)
