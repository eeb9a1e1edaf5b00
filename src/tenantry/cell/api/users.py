"""``/users/me`` and ``/auth``: the one account of a cell."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from tenantry.cell.api import presenters
from tenantry.cell.api.desk import API_PREFIX, AtDesk, answer
from tenantry.neon import shapes

router = APIRouter(prefix=API_PREFIX)


@router.get("/users/me")
async def current_user(desk: AtDesk) -> Response:
    return answer(presenters.current_user(desk.site, desk.cell.now()))


@router.get("/users/me/organizations")
async def organizations() -> Response:
    """None: the account of a cell belongs to nobody."""
    return answer(shapes.OrganizationsResponse())


@router.get("/auth")
async def auth_details(desk: AtDesk) -> Response:
    return answer(shapes.AuthDetails(account_id=str(desk.site.account.id), auth_method="api_key_user"))
