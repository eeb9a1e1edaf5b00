"""The way in and out of every request: its id, its key, and an answer whatever happens.

Plain ASGI, because it stands on the path of every request.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import cache
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tenantry.cell import metrics
from tenantry.cell.api.desk import API_PREFIX
from tenantry.cell.api.ports import Keys
from tenantry.cell.api.problems import error_answer, log_error
from tenantry.cell.model import ApiKey
from tenantry.errors import Defect, TenantryError, Unauthorized
from tenantry.neon.contract import operations_at
from tenantry.neon.errors import REQUEST_ID_HEADERS, is_request_id
from tenantry.neon.ids import RequestId, new_request_id

KEY_CHARS_MAX: Final = 512
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OTHERS: Final = frozenset({"/healthz", "/readyz", "/metrics"})

_log = structlog.get_logger("tenantry.cell.api")


class Gate:
    """Lets requests below the prefixes in only with a living key; gives all requests an id, and counts them."""

    def __init__(self, app: ASGIApp, *, prefixes: Collection[str], keys: Keys) -> None:
        self._app = app
        self._prefixes = tuple(prefixes)
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        # A request's task has a context of its own, which ends with it.
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began = time.perf_counter()
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _note(scope, int(message["status"]), time.perf_counter() - began)
                outgoing = MutableHeaders(scope=message)
                for name in REQUEST_ID_HEADERS:
                    outgoing[name] = request_id
            await send(message)

        failure: TenantryError
        try:
            if self._guards(scope["path"]):
                state["api_key"] = await self._admit(headers)
            await self._app(scope, receive, send_with_id)
            return
        except ClientDisconnect:
            return  # nobody is left to be answered
        except TenantryError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the service's boundary: what nobody foresaw is logged and answered
            failure = Defect(f"{type(error).__name__} in {scope['method']} {scope['path']}")
            failure.__cause__ = error
        log_error(failure, request_id=request_id, method=scope["method"], path=scope["path"])
        if not started:
            await error_answer(failure, request_id)(scope, receive, send_with_id)

    def _guards(self, path: str) -> bool:
        return any(path == prefix or path.startswith(f"{prefix}/") for prefix in self._prefixes)

    async def _admit(self, headers: Headers) -> ApiKey:
        """The caller's key. Only the Authorization header counts; a cookie that clients add is never read."""
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise Unauthorized(
                "the request has no API key", next_step="send it in the header Authorization: Bearer KEY"
            )
        key = None
        if len(presented) <= KEY_CHARS_MAX and presented.isascii():
            key = await self._keys.authenticate(presented)
        if key is None:
            raise Unauthorized("the API key is not known, or was revoked")
        return key


def _note(scope: Scope, status: int, seconds: float) -> None:
    """Counts an answer and, where something may have been changed, writes a line."""
    path = scope["path"]
    operation = path[1:] if path in _OTHERS else _operation(scope["method"], getattr(scope.get("route"), "path", ""))
    metrics.api_requests.labels(operation, str(status)).inc()
    metrics.api_seconds.labels(operation).observe(seconds)
    log = _log.debug if scope["method"] in _READING else _log.info
    log("request", operation=operation, path=path, status=status, milliseconds=round(1000 * seconds, 1))


@cache
def _operation(method: str, template: str) -> str:
    """What the contract calls it. One word for all that has no route, so that nobody can invent labels."""
    if template.startswith(API_PREFIX) and method in (found := operations_at(template.removeprefix(API_PREFIX))):
        return found[method].id
    return "none"


def _request_id(headers: Headers) -> RequestId:
    """The id that the client chose, where it is harmless; otherwise a new one."""
    chosen = headers.get(REQUEST_ID_HEADERS[0], "")
    return RequestId(chosen) if is_request_id(chosen) else new_request_id()
