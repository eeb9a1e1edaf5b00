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

_WAKE_ATTEMPTS_MAX: Final = 3
"""An instance may be on its way down just when its door is opened; a new wake then finds it asleep."""


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
        raise Unavailable(
            f"endpoint {claim.endpoint} did not get ready in {house.settings.wake_seconds:g} seconds",
            client_text="the database did not get ready in time, try again",
        ) from error


async def _enter(
    claim: Claim, parameters: Mapping[str, str], keys: scram.ClientKeys, house: House, operator: bool
) -> tuple[LeaseId, str, upstream.Greeting]:
    for attempt in range(1, _WAKE_ATTEMPTS_MAX + 1):
        awake = await house.cell.wake(claim.endpoint, operator=operator)
        try:
            greeting = await upstream.log_in(awake.socket_path, parameters, keys)
            return awake.lease, awake.socket_path, greeting
        except upstream.NotUp:
            house.leases.give_back(awake.lease)
            if attempt == _WAKE_ATTEMPTS_MAX:
                raise
        except BaseException as error:
            house.leases.give_back(awake.lease)
            if isinstance(error, upstream.Rejected) and error.sqlstate in authentication.STALE:
                # The instance knows another password than the cell remembers: the instance is right.
                await authentication.tell_cell(claim, house)
            raise
    raise AssertionError("the loop ends by return or raise")
