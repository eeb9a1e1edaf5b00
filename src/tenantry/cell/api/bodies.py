"""Reading request bodies: never more than a bound, never longer than a deadline, and every mistake named.

Types are taken strictly (``"5"`` is not a number), unknown fields are ignored, and null means the same as absent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tenantry.cell.api.problems import invalid_fields
from tenantry.cell.model import JsonObject
from tenantry.errors import InvalidInput, NotSupported
from tenantry.neon.errors import BodyTooLarge, BodyTooSlow
from tenantry.neon.ids import BranchId
from tenantry.neon.shapes import EndpointSettings, Shape

BODY_BYTES_MAX: Final = 2**20
BODY_SECONDS_MAX: Final = 30.0
NAME_BYTES_MAX: Final = 63
"""Postgres cuts longer names of roles and databases off without a word."""
_YEAR_MIN, _YEAR_MAX = 1970, 9998
"""Years whose times survive a change of time zone."""


class Body(BaseModel):
    """A request body, or a part of one."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True, hide_input_in_errors=True)


B = TypeVar("B", bound=Body)


def json_body(kind: type[B], *, required: bool = True) -> Callable[[Request], Awaitable[B]]:
    """A dependency that reads the request's body as ``kind``; an absent one counts as ``{}`` unless required."""

    async def read(request: Request) -> B:
        return parse_body(kind, await read_body(request), required=required)

    return read


def parse_body(kind: type[B], text: bytes, *, required: bool = True) -> B:
    """Raises InvalidInput naming each wrong field."""
    if not required and text.strip() in (b"", b"null"):
        text = b"{}"
    try:
        return kind.model_validate_json(text, strict=True)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False, include_context=False, include_input=False)) from error


async def read_body(request: Request) -> bytes:
    """Raises BodyTooLarge (without reading on) or BodyTooSlow."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > BODY_BYTES_MAX:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for piece in request.stream():
                body += piece
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not arrive within {BODY_SECONDS_MAX:g} s") from error
    return bytes(body)


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"the body is larger than {BODY_BYTES_MAX} bytes")


# -- types of fields -----------------------------------------------------------------------------------------


def readable(text: str) -> str:
    if any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in text):
        raise ValueError("must not contain control characters")
    return text


def fits_postgres(text: str) -> str:
    if len(text.encode()) > NAME_BYTES_MAX:
        raise ValueError(f"must not be longer than {NAME_BYTES_MAX} bytes")
    return text


def _moment(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("must have a time zone, as in 2024-02-26T12:00:00Z")
    if not _YEAR_MIN <= moment.year <= _YEAR_MAX:
        raise ValueError("must be a year of our time")
    return moment.astimezone(UTC)


Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(readable)]
"""A name of a project, a branch, a snapshot."""
PostgresName = Annotated[
    str, Field(min_length=1, max_length=63), AfterValidator(readable), AfterValidator(fits_postgres)
]
"""A name of a role or a database."""
Moment = Annotated[datetime, AfterValidator(_moment)]
"""A time with its zone, in UTC afterwards."""
Lsn = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$")]
BranchIdField = Annotated[BranchId, Field(pattern=r"^[a-z0-9-]{1,60}$")]
Annotations = dict[str, str]


def settings(shape: Shape | None) -> JsonObject | None:
    """What was said of the settings, as the cell stores it."""
    return None if shape is None else shape.model_dump(mode="json", exclude_none=True)


def check_compute_range(min_cu: float | None, max_cu: float | None) -> None:
    """Raises InvalidInput where the smallest size is larger than the largest."""
    if min_cu is not None and max_cu is not None and min_cu > max_cu:
        raise InvalidInput("autoscaling_limit_min_cu: must not exceed autoscaling_limit_max_cu")


def check_endpoint_settings(said: EndpointSettings | None) -> None:
    """Raises NotSupported for libraries, which only the engine's builder can add."""
    if said is not None and said.preload_libraries is not None and said.preload_libraries.enabled_libraries:
        raise NotSupported("settings.preload_libraries: this installation does not load more", next_step="leave it out")
