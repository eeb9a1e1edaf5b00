"""From a proved password to a server connection that was used before, or will be again, and gives nothing away.

The instance is kept awake for as long as the connection is out.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

from tenantry.cell.proxy import awake, upstream
from tenantry.cell.proxy.authentication import Claim
from tenantry.cell.proxy.awake import LOGIN_ATTEMPTS_MAX
from tenantry.cell.proxy.cancel import Target
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.leases import Shared
from tenantry.cell.proxy.pool import Kind, Server
from tenantry.postgres import scram


@dataclass(slots=True)
class Loan:
    """A server connection that is out; to be ended exactly once, by one of the two."""

    server: Server
    _house: House = field(repr=False)
    _shared: Shared = field(repr=False)
    _stack: AsyncExitStack = field(repr=False)

    async def give_back(self, status: bytes, *, counted: bool) -> None:
        """It is in this transaction status; unless ``counted``, more may have been asked of it than was answered."""
        self._house.pool.give_back(self.server, status, counted=counted)
        await self._stack.aclose()

    async def discard(self, *, instance_gone: bool = False) -> None:
        """It is closed, for nobody knows what is on its way. ``instance_gone``: whoever comes next asks for a wake."""
        if instance_gone:
            self._house.leases.renounce(self._shared)
        self._house.pool.discard(self.server)
        await self._stack.aclose()


async def borrow(claim: Claim, kind: Kind, keys: scram.ClientKeys, house: House, servers_max: int) -> Loan:
    """Wakes the instance if it sleeps, and waits while all of the endpoint's ``servers_max`` connections are out.

    Raises LimitReached, Rejected, StartFailed, Unavailable.
    """
    for attempt in range(1, LOGIN_ATTEMPTS_MAX + 1):
        async with AsyncExitStack() as stack:
            shared = await stack.enter_async_context(house.leases.hold(claim.endpoint, house.settings.wake_seconds))
            try:
                server = await house.pool.obtain(kind, partial(_open, claim, kind, keys, shared, house), servers_max)
            except upstream.NotUp:
                house.leases.renounce(shared)
                if attempt == LOGIN_ATTEMPTS_MAX:
                    raise
                continue
            return Loan(server, house, shared, stack.pop_all())
    raise AssertionError("the loop ends by return or raise")


async def _open(claim: Claim, kind: Kind, keys: scram.ClientKeys, shared: Shared, house: House) -> Server:
    """Logs in to the instance. Raises NotUp, Rejected, Unavailable."""
    socket_path = shared.upstream.socket_path
    try:
        async with asyncio.timeout(house.settings.wake_seconds):
            greeting = await awake.log_in(claim, socket_path, dict(kind.parameters), keys, house)
    except TimeoutError as error:
        raise awake.not_ready(claim, house) from error
    return Server(
        kind=kind,
        conn=greeting.conn,
        target=Target(socket_path, greeting.pid, greeting.key),
        before_key=greeting.before_key,
        after_key=greeting.after_key,
        opened_at=asyncio.get_running_loop().time(),
    )
