"""``/regions``: a cell is in one region, whose name its operator chose."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from tenantry.cell.api import presenters
from tenantry.cell.api.desk import API_PREFIX, AtDesk, answer
from tenantry.neon import shapes

router = APIRouter(prefix=API_PREFIX)


@router.get("/regions")
async def regions(desk: AtDesk) -> Response:
    return answer(shapes.RegionsResponse(regions=presenters.regions(desk.site)))
