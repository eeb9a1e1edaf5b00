"""From a proved password to a session of an awake instance, and the lease that keeps it awake."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from tenantry.cell.proxy import authentication, upstream
from tenantry.cell.proxy.authentication import Claim
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.ports import LeaseId
from tenantry.errors import Unavailable
from tenantry.postgres import scram

LOGIN_ATTEMPTS_MAX: Final = 3
"""An instance may be on its way down just when it is logged in to; a new wake then finds it asleep."""


async def enter(
    claim: Claim, parameters: Mapping[str, str], keys: scram.ClientKeys, house: House, *, operator: bool = False
) -> tuple[LeaseId, str, upstream.Greeting]:
    """Wakes the instance and logs in: the lease, the socket's path and the session.

    Holds a lease exactly when it returns. Raises Rejected, StartFailed, Unavailable, also when it takes too long.
    """
    try:
        async with asyncio.timeout(house.settings.wake_seconds):
            return await _enter(claim, parameters, keys, house, operator)
    except TimeoutError as error:
        raise not_ready(claim, house) from error


async def _enter(
    claim: Claim, parameters: Mapping[str, str], keys: scram.ClientKeys, house: House, operator: bool
) -> tuple[LeaseId, str, upstream.Greeting]:
    for attempt in range(1, LOGIN_ATTEMPTS_MAX + 1):
        awake = await house.cell.wake(claim.endpoint, operator=operator)
        try:
            return awake.lease, awake.socket_path, await log_in(claim, awake.socket_path, parameters, keys, house)
        except upstream.NotUp:
            house.leases.give_back(awake.lease)
            if attempt == LOGIN_ATTEMPTS_MAX:
                raise
        except BaseException:
            house.leases.give_back(awake.lease)
            raise
    raise AssertionError("the loop ends by return or raise")


async def log_in(
    claim: Claim, socket_path: str, parameters: Mapping[str, str], keys: scram.ClientKeys, house: House
) -> upstream.Greeting:
    """Opens a session of an awake instance. Raises NotUp, Rejected, Unavailable. The caller bounds the wait."""
    try:
        return await upstream.log_in(socket_path, parameters, keys)
    except upstream.Rejected as error:
        if error.sqlstate in authentication.STALE:
            # The instance knows another password than the cell remembers: the instance is right.
            await authentication.tell_cell(claim, house)
        raise


def not_ready(claim: Claim, house: House) -> Unavailable:
    """An instance has taken longer than the settings allow."""
    return Unavailable(
        f"endpoint {claim.endpoint} did not get ready in {house.settings.wake_seconds:g} seconds",
        client_text="the database did not get ready in time, try again",
    )
