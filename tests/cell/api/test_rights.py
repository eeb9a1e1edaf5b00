"""Keys of the account, of the organization and of one project: what each opens, over every route that there is."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from tenantry.cell.api import rights
from tenantry.cell.api.app import build_app
from tenantry.cell.api.rights import Need, OutOfReach, check, need_of
from tenantry.cell.api.site import Organization, Site
from tenantry.cell.model import ApiKey, KeyOwner
from tenantry.errors import Defect, Forbidden
from tenantry.neon.ids import ProjectId, RegionId
from tenantry.testing.fake_api import DOOR
from tenantry.testing.fake_cell import FakeCell

MINE, OTHER = ProjectId("mine-sun-11111111"), ProjectId("other-sun-22222222")
ORG = f"/organizations/{Organization().id}"


def routes() -> list[tuple[str, str]]:
    """Every method and path of the API that a handler takes."""
    app = build_app(FakeCell(), Site(door=DOOR, region_id=RegionId("local")))
    return [
        (method, route.path.removeprefix("/api/v2"))
        for route in app.routes
        if isinstance(route, Route) and route.path.startswith("/api/v2/")
        for method in sorted(route.methods or ())
    ]


ROUTES = routes()
ADMINS_ONLY = {("DELETE", ""), ("POST", "/recover"), ("POST", "/operator_access")}
FOR_MEMBERS_OF_THE_PROJECT = re.compile(r"^/projects/\{project_id\}($|/)")


def a_key(owner: KeyOwner, project_id: ProjectId | None = None) -> ApiKey:
    return ApiKey(id=1, name="k", key_hash=b"", created_at=datetime.now(UTC), owner=owner, project_id=project_id)


def allowed(key: ApiKey, need: Need, project_id: str | None) -> bool:
    try:
        check(key, need, project_id)
    except Forbidden:
        return False
    return True


# What each kind of key may do, said a second time and from the paths alone, so that neither side can drift.
@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
def test_every_route_has_a_rule_that_its_path_explains(method: str, path: str) -> None:
    need = need_of(method, f"/api/v2{path}")
    in_project = bool(FOR_MEMBERS_OF_THE_PROJECT.match(path))
    admin = in_project and (method, path.removeprefix("/projects/{project_id}")) in ADMINS_ONLY
    of_account = path.startswith(("/api_keys", "/users/me")) and path != "/users/me/organizations"
    of_account |= (method, path) == ("POST", "/organizations/{org_id}/api_keys")
    for_all = path in {"/users/me/organizations", "/auth", "/regions"}

    assert allowed(a_key("account"), need, MINE if in_project else None)
    assert allowed(a_key("organization"), need, MINE if in_project else None) == (not of_account)
    scoped = a_key("organization", MINE)
    assert allowed(scoped, need, MINE if in_project else None) == (for_all or (in_project and not admin))
    assert allowed(scoped, need, OTHER if in_project else None) == for_all


def fill(path: str, project_id: str = OTHER) -> str:
    path = path.replace("{project_id}", project_id).replace("{org_id}", Organization().id)
    return re.sub(r"\{[^}]+\}", "some-value-1", path)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[f"{method} {path}" for method, path in ROUTES])
async def test_a_key_of_one_project_is_asked_for_its_rights_on_every_route(
    client: httpx.AsyncClient, cell: FakeCell, method: str, path: str
) -> None:
    key = cell.new_key("one", owner="organization", project_id=MINE)
    refused = await client.request(method, f"/api/v2{fill(path)}", headers={"Authorization": f"Bearer {key}"})
    if path in {"/users/me/organizations", "/auth", "/regions"}:
        assert refused.status_code == 200
        return
    assert (refused.status_code, refused.json()["code"]) == (404, "FORBIDDEN")
    assert f'subject_project_id:"{MINE}"' in refused.json()["message"]


def test_a_route_without_a_rule_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "_OFF_CONTRACT", {})
    with pytest.raises(Defect, match="nobody has said who may do this"):
        build_app(FakeCell(), Site(door=DOOR, region_id=RegionId("local")))


@pytest.mark.parametrize(
    "path", [f"/projects/{OTHER}%2F..%2F{MINE}", f"/projects/{MINE}%2f%2e%2e%2f{OTHER}", "/projects/"]
)
async def test_a_path_in_disguise_opens_nothing(client: httpx.AsyncClient, cell: FakeCell, path: str) -> None:
    key = cell.new_key("one", owner="organization", project_id=MINE)
    response = await client.get(f"/api/v2{path}", headers={"Authorization": f"Bearer {key}"})
    assert response.status_code == 404


async def test_what_a_key_of_one_project_does(ask: Any, project: Any, project_path: str, branch_path: str) -> None:
    project_id = project["project"]["id"]
    made = await ask("POST", f"{ORG}/api_keys", {"key_name": "acme", "project_id": project_id})
    assert made["project_id"] == project_id
    mine = {"headers": {"Authorization": f"Bearer {made['key']}"}}
    other = (await ask("POST", "/projects", {"project": {"name": "Other"}}, expect=201))["project"]["id"]

    assert (await ask("GET", project_path, **mine))["project"]["name"] == "ACME Corp"
    await ask(
        "POST",
        f"{branch_path}/databases",
        {"database": {"name": "crm", "owner_name": "neondb_owner"}},
        expect=201,
        **mine,
    )
    await ask("POST", f"{project_path}/branches", {"branch": {"name": "dev"}}, expect=201, **mine)
    assert (await ask("DELETE", project_path, expect=403, **mine))["code"] == "FORBIDDEN"
    refused_to: tuple[tuple[str, str, Any], ...] = (
        ("GET", f"/projects/{other}", None),
        ("DELETE", f"/projects/{other}", None),
        ("GET", "/projects/never-was-12345678", None),
        ("GET", "/projects", None),
        ("POST", "/projects", {"project": {}}),
        ("POST", f"{ORG}/api_keys", {"key_name": "more"}),
        ("GET", f"{ORG}/api_keys", None),
        ("POST", "/api_keys", {"key_name": "more"}),
        ("GET", "/users/me", None),
    )
    for method, path, body in refused_to:
        refused = await ask(method, path, body, expect=404, **mine)
        assert "outside the project this key is scoped to" in refused["message"]
    assert (await ask("GET", "/auth", **mine)) == {"account_id": Organization().id, "auth_method": "api_key_org"}
    assert (await ask("GET", "/users/me/organizations", **mine))["organizations"][0]["id"] == Organization().id


async def test_what_a_key_of_the_organization_does(ask: Any, project: Any, project_path: str) -> None:
    made = await ask("POST", f"{ORG}/api_keys", {"key_name": "ci"})
    assert "project_id" not in made
    mine = {"headers": {"Authorization": f"Bearer {made['key']}"}}
    assert len((await ask("GET", "/projects", **mine))["projects"]) == 1
    assert [key["name"] for key in await ask("GET", f"{ORG}/api_keys", **mine)] == ["ci"]
    refused_to: tuple[tuple[str, str, Any], ...] = (
        ("GET", "/users/me", None),
        ("GET", "/api_keys", None),
        ("POST", f"{ORG}/api_keys", {"key_name": "more"}),
    )
    for method, path, body in refused_to:
        assert "not allowed for organization API keys" in (await ask(method, path, body, expect=404, **mine))["message"]
    await ask("DELETE", project_path, **mine)


async def test_the_organizations_keys_and_the_accounts_are_apart(ask: Any, project: Any) -> None:
    project_id = project["project"]["id"]
    of_account = await ask("POST", "/api_keys", {"key_name": "me"})
    of_project = await ask("POST", f"{ORG}/api_keys", {"key_name": "acme", "project_id": project_id})
    listed = await ask("GET", f"{ORG}/api_keys")
    assert [(key["name"], key["project_id"]) for key in listed] == [("acme", project_id)]
    assert "acme" not in [key["name"] for key in await ask("GET", "/api_keys")]
    await ask("DELETE", f"{ORG}/api_keys/{of_account['id']}", expect=404)
    await ask("DELETE", f"/api_keys/{of_project['id']}", expect=404)
    revoked = await ask("DELETE", f"{ORG}/api_keys/{of_project['id']}")
    assert (revoked["revoked"], revoked["project_id"]) == (True, project_id)
    assert await ask("GET", f"{ORG}/api_keys") == []
    await ask("POST", f"{ORG}/api_keys", {"key_name": "x", "project_id": "never-was-12345678"}, expect=404)
    for name, wrong in (("project_id", {"key_name": "x", "project_id": "No Id"}), ("key_name", {"key_name": ""})):
        assert name in (await ask("POST", f"{ORG}/api_keys", wrong, expect=400))["message"]


def test_the_message_tells_no_more_than_its_own_project() -> None:
    with pytest.raises(OutOfReach) as refused:
        check(a_key("organization", MINE), Need.PROJECT, OTHER)
    assert OTHER not in refused.value.client_text


async def test_the_organization_and_its_member(ask: Any, project: Any) -> None:
    [mine] = (await ask("GET", "/users/me/organizations"))["organizations"]
    assert await ask("GET", ORG) == mine
    assert project["project"]["org_id"] == mine["id"]
    me = await ask("GET", "/users/me")
    [member] = (await ask("GET", f"{ORG}/members?sort_by=email&limit=1"))["members"]
    assert (member["member"]["role"], member["member"]["user_id"], member["user"]["email"]) == (
        "admin", me["id"], me["email"],
    )  # fmt: skip
    assert await ask("GET", f"{ORG}/members/{member['member']['id']}") == member["member"]
    await ask("GET", f"{ORG}/members/{me['id']}", expect=404)
    await ask("GET", f"{ORG}/members/x", expect=400)
    assert (await ask("GET", f"{ORG}/invitations"))["invitations"] == []
    await ask("POST", f"{ORG}/invitations", {"invitations": []}, expect=501)
    for path in ("", "/members", "/api_keys", "/invitations", f"/members/{member['member']['id']}"):
        assert mine["id"] in (await ask("GET", f"/organizations/org-else-1{path}", expect=404))["message"]
    await ask("POST", "/organizations/org-else-1/api_keys", {"key_name": "x"}, expect=404)


async def test_projects_are_listed_whatever_organization_is_asked_for(ask: Any, project: Any) -> None:
    for query in ("", f"?org_id={Organization().id}", "?org_id=org-shiny-flower-01403126"):
        [listed] = (await ask("GET", f"/projects{query}"))["projects"]
        assert listed["org_id"] == Organization().id
