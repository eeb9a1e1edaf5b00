"""A branch to restore into: made from what is there, with every database of the tenant's dropped and made anew.

It goes again when what was to be restored into it was not.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from tenantry.errors import Conflict
from tenantry.fleet.providers.ports import Home, Provider
from tenantry.neon.ids import BranchId, ProjectId

MADE_SECONDS_MAX: Final = 600.0


@contextmanager
def empty_branch(provider: Provider, project_id: ProjectId, home: Home, name: str) -> Generator[BranchId]:
    """Raises NotSupported, and Conflict where there is one of this name."""
    client = provider.api("branches")
    if any(branch.name == name for branch in client.branches(project_id, search=name)):
        raise Conflict(f"there is a branch {name} already", next_step="choose another name with --as")
    made = client.create_branch(project_id, name=name)
    branch_id = BranchId(made.branch.id)
    try:
        client.wait_for_operations(project_id, made.operations, deadline_seconds=MADE_SECONDS_MAX)
        for database in client.list_databases(project_id, branch_id):
            gone = client.delete_database(project_id, branch_id, database.name)
            if gone is not None:
                client.wait_for_operations(project_id, gone.operations)
        fresh = client.create_database(project_id, branch_id, name=home.database_name, owner_name=home.role_name)
        client.wait_for_operations(project_id, fresh.operations)
        yield branch_id
    except BaseException:
        client.delete_branch(project_id, branch_id, hard=True)
        raise
