"""``/api_keys``: list, create, revoke the account's own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path
from pydantic import AfterValidator, Field
from starlette.responses import Response

from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import Body, json_body, readable
from tenantry.cell.api.desk import API_PREFIX, AtDesk, answer
from tenantry.neon import shapes

router = APIRouter(prefix=API_PREFIX + "/api_keys")


KeyIdInPath = Annotated[int, Path(alias="key_id", ge=0, le=2**63 - 1)]


class ApiKeyCreateBody(Body):
    key_name: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(readable)]


@router.get("")
async def list_keys(desk: AtDesk) -> Response:
    account = desk.site.account
    items = [presenters.api_key_item(account, key) for key in await desk.cell.list_keys("account")]
    return answer(shapes.ApiKeyItems(items))


@router.post("")
async def create_key(desk: AtDesk, body: Annotated[ApiKeyCreateBody, Depends(json_body(ApiKeyCreateBody))]) -> Response:
    made = await desk.cell.create_key(body.key_name, "account")
    return answer(presenters.api_key_created(desk.site.account, made))


@router.delete("/{key_id}")
async def revoke_key(desk: AtDesk, key_id: KeyIdInPath) -> Response:
    return answer(presenters.api_key_revoked(desk.site.account, await desk.cell.revoke_key(key_id, "account")))
