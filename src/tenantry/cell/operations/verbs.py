"""Every verb that an operation row may name: what a restarted cell can go on with."""

from __future__ import annotations

from typing import Final

from tenantry.cell.operations import (
    branches,
    create_project,
    databases,
    delete_project,
    endpoints,
    finalize_restore,
    restore_branch,
    roles,
)

VERBS: Final = (
    create_project.VERB,
    delete_project.VERB,
    endpoints.START,
    endpoints.SUSPEND,
    endpoints.APPLY,
    endpoints.DELETE,
    branches.CREATE,
    branches.DELETE,
    restore_branch.VERB,
    finalize_restore.VERB,
    roles.CREATE,
    roles.RESET,
    roles.DELETE,
    databases.CREATE,
    databases.CHANGE,
    databases.DELETE,
)
