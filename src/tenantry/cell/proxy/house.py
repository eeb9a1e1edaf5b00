"""What all clients of one worker share, by whichever way they come in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tenantry.cell.proxy.cancel import Cancels
from tenantry.cell.proxy.certificates import Tls
from tenantry.cell.proxy.leases import Leases
from tenantry.cell.proxy.limits import Limits
from tenantry.cell.proxy.logins import Logins
from tenantry.cell.proxy.metering import Meter
from tenantry.cell.proxy.passwords import Passwords
from tenantry.cell.proxy.pool import Pool
from tenantry.cell.proxy.ports import Cell, Forwarder
from tenantry.cell.proxy.relay import Relay
from tenantry.cell.proxy.settings import Settings
from tenantry.runtime.tasks import Tasks


@dataclass(slots=True)
class House:
    """The worker's parts, for all who come in."""

    cell: Cell
    settings: Settings
    limits: Limits
    meter: Meter
    cancels: Cancels
    forwarder: Forwarder
    tasks: Tasks
    tls: Tls | None = None
    relays: set[Relay] = field(default_factory=set[Relay])
    tunnels: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    """Sessions that came over WebSockets."""
    passwords: Passwords = field(default_factory=Passwords)
    logins: Logins = field(init=False)
    leases: Leases = field(init=False)
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.logins = Logins(self.cell)
        self.leases = Leases(self.cell, self.tasks)
        self.pool = Pool(self.settings, self.tasks)

    def change(self, settings: Settings, tls: Tls | None) -> None:
        """What a new control process says holds from now on."""
        self.settings = self.limits.settings = self.pool.settings = settings
        self.tls = tls

    async def stop(self) -> None:
        """Keeps nothing for whoever might come. Safe twice."""
        self.pool.stop()
        await self.leases.stop()
