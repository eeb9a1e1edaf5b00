"""Who may do what: every route names what it needs of a key, and one pure function compares.

A personal key may do everything. An organization's key may do what concerns the organization and its projects, not
the account. A key of one project works on that project alone, and neither deletes it nor makes keys or projects.
What is refused is refused as Neon refuses it, because published clients read those words.
"""

from __future__ import annotations

import copy
from enum import Enum
from functools import cache
from typing import Final

from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tenantry.cell.api.desk import API_PREFIX
from tenantry.cell.model import ApiKey
from tenantry.errors import Defect, Forbidden
from tenantry.neon.contract import operations_at


class Need(Enum):
    """What a route asks of a key."""

    ANY_KEY = "any key"
    PROJECT = "any key that reaches the project"
    ORGANIZATION = "a key of the organization or of the account"
    ACCOUNT = "a key of the account"


class OutOfReach(Forbidden):
    """What was asked for lies outside of the key's reach; it learns nothing of whether it is there."""

    http_status = 404


_NEEDS: Final[dict[Need, str]] = {
    Need.ANY_KEY: "getActiveRegions getAuthDetails getCurrentUserOrganizations",
    Need.PROJECT: """
        getProject updateProject getConnectionURI listProjectPermissions getAvailablePreloadLibraries
        listProjectOperations getProjectOperation
        createProjectBranch listProjectBranches countProjectBranches getProjectBranch updateProjectBranch
        deleteProjectBranch restoreProjectBranch setDefaultProjectBranch recoverProjectBranch finalizeRestoreBranch
        getProjectBranchSchema getProjectBranchSchemaComparison listProjectBranchEndpoints
        createProjectEndpoint listProjectEndpoints getProjectEndpoint updateProjectEndpoint deleteProjectEndpoint
        startProjectEndpoint suspendProjectEndpoint restartProjectEndpoint
        listProjectBranchDatabases createProjectBranchDatabase getProjectBranchDatabase updateProjectBranchDatabase
        deleteProjectBranchDatabase
        listProjectBranchRoles createProjectBranchRole getProjectBranchRole deleteProjectBranchRole
        getProjectBranchRolePassword resetProjectBranchRolePassword
        createSnapshot listSnapshots updateSnapshot deleteSnapshot restoreSnapshot
        getSnapshotSchedule setSnapshotSchedule
        """,
    Need.ORGANIZATION: """
        createProject listProjects listSharedProjects deleteProject recoverProject
        getConsumptionHistoryPerProject getConsumptionHistoryPerProjectV2 getConsumptionHistoryPerBranchV2
        getOrganization getOrganizationMembers getOrganizationMember getOrganizationInvitations
        listOrgApiKeys revokeOrgApiKey
        """,
    Need.ACCOUNT: "getCurrentUserInfo listApiKeys createApiKey revokeApiKey createOrgApiKey",
}
_OFF_CONTRACT: Final = {
    ("POST", "set_as_primary"): Need.PROJECT,
    ("POST", "reveal_password"): Need.PROJECT,
    ("GET", "account"): Need.ORGANIZATION,
    ("POST", "operator_access"): Need.ORGANIZATION,
}
"""Routes that the contract lacks, by the last part of their path."""


@cache
def _by_operation() -> dict[str, Need]:
    return {operation: need for need, operations in _NEEDS.items() for operation in operations.split()}


def need_of(method: str, template: str) -> Need:
    """What a route below the API's root asks of a key. Raises Defect for one of which nobody has said."""
    below = template.removeprefix(API_PREFIX)
    operation = operations_at(below).get(method)
    need = _by_operation().get(operation.id) if operation else _OFF_CONTRACT.get((method, below.rpartition("/")[2]))
    if need is None:
        raise Defect(f"{method} {template}: nobody has said who may do this")
    return need


def check(key: ApiKey, need: Need, project_id: str | None) -> None:
    """Raises Forbidden where ``key`` does not give what is needed for ``project_id`` (None: no certain project)."""
    match key.reach, need:
        case ("account", _) | (_, Need.ANY_KEY):
            return
        case ("organization", Need.PROJECT | Need.ORGANIZATION):
            return
        case ("organization", _):
            raise OutOfReach("not allowed for organization API keys", next_step="use a personal key")
        case ("project", Need.PROJECT) if project_id == key.project_id:
            return
        case ("project", Need.ORGANIZATION) if project_id is not None and project_id == key.project_id:
            raise Forbidden("not allowed for a key of one project", next_step="use a key of the organization")
        case _:
            raise OutOfReach(
                "not allowed to perform actions outside the project this key is scoped to; "
                f'subject_project_id:"{key.project_id}"'
            )


def ruled(route: BaseRoute, need: Need | None = None) -> BaseRoute:
    """The route, answering only to keys that may. Without ``need`` each of its methods needs what its operation does.

    Raises Defect for a route of which nobody has said.
    """
    if not isinstance(route, Route):
        raise Defect(f"{route!r} cannot be guarded: it is no plain route")
    needs = {method: need or need_of(method, route.path) for method in route.methods or ()}
    guarded = copy.copy(route)
    guarded.app = _Ruled(route.app, needs)
    return guarded


class _Ruled:
    """Behind the gate, which has found the key, and before whatever reads the request."""

    def __init__(self, app: ASGIApp, needs: dict[str, Need]) -> None:
        self._app = app
        self._needs = needs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check(scope["state"]["api_key"], self._needs[scope["method"]], scope["path_params"].get("project_id"))
        await self._app(scope, receive, send)
