"""The ASGI application: routes in the order that makes the specific win, and the gate before them all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from tenantry.cell.api import (
    branches,
    consumption,
    databases,
    endpoints,
    keys,
    operations,
    operator_access,
    organizations,
    projects,
    regions,
    roles,
    snapshots,
    users,
)
from tenantry.cell.api.desk import API_PREFIX, Desk
from tenantry.cell.api.gate import Gate
from tenantry.cell.api.ports import CellApi
from tenantry.cell.api.problems import error_answer, invalid_fields, log_error
from tenantry.cell.api.rights import Need, ruled
from tenantry.cell.api.site import Site
from tenantry.cell.api.unimplemented import Unimplemented
from tenantry.errors import InvalidInput, NotFound, TenantryError
from tenantry.neon.contract import ContractOperation, operations_at
from tenantry.neon.errors import MethodNotAllowed

_ROUTERS: Final[tuple[APIRouter, ...]] = (
    projects.router,
    operator_access.router,
    branches.router,
    endpoints.router,
    roles.router,
    databases.router,
    operations.router,
    snapshots.router,
    consumption.router,
    keys.router,
    users.router,
    organizations.router,
    regions.router,
)


def build_app(cell: CellApi, site: Site, *, others: Sequence[BaseRoute] = (), guarded: Sequence[str] = ()) -> FastAPI:
    """The API over ``cell``, and ``others`` beside it. Only ``/api/v2`` and the ``guarded`` paths ask for a key.

    Raises Defect for a route of which nobody has said who may take it.
    """
    app = FastAPI(
        title="Tenantry",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Or the framework sends what it sees, names in URLs included, wherever the environment points it.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.desk = Desk(cell, site)
    for router in _ROUTERS:
        # Not include_router, which would analyse every handler a second time.
        app.router.routes.extend(ruled(route) for route in router.routes)
    for route in others:
        app.router.routes.append(ruled(route, Need.ACCOUNT) if getattr(route, "path", "") in guarded else route)
    app.router.routes.append(Mount(API_PREFIX, app=Unimplemented(API_PREFIX)))
    app.add_exception_handler(TenantryError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_error)
    app.add_middleware(Gate, prefixes=(API_PREFIX, *guarded), keys=cell)
    return app


def routes() -> Iterator[tuple[str, str, ContractOperation | None]]:
    """Method, path below the API's root, and what the contract has there, of every route."""
    for route in (route for router in _ROUTERS for route in router.routes if isinstance(route, Route)):
        below = route.path.removeprefix(API_PREFIX).replace(":path}", "}")
        for method in sorted(route.methods or ()):
            yield method, below, operations_at(below).get(method)


def served() -> Mapping[str, ContractOperation]:
    """The contract's operations that a route takes, by their ids."""
    return {operation.id: operation for _, _, operation in routes() if operation is not None}


async def _answer_error(request: Request, error: Exception) -> Response:
    """Every error that a handler, or the framework before it, has raised."""
    failure = _as_ours(error)
    request_id = request.scope["state"]["request_id"]
    log_error(failure, request_id=request_id, method=request.method, path=request.url.path)
    return error_answer(failure, request_id)


def _as_ours(error: Exception) -> TenantryError:
    match error:
        case TenantryError():
            return error
        case RequestValidationError():
            return invalid_fields(error.errors())
        case HTTPException(status_code=404):
            return NotFound("there is no such path", next_step=f"the API is below {API_PREFIX}")
        case HTTPException(status_code=405):
            allow = (error.headers or {}).get("Allow", "")
            return MethodNotAllowed(f"the method is not {allow}, which are those of this path", allow=allow)
        case _:
            return InvalidInput("the request is not valid")
