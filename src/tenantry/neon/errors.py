"""The error tree on the wire: what an error becomes in an answer, and what an answer becomes for a client.

Imports no other shape of the contract: the front door's workers answer errors and nothing else of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tenantry.errors import (
    Conflict,
    Defect,
    DiskFull,
    Forbidden,
    InvalidInput,
    LimitReached,
    Locked,
    NotFound,
    NotSupported,
    OperatorError,
    QuotaExceeded,
    TenantryError,
    Unauthorized,
    Unavailable,
)
from tenantry.neon.ids import RequestId

REQUEST_ID_HEADERS: Final = ("x-request-id", "x-neon-ret-request-id")
"""Where an answer carries its request id: the name that the contract lets clients set, and Neon's own."""
RETRY_AFTER_SECONDS_MAX: Final = 60.0
_MESSAGE_CHARS_MAX: Final = 2_000
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")


class BodyTooLarge(InvalidInput):
    """The request's body is larger than any request needs."""

    http_status = 413
    code = "BODY_TOO_LARGE"


class BodyTooSlow(InvalidInput):
    """The request's body did not arrive in time."""

    http_status = 408
    code = "BODY_TOO_SLOW"


class MethodNotAllowed(InvalidInput):
    """The path exists; nothing answers to this method there. Field ``allow``: those that do."""

    http_status = 405
    code = "METHOD_NOT_ALLOWED"


_BY_STATUS: Final[dict[int, type[TenantryError]]] = {
    401: Unauthorized,
    402: QuotaExceeded,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    423: Locked,
    429: LimitReached,
    501: NotSupported,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
_BY_CODE: Final[dict[str, type[TenantryError]]] = {kind.code: kind for kind in (OperatorError, DiskFull, Defect)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBody:
    """``GeneralError``: the body of every answer that is not a success."""

    request_id: str | None = None
    code: str = ""
    message: str = ""

    def to_json(self) -> bytes:
        """The JSON text as the contract wants it."""
        fields = {"request_id": self.request_id, "code": self.code, "message": self.message}
        return json.dumps({name: text for name, text in fields.items() if text is not None}).encode()


def is_request_id(text: str) -> bool:
    """Whether ``text`` may be used as a request id: short, and harmless in a header and in a log."""
    return _REQUEST_ID.fullmatch(text) is not None


def error_body(error: TenantryError, request_id: RequestId) -> ErrorBody:
    """What whoever called may read of ``error``."""
    return ErrorBody(request_id=request_id, code=error.code, message=error.client_text)


def error_from_answer(status: int, body: bytes, headers: Mapping[str, str], *, asked: str) -> TenantryError:
    """The error that an unsuccessful answer tells of.

    ``asked`` names the request (``GET /projects/x``). The fields are ``asked``, ``status``, ``code``,
    ``request_id`` and ``retry_after`` (seconds, or None). ``headers`` ignores case.
    """
    told = _read_body(body)
    code, message = told.code, told.message[:_MESSAGE_CHARS_MAX]
    request_id = told.request_id or next((headers[name] for name in REQUEST_ID_HEADERS if name in headers), None)
    kind = _kind(status, code)
    text = f"{asked} answered {status}" + (f": {message}" if message else "")
    if request_id:
        text += f" (request {request_id})"
    return kind(
        text, client_text=message or None, asked=asked, status=status, code=code, request_id=request_id,
        retry_after=_seconds(headers.get("retry-after")),
    )  # fmt: skip


def _kind(status: int, code: str) -> type[TenantryError]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if 400 <= status < 500:
        return InvalidInput
    return _BY_CODE.get(code, Unavailable)


def _read_body(body: bytes) -> ErrorBody:
    """An error body, or an empty one: what stands between us and the API may answer with a page of its own."""
    try:
        told: Any = json.loads(body)
    except (ValueError, RecursionError):
        return ErrorBody()
    if not isinstance(told, dict):
        return ErrorBody()
    fields: dict[str, Any] = {name: told[name] for name in ("request_id", "code", "message") if name in told}
    request_id = fields.get("request_id")
    known = isinstance(request_id, str | None) and all(
        isinstance(text, str) for name, text in fields.items() if name != "request_id"
    )
    return ErrorBody(**fields) if known else ErrorBody()


def _seconds(retry_after: str | None) -> float | None:
    """``Retry-After`` in seconds, bounded; its other form, a date, counts as absent."""
    if retry_after is None or not retry_after.strip().isdecimal():
        return None
    return min(float(retry_after), RETRY_AFTER_SECONDS_MAX)
