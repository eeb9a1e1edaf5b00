"""The whole contract has an answer: a handler, or a refusal that says so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.api.app import build_app
from tenantry.cell.api.coverage import why_not
from tenantry.cell.api.site import Site
from tenantry.neon.contract import contract_operations, operations_at
from tenantry.neon.ids import RegionId
from tenantry.testing.fake_api import DOOR
from tenantry.testing.fake_cell import FakeCell

SERVED = {
    "createProject", "listProjects", "listSharedProjects", "getProject", "updateProject", "deleteProject",
    "recoverProject", "getConnectionURI", "listProjectPermissions", "listProjectOperations", "getProjectOperation",
    "createProjectBranch", "listProjectBranches", "countProjectBranches", "getProjectBranch", "updateProjectBranch",
    "deleteProjectBranch", "restoreProjectBranch", "setDefaultProjectBranch", "recoverProjectBranch",
    "finalizeRestoreBranch", "getProjectBranchSchema", "getProjectBranchSchemaComparison",
    "listProjectBranchEndpoints", "createProjectEndpoint", "listProjectEndpoints", "getProjectEndpoint",
    "updateProjectEndpoint", "deleteProjectEndpoint", "startProjectEndpoint", "suspendProjectEndpoint",
    "restartProjectEndpoint", "listProjectBranchDatabases", "createProjectBranchDatabase", "getProjectBranchDatabase",
    "updateProjectBranchDatabase", "deleteProjectBranchDatabase", "listProjectBranchRoles", "createProjectBranchRole",
    "getProjectBranchRole", "deleteProjectBranchRole", "getProjectBranchRolePassword",
    "resetProjectBranchRolePassword", "createSnapshot", "listSnapshots", "updateSnapshot", "deleteSnapshot",
    "restoreSnapshot", "getSnapshotSchedule", "setSnapshotSchedule", "listApiKeys", "createApiKey", "revokeApiKey",
    "getOrganization", "getOrganizationMembers", "getOrganizationMember", "getOrganizationInvitations",
    "listOrgApiKeys", "createOrgApiKey", "revokeOrgApiKey", "getAvailablePreloadLibraries",
    "getConsumptionHistoryPerProject", "getConsumptionHistoryPerProjectV2", "getConsumptionHistoryPerBranchV2",
    "getCurrentUserInfo", "getCurrentUserOrganizations", "getAuthDetails", "getActiveRegions",
}  # fmt: skip


def test_the_committed_list_is_the_contract() -> None:
    document = json.loads((Path(__file__).parents[2] / "data" / "neon-v2.shapes.json").read_text())
    contract = {
        (method.upper(), path, operation["operationId"])
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in {"get", "put", "post", "patch", "delete", "head", "options"}
    }
    assert {operation[:3] for operation in contract_operations()} == contract
    assert len(contract) == 163


@pytest.fixture
def routed() -> set[str]:
    """Ids of the contract's operations that a handler takes."""
    app = build_app(FakeCell(), Site(door=DOOR, region_id=RegionId("local")))
    found: set[str] = set()
    for route in app.routes:
        path = re.sub(r":path}", "}", getattr(route, "path", "")).removeprefix("/api/v2")
        for method in getattr(route, "methods", None) or ():
            operation = operations_at(path).get(method)
            if operation is not None:
                found.add(operation.id)
    return found


def test_what_is_served_is_what_we_say(routed: set[str]) -> None:
    assert routed == SERVED


@pytest.mark.parametrize(
    "operation", [operation for operation in contract_operations() if operation.id not in SERVED], ids=lambda o: o.id
)
async def test_the_rest_of_the_contract_says_that_it_is_not_here(ask: Any, operation: Any) -> None:
    path = re.sub(r"\{[^}]+\}", "some-value-1", operation.path)
    answer = await ask(operation.method, path, expect=501)
    assert answer["code"] == "NOT_IMPLEMENTED"
    assert operation.id in answer["message"]
    assert why_not(operation) in answer["message"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/projects", "GET, POST"),
        ("HEAD", "/projects", "GET, POST"),
        ("DELETE", "/users/me", "GET"),
        ("GET", "/projects/p-1/endpoints/ep-1/start", "POST"),
        ("PATCH", "/projects/p-1/jwks", "GET, POST"),
        ("BREW", "/regions", "GET"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(client: Any, method: str, path: str, allow: str) -> None:
    response = await client.request(method, f"/api/v2{path}")
    assert (response.status_code, response.headers["allow"]) == (405, allow)


@pytest.mark.parametrize(
    "path", ["/", "/project", "/projects/", "/projects/p-1/nothing", "/users", "//projects", "/projects//x"]
)
async def test_a_path_outside_the_contract_is_not_found(client: Any, path: str) -> None:
    response = await client.get(f"/api/v2{path}")
    assert (response.status_code, response.json()["code"]) == (404, "NOT_FOUND")


async def test_permissions_are_refused_as_old_clients_ask_for_them(client: Any) -> None:
    response = await client.request("DELETE", "/api/v2/projects/p-1/permissions", json={"id": "x"})
    assert response.status_code == 501


def test_a_literal_path_wins_over_a_template() -> None:
    assert operations_at("/projects/shared")["GET"].id == "listSharedProjects"
    assert operations_at("/projects/p/branches/count")["GET"].id == "countProjectBranches"
    assert operations_at("/projects/p/branches/b")["GET"].id == "getProjectBranch"
    assert operations_at("/projects//branches") == {}
