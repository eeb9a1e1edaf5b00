"""What each operation of Neon's API does here, in words: read by whoever is refused, and by the page of the docs.

Only words: what is served is decided by the routes, and who may ask by :mod:`tenantry.cell.api.rights`.
"""

from __future__ import annotations

from typing import Final

from tenantry.neon.contract import ContractOperation

WHY_NOT_GROUP: Final = {
    "AI Gateway": "a cell serves databases only",
    "Auth": "a cell keeps databases, not the users of your application",
    "Auth (legacy)": "a cell keeps databases, not the users of your application",
    "Branch": "a cell does not anonymize data",
    "Buckets": "a cell serves databases only",
    "Credentials": "logins are roles and their passwords, and API keys",
    "DataAPI": "a cell speaks Postgres, and SQL over HTTP, not REST",
    "Functions": "a cell serves databases only",
    "Organizations": "the one organization of a cell has one member, its operator",
    "Project": "a cell has no other accounts and no private networks",
    "Storage": "a cell serves databases only",
    "Users": "a cell has one account and one organization",
}
WHY_NOT: Final = {
    "addProjectJWKS": "a login is a role's name and password, not a token of somebody else's",
    "deleteProjectJWKS": "a login is a role's name and password, not a token of somebody else's",
    "getProjectJWKS": "a login is a role's name and password, not a token of somebody else's",
    "getProjectAdvisorSecurityIssues": "the advisor belongs to the Data API, which a cell does not have",
    "grantPermissionToProject": "nobody else can be given a permission; make a key of the project instead",
    "revokePermissionFromProject": "nobody else can be given a permission; revoke a key of the project instead",
    "createProjectTransferRequest": "there is no second organization to give a project to",
    "acceptProjectTransferRequest": "there is no second organization to give a project to",
    "transferProjectsFromOrgToOrg": "there is no second organization to give a project to",
    "transferProjectsFromUserToOrg": "all projects belong to the organization already",
    "listProjectVPCEndpoints": "a cell has no private networks; use your firewall, and allowed_ips",
    "assignProjectVPCEndpoint": "a cell has no private networks; use your firewall, and allowed_ips",
    "deleteProjectVPCEndpoint": "a cell has no private networks; use your firewall, and allowed_ips",
    "assignOrganizationVPCEndpoint": "a cell has no private networks; use your firewall",
    "deleteOrganizationVPCEndpoint": "a cell has no private networks; use your firewall",
    "getOrganizationVPCEndpointDetails": "a cell has no private networks; use your firewall",
    "listOrganizationVPCEndpoints": "a cell has no private networks; use your firewall",
    "listOrganizationVPCEndpointsAllRegions": "a cell has no private networks; use your firewall",
    "getOrganizationSpendingLimit": "nothing is billed; limit what projects use with settings.quota",
    "setOrganizationSpendingLimit": "nothing is billed; limit what projects use with settings.quota",
    "deleteOrganizationSpendingLimit": "nothing is billed; limit what projects use with settings.quota",
    "createOrganizationInvitations": "nobody can be invited: make keys, of the organization or of one project",
}
LIMITS: Final = {
    "createApiKey": "a personal key, which may do everything",
    "createOrgApiKey": "reaches all projects; with `project_id` only that one, and may not delete it",
    "createProject": "any `region_id` and `org_id` are taken; `pg_version` must be installed; settings that nothing"
    " here carries out are refused with 501",
    "createProjectBranch": "`archived` and read-only endpoints are refused",
    "createProjectEndpoint": "no read-only endpoints; no passwordless access; no more preload libraries",
    "deleteProject": "can be recovered for a while; `hard_delete=true` (ours) erases at once",
    "deleteProjectBranch": "can be recovered for a while, unless `hard_delete=true`",
    "getAvailablePreloadLibraries": "none: what an engine loads is its builder's choice",
    "getConnectionURI": "`pooled=true` gives the host with `-pooler`",
    "getConsumptionHistoryPerBranchV2": "any `org_id`; [what each metric means here](limits.md#what-is-measured)",
    "getConsumptionHistoryPerProject": "[what each metric means here](limits.md#what-is-measured)",
    "getConsumptionHistoryPerProjectV2": "any `org_id`; [what each metric means here](limits.md#what-is-measured)",
    "getCurrentUserInfo": "the operator; what is about billing is empty",
    "getCurrentUserOrganizations": "the one organization of the cell",
    "getActiveRegions": "one: the cell's own, as `tenantry up --region` names it",
    "getOrganizationInvitations": "always empty",
    "getOrganizationMember": "one member: the operator, an admin",
    "getOrganizationMembers": "one member: the operator, an admin",
    "getProjectBranchRolePassword": "412 where the password is not stored, or was changed by SQL",
    "getProjectBranchSchema": "as SQL only; `format=json` is refused",
    "finalizeRestoreBranch": "the endpoint that a snapshot was looked at through goes to the replaced branch",
    "listProjectPermissions": "always empty: nobody else has one",
    "listProjects": "any `org_id` is taken, since there is one organization; `recoverable=true` lists deleted ones",
    "listSharedProjects": "always empty: a cell has one account",
    "restoreProjectBranch": "`roles_of_the_past` (ours) in the answer names roles with the password of then",
    "restoreSnapshot": "in one step the id of the branch stays; `roles_of_the_past` (ours) as in a branch's restore",
    "revokeApiKey": "at once",
    "revokeOrgApiKey": "at once",
    "updateProject": "[quotas, addresses](limits.md); settings that nothing here carries out are refused with 501",
    "updateProjectEndpoint": "cannot move to another branch; no passwordless access; no more preload libraries",
}
"""Of what is served: how far it goes, where that is not as far as Neon's or needs a word."""

BEYOND: Final = {
    "GET /consumption_history/account": "of an older edition of the contract: the sum of all projects",
    "POST /projects/{project_id}/branches/{branch_id}/roles/{role_name}/reveal_password": "as older clients ask for it",
    "POST /projects/{project_id}/branches/{branch_id}/set_as_primary": "the older name of `set_as_default`",
    "POST /operator_access": "a way past quotas, as below, to many projects in one request",
    "POST /projects/{project_id}/operator_access": "a way past a project's quotas for its operator's own work",
}
"""What is served though the contract lacks it."""


def why_not(operation: ContractOperation) -> str:
    """Why a cell does not do this."""
    return WHY_NOT.get(operation.id) or WHY_NOT_GROUP[operation.group]


def is_always_refused(operation: ContractOperation) -> bool:
    """Whether we have a reason of its own for refusing it, whatever routes there are."""
    return operation.id in WHY_NOT
