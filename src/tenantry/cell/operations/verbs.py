"""Every verb that an operation row may name: what a restarted cell can go on with."""

from __future__ import annotations

from typing import Final

from tenantry.cell.operations import create_project, databases, delete_project, endpoints, roles

VERBS: Final = (
    create_project.VERB,
    delete_project.VERB,
    endpoints.START,
    endpoints.SUSPEND,
    endpoints.APPLY,
    roles.CREATE,
    roles.RESET,
    roles.DELETE,
    databases.CREATE,
    databases.CHANGE,
    databases.DELETE,
)
