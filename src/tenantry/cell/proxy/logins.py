"""What the cell has said of a login a moment ago: requests over HTTP come by the hundred, and each is a login.

Only who proves a password by it profits. Whoever does not is checked against what the cell says now, so that a new
password holds at once; an old one may hold for the moment.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from tenantry.cell.proxy.ports import Cell, Login
from tenantry.neon.ids import EndpointId

REMEMBERED_MAX: Final = 4_096


@dataclass(frozen=True, slots=True)
class _Said:
    login: Login
    at: float


class Logins:
    """One worker's memory of a moment."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._loop = asyncio.get_running_loop()
        self._said: OrderedDict[tuple[EndpointId, str, str], _Said] = OrderedDict()

    def recent(self, endpoint: EndpointId, role: str, address: str, seconds: float) -> Login | None:
        """What was said within the last ``seconds``, if it was that the role may come in."""
        said = self._said.get((endpoint, role, address))
        return None if said is None or self._loop.time() - said.at > seconds else said.login

    async def ask(self, endpoint: EndpointId, role: str, address: str) -> Login:
        """Asks the cell, and remembers what it says of a role that may come in."""
        at = self._loop.time()
        login = await self._cell.login(endpoint, role, address)
        name = (endpoint, role, address)
        self._said.pop(name, None)
        if login.verifier is not None and login.refusal is None:
            self._said[name] = _Said(login, at)
            if len(self._said) > REMEMBERED_MAX:
                self._said.popitem(last=False)
        return login
