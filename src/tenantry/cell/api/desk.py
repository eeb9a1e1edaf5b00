"""What every handler is given: the cell, the site, and the way to answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Path, Request
from pydantic import AfterValidator
from starlette.responses import Response

from tenantry.cell.api.bodies import fits_postgres, readable
from tenantry.cell.api.ports import CellApi
from tenantry.cell.api.site import Site
from tenantry.neon.ids import BranchId, EndpointId, OperationId, ProjectId, SnapshotId
from tenantry.neon.shapes import ApiKeyItems, Shape

API_PREFIX: Final = "/api/v2"
_ID: Final = r"^[a-z0-9-]{1,60}$"

ProjectIdInPath = Annotated[ProjectId, Path(alias="project_id", pattern=_ID)]
BranchIdInPath = Annotated[BranchId, Path(alias="branch_id", pattern=_ID)]
EndpointIdInPath = Annotated[EndpointId, Path(alias="endpoint_id", pattern=_ID)]
OperationIdInPath = Annotated[OperationId, Path(alias="operation_id", pattern=_ID)]
SnapshotIdInPath = Annotated[SnapshotId, Path(alias="snapshot_id", pattern=_ID)]
NameInPath = Annotated[str, Path(min_length=1, max_length=63), AfterValidator(readable), AfterValidator(fits_postgres)]


@dataclass(frozen=True, slots=True)
class Desk:
    cell: CellApi
    site: Site


async def _desk(request: Request) -> Desk:
    return request.app.state.desk


AtDesk = Annotated[Desk, Depends(_desk)]


def answer(shape: Shape | ApiKeyItems, status: int = 200) -> Response:
    return Response(shape.to_json(), status, media_type="application/json")


def nothing() -> Response:
    """204: what was to be deleted is not there."""
    return Response(status_code=204)
