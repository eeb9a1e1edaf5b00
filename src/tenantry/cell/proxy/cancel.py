"""Cancel requests: keys of our own, each standing for a session's socket and its instance's real key.

The process id shown is the real one, because clients use it: to know their own notifications, and to find themselves
in ``pg_stat_activity`` or end a statement by ``pg_cancel_backend``. What is secret is the rest: 32 bits with protocol
3.0, as in Postgres, and 32 bytes with 3.2. Nothing of it says which worker made it, so a request that the kernel
handed to another worker goes to all of them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import structlog

from tenantry.cell.proxy.conn import PeerGone, connect_unix
from tenantry.postgres import wire

CANCEL_SECONDS: Final = 5.0
_KEY_BYTES_3_0: Final = 4
_KEY_BYTES_3_2: Final = 32

_log = structlog.get_logger("proxy.cancel")


@dataclass(frozen=True, slots=True)
class Key:
    """What a client is given as its backend's key."""

    pid: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a cancel request goes, and the key that its instance knows."""

    socket_path: str
    pid: int
    secret: bytes = field(repr=False)


class Cancels:
    """The keys of one worker's sessions."""

    def __init__(self) -> None:
        self._targets: dict[Key, Target] = {}
        self._under_way: Counter[Key] = Counter()

    @property
    def sessions(self) -> int:
        """How many keys are out."""
        return len(self._targets)

    def mint(self, version: int, target: Target) -> Key:
        """A new key for ``target``, until :meth:`drop`."""
        length = _KEY_BYTES_3_2 if version >= wire.PROTOCOL_3_2 else _KEY_BYTES_3_0
        while True:
            key = Key(target.pid, secrets.token_bytes(length))
            if key not in self._targets:
                self._targets[key] = target
                return key

    def drop(self, key: Key) -> None:
        """Forgets a key. Safe twice."""
        self._targets.pop(key, None)

    def find(self, key: Key) -> Target | None:
        return self._targets.get(key)

    async def cancel(self, key: Key) -> None:
        """Passes a cancel request on and waits until the instance has taken it; unknown keys do nothing."""
        target = self.find(key)
        if target is None:
            return
        self._under_way[key] += 1
        try:
            await send(target)
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def under_way(self, key: Key) -> bool:
        """Whether a request is on its way that could still reach whatever the instance does next for this session."""
        return key in self._under_way


async def send(target: Target) -> None:
    """Sends a cancel request and waits until the instance has taken it."""
    try:
        async with asyncio.timeout(CANCEL_SECONDS):
            conn = await connect_unix(target.socket_path)
            try:
                await conn.send(wire.cancel_request(target.pid, target.secret))
                while True:
                    await conn.fill()
            finally:
                conn.close()
    except PeerGone:
        return  # The instance closes when it has read the request, and that is all the answer there is.
    except TimeoutError:
        _log.warning("an instance did not take a cancel request in time", seconds=CANCEL_SECONDS)
