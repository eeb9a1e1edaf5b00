"""Errors that only HTTP knows, and how every error becomes an answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog
from starlette.responses import Response

from tenantry.errors import Conflict, Defect, InvalidInput, LimitReached, Locked, OperatorError, TenantryError
from tenantry.neon.errors import BodyTooLarge, BodyTooSlow, MethodNotAllowed, error_body
from tenantry.neon.ids import RequestId

RETRY_SECONDS: Final = 1
"""What ``Retry-After`` says when a bound is full."""
_PROBLEMS_SHOWN_MAX: Final = 5

_log = structlog.get_logger("tenantry.cell.api")


class PasswordNotStored(Conflict):
    """The role's password cannot be shown because the cell does not know it."""

    http_status = 412
    code = "PASSWORD_NOT_STORED"


def invalid_fields(problems: Iterable[Mapping[str, object]]) -> InvalidInput:
    """One error out of pydantic's: each problem with the field's name, never with the value that was sent."""
    shown = list(problems)[:_PROBLEMS_SHOWN_MAX]
    fields = [_field_name(problem.get("loc")) for problem in shown]
    messages = [str(problem.get("msg", "is not valid")).removeprefix("Value error, ") for problem in shown]
    texts = [f"{name}: {message}" if name else message for name, message in zip(fields, messages, strict=True)]
    return InvalidInput("; ".join(texts) or "the request is not valid", invalid=fields)


def _field_name(location: object) -> str:
    parts = [str(part) for part in location] if isinstance(location, Sequence) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - pydantic's loc: names and numbers
    return ".".join(parts[1:] if parts[:1] in (["query"], ["path"], ["body"], ["header"]) else parts)


def error_answer(error: TenantryError, request_id: RequestId) -> Response:
    """The JSON answer for ``error``."""
    headers: dict[str, str] = {}
    match error:
        case MethodNotAllowed():
            headers["allow"] = str(error.fields.get("allow", ""))
        case BodyTooLarge() | BodyTooSlow():
            headers["connection"] = "close"  # what is left of the body is not worth reading
        case LimitReached():
            headers["retry-after"] = str(RETRY_SECONDS)
        case _:
            pass
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(error_body(error, request_id).to_json(), error.http_status, headers, "application/json")


def log_error(error: TenantryError, *, request_id: RequestId, method: str, path: str) -> None:
    """Writes down what the client's text leaves out; ERROR only where a human must look."""
    bound = _log.bind(
        request_id=request_id, method=method, path=path, status=error.http_status, code=error.code, blame=error.blame
    )
    match error:
        case Defect() | OperatorError():
            bound.error("request failed", error=str(error), fields=error.fields, exc_info=error)
        case Locked() | LimitReached():
            bound.info("request refused", error=str(error), fields=error.fields)
        case _ if error.http_status >= 500 and error.blame != "client":
            bound.warning("request failed", error=str(error), fields=error.fields)
        case _:
            bound.debug("request refused", error=str(error), fields=error.fields)
