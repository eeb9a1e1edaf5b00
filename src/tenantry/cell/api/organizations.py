"""``/organizations/{id}``: the one of a cell, its one member, and its keys.

Nobody can be invited: a cell knows keys, not people.
"""

from __future__ import annotations

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field
from starlette.responses import Response

from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import json_body
from tenantry.cell.api.desk import API_PREFIX, AtDesk, Desk, answer
from tenantry.cell.api.keys import ApiKeyCreateBody, KeyIdInPath
from tenantry.errors import NotFound
from tenantry.neon import shapes
from tenantry.neon.ids import ID_PATTERN, ProjectId

router = APIRouter(prefix=API_PREFIX + "/organizations/{org_id}")


async def _known(desk: AtDesk, org_id: Annotated[str, Path(pattern=ID_PATTERN.pattern)]) -> Desk:
    """The desk, where the path names the cell's organization."""
    if org_id != desk.site.organization.id:
        raise NotFound(f"organization {org_id} does not exist", next_step=f"this cell's is {desk.site.organization.id}")
    return desk


AtOrganization = Annotated[Desk, Depends(_known)]


class OrgApiKeyCreateBody(ApiKeyCreateBody):
    project_id: Annotated[ProjectId | None, Field(pattern=ID_PATTERN.pattern)] = None


@router.get("")
async def get_organization(desk: AtOrganization) -> Response:
    return answer(presenters.organization(desk.site))


@router.get("/members")
async def list_members(
    desk: AtOrganization,
    cursor: str | None = None,
    sort_by: Literal["email", "role", "joined_at"] = "joined_at",
    sort_order: Literal["asc", "desc"] = "desc",
    limit: Annotated[int, Query(ge=1, le=500)] = 500,
) -> Response:
    """One member needs no sorting and no second page."""
    return answer(shapes.OrganizationMembersResponse(members=presenters.members(desk.site)))


@router.get("/members/{member_id}")
async def get_member(desk: AtOrganization, member_id: uuid.UUID) -> Response:
    if member_id != desk.site.organization.member_id:
        raise NotFound(f"member {member_id} does not exist")
    return answer(presenters.member(desk.site))


@router.get("/invitations")
async def list_invitations(desk: AtOrganization) -> Response:
    return answer(shapes.OrganizationInvitationsResponse())


@router.get("/api_keys")
async def list_keys(desk: AtOrganization) -> Response:
    account = desk.site.account
    keys = await desk.cell.list_keys("organization")
    return answer(shapes.ApiKeyItems([presenters.api_key_item(account, key) for key in keys]))


@router.post("/api_keys")
async def create_key(
    desk: AtOrganization, body: Annotated[OrgApiKeyCreateBody, Depends(json_body(OrgApiKeyCreateBody))]
) -> Response:
    made = await desk.cell.create_key(body.key_name, "organization", body.project_id)
    return answer(presenters.api_key_created(desk.site.account, made))


@router.delete("/api_keys/{key_id}")
async def revoke_key(desk: AtOrganization, key_id: KeyIdInPath) -> Response:
    revoked = await desk.cell.revoke_key(key_id, "organization")
    return answer(presenters.api_key_revoked(desk.site.account, revoked))
