"""Tokens by which an operator's work gets past a project's quotas: signed by the cell, for one project, for a while.

A token proves no password and replaces none. It names its end in clear, and its signature binds that and the project to
the cell's key; nothing is stored, and nothing can be taken back before its end, which is why that is near. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Final

from tenantry.neon.ids import ProjectId

SECONDS_DEFAULT: Final = 900
SECONDS_MAX: Final = 3_600
TOKEN_LENGTH_MAX: Final = 100
_SIGNATURE_BYTES: Final = 24


def issue(key: bytes, project_id: ProjectId, until: datetime) -> str:
    """``END.SIGNATURE``, of characters that a connection string's options can hold."""
    end = int(until.timestamp())
    return f"{end}.{base64.urlsafe_b64encode(_signature(key, project_id, end)).decode().rstrip('=')}"


def valid(key: bytes, project_id: ProjectId, token: str, now: datetime) -> bool:
    """Whether this cell has issued it for this project, and its end has not come."""
    end, _, signature = token.partition(".")
    if len(token) > TOKEN_LENGTH_MAX or not (end.isascii() and end.isdecimal()):
        return False
    try:
        given = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    except (binascii.Error, ValueError):
        return False
    # Compared also when it is too late: how long the answer takes tells nothing.
    signed = hmac.compare_digest(given, _signature(key, project_id, int(end)))
    return signed and now.astimezone(UTC).timestamp() < int(end)


def _signature(key: bytes, project_id: ProjectId, end: int) -> bytes:
    return hmac.digest(key, f"{project_id} {end}".encode(), hashlib.sha256)[:_SIGNATURE_BYTES]
