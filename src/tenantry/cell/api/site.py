"""What the API tells of the installation itself: where it answers, which region it is, who owns it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from tenantry.cell.api.addresses import FrontDoor
from tenantry.neon.ids import RegionId

RECOVERY_SECONDS: Final = 7 * 86_400
UNLIMITED: Final = 2**31 - 1
"""Said where the contract wants a number and this installation has no limit but its disk."""


_ACCOUNT_ID: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://tenantry.invalid/account")
_UNKNOWN: Final = datetime.fromtimestamp(0, UTC)
_MEMBER_ID: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://tenantry.invalid/member")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The one account of a cell: whoever runs it. Clients read these fields; nothing is decided by them."""

    id: uuid.UUID = _ACCOUNT_ID
    name: str = "operator"
    email: str = "operator@tenantry.invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    """The one organization of a cell, which all its projects belong to; the account is its one member."""

    id: str = "org-tenantry-00000001"
    name: str = "This cell"
    handle: str = "this-cell"
    member_id: uuid.UUID = _MEMBER_ID
    created_at: datetime = _UNKNOWN
    """When the cell was opened for the first time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    door: FrontDoor
    region_id: RegionId
    region_name: str = "this cell"
    account: Account = field(default_factory=Account)
    organization: Organization = field(default_factory=Organization)
    cu_max: float = 8.0
    """The largest compute size that an endpoint may ask for."""
    recovery_seconds: int = RECOVERY_SECONDS
    """How long a deleted project can be recovered."""
