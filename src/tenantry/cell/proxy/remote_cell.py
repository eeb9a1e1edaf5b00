"""The cell as a worker reaches it: calls over the control process's socket, which may go away and come back.

Calls that can be made twice wait for the next control process, up to a bound; sessions never notice. Which leases
are held is known here, and is said at each registration: what the other side has given and this side does not
name, it takes back.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog

from tenantry.cell.proxy.ports import LeaseId, Login, Traffic, Upstream
from tenantry.cell.proxy.rpc import REGISTRATION_SECONDS, Disconnected, Handler, Peer, send_first
from tenantry.errors import TenantryError, Unavailable
from tenantry.neon.ids import EndpointId
from tenantry.runtime.child import identity_of
from tenantry.runtime.tasks import Tasks

CALL_ATTEMPTS_MAX: Final = 3
"""How many control processes may go away under one call."""
_RETRY_SECONDS: Final = 0.05
_RETRY_SECONDS_MAX: Final = 0.5

_log = structlog.get_logger("proxy.remote")

Welcome = Callable[[dict[str, Any]], Awaitable[None]]


class RemoteCell:
    """Implements ``ports.Cell`` and ``ports.Forwarder`` for one worker process."""

    def __init__(
        self,
        path: Path,
        slot: int,
        version: str,
        listeners: Mapping[str, socket.socket],
        *,
        welcome: Welcome,
        handlers: dict[str, Handler],
    ) -> None:
        self._path = path
        self._slot = slot
        self._version = version
        self._listeners = listeners
        self._welcome = welcome
        self._handlers = handlers
        self.patience_seconds = 0.0
        """How long a call waits for a control process that is not there."""
        self._peer: Peer | None = None
        self._connected = asyncio.Event()
        self._leases: set[LeaseId] = set()
        self._tasks = Tasks("remote cell")
        self._wakes: set[asyncio.Task[Upstream]] = set()
        self.lost_at: float | None = asyncio.get_running_loop().time()
        """Since when the control process is out of reach; None while it is not."""

    async def run(self) -> None:
        """Connects, registers, serves, and begins again when the connection ends; until it is cancelled."""
        delay = _RETRY_SECONDS
        while True:
            try:
                peer = await self._register()
            except (OSError, TenantryError, TimeoutError) as error:
                _log.debug("the cell is out of reach", reason=str(error))
                await asyncio.sleep(delay)
                delay = min(2 * delay, _RETRY_SECONDS_MAX)
                continue
            delay = _RETRY_SECONDS
            try:
                await peer.closed.wait()
            finally:
                self._forget()
                await peer.close()
            _log.info("lost the cell")

    def _forget(self) -> None:
        self._peer = None
        self._connected.clear()
        self.lost_at = asyncio.get_running_loop().time()

    async def _register(self) -> Peer:
        """Raises OSError, TimeoutError, or what the other side says."""
        me = identity_of(os.getpid())
        assert me is not None
        leases = set(self._leases)
        listening = {name: sock for name, sock in self._listeners.items() if sock.fileno() >= 0}
        registration = {
            "slot": self._slot,
            "pid": me.pid,
            "start_ticks": me.start_ticks,
            "version": self._version,
            "leases": sorted(leases),
            "listeners": list(listening),
        }
        async with asyncio.timeout(REGISTRATION_SECONDS):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.connect(str(self._path))
                await send_first(sock, registration, [listener.fileno() for listener in listening.values()])
                peer = await Peer.on(sock, self._handlers)
            except BaseException:
                sock.close()
                raise
            try:
                await self._welcome(await peer.call("welcome"))
                await peer.call("ready")
            except BaseException:
                await peer.close()
                raise
        self._peer = peer
        self.lost_at = None
        self._connected.set()
        _log.info("registered with the cell", leases=len(leases))
        for lease in leases - self._leases:
            # Given back while it was being named as held.
            self._tasks.start(self._call_once("release", lease=lease), "release")
        return peer

    async def stop(self) -> None:
        """Ends what still waits. Safe twice; :meth:`run` is cancelled by whoever started it."""
        for task in list(self._wakes):
            task.cancel()
        await asyncio.gather(*self._wakes, return_exceptions=True)
        await self._tasks.stop()

    async def _call_once(self, method: str, **parameters: Any) -> Any:
        """Raises Unavailable when there is no connection or it ends."""
        if self._peer is None:
            raise _out_of_reach(0)
        return await self._peer.call(method, **parameters)

    async def _call(self, method: str, **parameters: Any) -> Any:
        """A call that may be made twice: when the connection ends meanwhile, the next one gets it."""
        for attempt in range(1, CALL_ATTEMPTS_MAX + 1):
            try:
                async with asyncio.timeout(self.patience_seconds):
                    await self._connected.wait()
            except TimeoutError as error:
                raise _out_of_reach(self.patience_seconds) from error
            peer = self._peer
            assert peer is not None
            try:
                return await peer.call(method, **parameters)
            except Disconnected:
                if self._peer is peer:
                    self._forget()
                if attempt == CALL_ATTEMPTS_MAX:
                    raise
        raise AssertionError("the loop ends by return or raise")

    # -- ports.Cell

    async def login(self, endpoint: EndpointId, role: str, client_address: str, operator: str | None = None) -> Login:
        answer = await self._call(
            "login", endpoint=endpoint, role=role, client_address=client_address, operator=operator
        )
        return Login(**answer)

    async def login_failed(self, endpoint: EndpointId, role: str, client_address: str) -> None:
        await self._call_once("login_failed", endpoint=endpoint, role=role, client_address=client_address)

    async def wake(self, endpoint: EndpointId, *, operator: bool = False) -> Upstream:
        task = asyncio.get_running_loop().create_task(self._wake(endpoint, operator), name="remote cell:wake")
        self._wakes.add(task)
        task.add_done_callback(self._wakes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # The cell may be giving the lease just now; when it comes, it goes back.
            task.add_done_callback(self._give_back)
            raise

    async def _wake(self, endpoint: EndpointId, operator: bool) -> Upstream:
        upstream = Upstream(**await self._call("wake", endpoint=endpoint, operator=operator))
        self._leases.add(upstream.lease)
        return upstream

    def _give_back(self, task: asyncio.Task[Upstream]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._tasks.start(self.release(task.result().lease), "release")

    async def release(self, lease: LeaseId) -> None:
        """Never fails: a lease that is not named at the next registration is taken back."""
        self._leases.discard(lease)
        try:
            await self._call_once("release", lease=lease)
        except Unavailable as error:
            _log.info("a lease goes back at the next registration", reason=str(error))

    async def report(self, number: int, traffic: list[Traffic]) -> None:
        await self._call_once("report", number=number, traffic=[asdict(item) for item in traffic])

    # -- ports.Forwarder

    async def forward_cancel(self, pid: int, secret: bytes) -> None:
        await self._call_once("forward_cancel", pid=pid, secret=secret.hex())


def _out_of_reach(seconds: float) -> Unavailable:
    return Unavailable(
        "the cell is out of reach" + (f" for more than {seconds:g} s" if seconds else ""),
        client_text="the server is restarting, try again",
    )
