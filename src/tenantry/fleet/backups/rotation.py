"""Whose backup is to be restored for proof, and when: so that nobody's last proof is ever older than was said. Pure.

A tenant comes up again in the last quarter of its time, the one that waited longest first; where there is too much to
do, the report names those that are late.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from tenantry.fleet.catalog.backups import BackupId
from tenantry.fleet.catalog.verifications import Proven

DUE_AT: Final = 0.75
"""Of the time within which a backup of each tenant is verified."""
AGAIN_AFTER_MAX: Final = timedelta(hours=6)
"""A backup that was not found good is tried again after this, or an eighth of the time: a vault may be down."""
AGAIN_AFTER_DEATH_MAX: Final = timedelta(hours=1)
"""The same where nothing was found out, since whoever verified has died. Not at once: it may have died of this one."""

Standing = Literal["verified", "due", "late", "unproven", "damaged", "no backup"]
"""``late``: the last proof is older than was said. ``unproven``: there is a backup, and was never a proof.

``damaged``: the newest backup is not what was written, and no other one was ever verified.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    slug: str
    backup: BackupId
    standing: Standing


def standing_of(tenant: Proven, now: datetime, within: timedelta) -> Standing:
    if tenant.newest is None and tenant.verified is None:
        return "no backup"
    if tenant.verified_at is None:
        return "damaged" if tenant.newest_doubted else "unproven"
    age = now - tenant.verified_at
    if age > within:
        return "late"
    return "due" if age > within * DUE_AT else "verified"


def due_now(tenants: Iterable[Proven], now: datetime, within: timedelta) -> list[Due]:
    """In the order in which they are to be taken: each tenant's newest backup."""
    again = min(AGAIN_AFTER_MAX, within / 8)
    found: list[tuple[bool, datetime, Due]] = []
    for tenant in tenants:
        standing = standing_of(tenant, now, within)
        if tenant.newest is None or standing in ("verified", "no backup"):
            continue
        if tenant.tried_state == "running":
            continue
        wait = min(again, AGAIN_AFTER_DEATH_MAX) if tenant.failure is None else again
        if tenant.tried_state in ("failed", "broken") and tenant.tried_at is not None and now - tenant.tried_at < wait:
            continue
        waits_since = tenant.verified_at or tenant.newest_at or now
        # Who never had a proof comes before who had one: of the others it is known that they once restored.
        found.append(
            (
                tenant.verified_at is not None,
                waits_since,
                Due(slug=tenant.slug, backup=tenant.newest, standing=standing),
            )
        )
    return [due for _, _, due in sorted(found, key=lambda each: (each[0], each[1], each[2].slug))]
