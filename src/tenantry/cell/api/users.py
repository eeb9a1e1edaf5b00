"""``/users/me`` and ``/auth``: the one account of a cell, and whose key it is."""

from __future__ import annotations

from datetime import UTC
from email.utils import format_datetime
from functools import cache
from importlib.metadata import version

from fastapi import APIRouter, Request
from starlette.responses import Response

from tenantry.cell.api import presenters
from tenantry.cell.api.desk import API_PREFIX, AtDesk, answer
from tenantry.cell.model import ApiKey
from tenantry.neon import shapes

router = APIRouter(prefix=API_PREFIX)


@router.get("/users/me")
async def current_user(desk: AtDesk) -> Response:
    return answer(presenters.current_user(desk.site, desk.cell.now()))


@router.get("/users/me/organizations")
async def organizations(desk: AtDesk) -> Response:
    return answer(shapes.OrganizationsResponse(organizations=[presenters.organization(desk.site)]))


@router.get("/auth")
async def auth_details(desk: AtDesk, request: Request) -> Response:
    key: ApiKey = request.scope["state"]["api_key"]
    if key.owner == "organization":
        said = answer(shapes.AuthDetails(account_id=desk.site.organization.id, auth_method="api_key_org"))
    else:
        said = answer(shapes.AuthDetails(account_id=str(desk.site.account.id), auth_method="api_key_user"))
    # Who has a key may know what answers, and what time it is there: a fleet compares them with its own.
    said.headers["server"] = f"tenantry/{_version()}"
    said.headers["date"] = format_datetime(desk.cell.now().astimezone(UTC), usegmt=True)
    return said


@cache
def _version() -> str:
    return version("tenantry")
