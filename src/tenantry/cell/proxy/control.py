"""The control process's end of the door's calls: who the workers are, and what each of them holds.

A worker's word counts only after the kernel has confirmed its pid and uid, and its calls only on its latest
connection: what an older one was given too late goes back at once.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from tenantry.cell.proxy.ports import Cell, LeaseId, Staff, Traffic, WorkerId
from tenantry.cell.proxy.rpc import REGISTRATION_SECONDS, Disconnected, Peer, receive_first
from tenantry.errors import OperatorError, TenantryError, Unavailable
from tenantry.neon.ids import EndpointId
from tenantry.runtime.child import Identity, alive
from tenantry.runtime.tasks import Tasks

WORKERS_MAX: Final = 256
UNREGISTERED_MAX: Final = 64
"""Connections that may be registering at a time."""
ASK_SECONDS_MAX: Final = 5.0
"""How long a worker may take to answer, before it counts as hung."""
_PEER_CREDENTIALS: Final = struct.Struct("3i")

_log = structlog.get_logger("proxy.control")


@dataclass(frozen=True, slots=True)
class Registration:
    """What a worker says of itself when it comes or comes back."""

    slot: int
    identity: Identity
    version: str
    leases: list[LeaseId]
    listeners: list[str]
    """What the sockets that it passes along are for, in their order."""

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Registration:
        """Raises ValueError, KeyError or TypeError for anything else."""
        slot = int(value["slot"])
        if not 0 <= slot < WORKERS_MAX:
            raise ValueError("slot out of range")
        return cls(
            slot=slot,
            identity=Identity(int(value["pid"]), int(value["start_ticks"])),
            version=str(value["version"]),
            leases=[LeaseId(str(lease)) for lease in value["leases"]],
            listeners=[str(name) for name in value["listeners"]],
        )

    @property
    def worker(self) -> WorkerId:
        return worker_id(self.slot, self.identity)


def worker_id(slot: int, identity: Identity) -> WorkerId:
    return WorkerId(f"{slot}-{identity.pid}-{identity.start_ticks}")


@dataclass(slots=True)
class _Seat:
    """One worker: its calls go to ``cell``; ``peer`` is its latest connection."""

    slot: int
    identity: Identity
    cell: Cell
    peer: Peer | None = None
    epoch: int = 0
    """Grows with each registration and at the end: what was asked in an earlier one is void."""
    leases: set[LeaseId] = field(default_factory=set[LeaseId])


Listeners = dict[str, socket.socket]
Registered = Callable[[Registration, Listeners], dict[str, Any]]
"""Called for each registration with the listening sockets that came along; gives the welcome's content.

Raises TenantryError to turn the worker away.
"""


class Control:
    """Listens on ``path`` for workers of uid ``uid`` (None: our own). ``stop`` is safe twice."""

    def __init__(
        self, path: Path, staff: Staff, registered: Registered, ready: Callable[[WorkerId], None], *, uid: int | None
    ) -> None:
        self._path = path
        self._staff = staff
        self._registered = registered
        self._ready = ready
        self._uid = os.geteuid() if uid is None else uid
        self._seats: dict[WorkerId, _Seat] = {}
        self._listener: socket.socket | None = None
        self._tasks = Tasks("control")
        self._fresh: set[socket.socket] = set()
        """Accepted, and not registered yet."""

    async def start(self) -> None:
        """Raises OperatorError when the socket cannot be made."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            if self._uid != os.geteuid():
                os.chown(self._path, self._uid, -1)
            listener.listen(UNREGISTERED_MAX)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise OperatorError(
                f"cannot listen on {self._path}: {error.strerror}",
                next_step="check the run directory and its rights",
            ) from error
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    async def stop(self) -> None:
        """Ends all connections; workers go on and wait for the next control process."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            self._path.unlink(missing_ok=True)
        await self._tasks.stop()
        for sock in self._fresh:
            sock.close()
        for seat in self._seats.values():
            if seat.peer is not None:
                await seat.peer.close()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # Gone again, or no descriptor is left, which the next worker may find otherwise.
        if len(self._fresh) >= UNREGISTERED_MAX:
            sock.close()
            return
        sock.setblocking(False)
        self._fresh.add(sock)
        self._tasks.start(self._serve(sock), "worker")

    async def _serve(self, sock: socket.socket) -> None:
        """One connection, from the registration to its end."""
        try:
            async with asyncio.timeout(REGISTRATION_SECONDS):
                seat, epoch, welcome = await self._register(sock)
                peer = await Peer.on(sock, _Calls(self, seat, epoch, welcome).handlers)
            self._fresh.discard(sock)
        except (OSError, ValueError, KeyError, TypeError, TimeoutError, TenantryError) as error:
            _log.warning("a worker could not register", reason=str(error) or type(error).__name__)
            self._fresh.discard(sock)
            sock.close()
            return
        await self._seat(seat, epoch, peer)

    async def _register(self, sock: socket.socket) -> tuple[_Seat, int, dict[str, Any]]:
        pid, uid, _ = _PEER_CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid not in {self._uid, os.geteuid()}:
            raise ValueError(f"uid {uid} is not the workers'")
        value, descriptors = await receive_first(sock)
        sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        try:
            registration = Registration.parse(value)
            listeners = dict(zip(registration.listeners, sockets, strict=True))
            if registration.identity.pid != pid or not alive(registration.identity):
                raise ValueError(f"process {pid} says that it is another")
            welcome = self._registered(registration, listeners)
        except BaseException:
            for listener in sockets:
                listener.close()
            raise
        seat = self._seats.get(registration.worker)
        if seat is None:
            cell = self._staff.cell_for(registration.worker)
            seat = self._seats[registration.worker] = _Seat(registration.slot, registration.identity, cell)
        seat.epoch += 1
        epoch = seat.epoch
        if seat.peer is not None:
            await seat.peer.close()
            self._check_latest(seat, epoch)
            seat.peer = None
        # In one step: who registers during the releases begins with what this one has named.
        named = set(registration.leases)
        not_named, seat.leases = seat.leases - named, named
        for lease in not_named:
            await seat.cell.release(lease)
        self._check_latest(seat, epoch)
        await self._staff.worker_registered(registration.worker, registration.leases)
        return seat, epoch, welcome

    @staticmethod
    def _check_latest(seat: _Seat, epoch: int) -> None:
        """Raises Unavailable when the worker has registered again meanwhile, or died: its word of before is void."""
        if seat.epoch != epoch:
            raise Unavailable(f"worker {seat.slot} has registered again, or died")

    async def _seat(self, seat: _Seat, epoch: int, peer: Peer) -> None:
        if seat.epoch != epoch:
            await peer.close()
            return
        if seat.peer is not None:
            await seat.peer.close()
        seat.peer = peer
        try:
            await peer.closed.wait()
        finally:
            if seat.peer is peer:
                seat.peer = None
            await peer.close()

    async def gone(self, worker: WorkerId) -> None:
        """The worker is proved dead. Safe twice."""
        seat = self._seats.pop(worker, None)
        if seat is not None:
            seat.epoch += 1
            if seat.peer is not None:
                await seat.peer.close()
        await self._staff.worker_gone(worker)

    def ready(self, slot: int, identity: Identity) -> None:
        """The worker has taken its welcome in, and its door is open."""
        self._ready(worker_id(slot, identity))

    async def ask(self, worker: WorkerId, method: str, **parameters: Any) -> bool:
        """Calls a worker; False when it is out of reach, or hangs."""
        seat = self._seats.get(worker)
        if seat is None or seat.peer is None:
            return False
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX):
                await seat.peer.call(method, **parameters)
        except (Disconnected, TimeoutError):
            return False
        return True

    async def forward_cancel(self, asking: WorkerId, pid: int, secret: str) -> None:
        """Takes a cancel request to all workers but the one that asks; whose key it is knows what to do."""
        others = [worker for worker in self._seats if worker != asking]
        await asyncio.gather(*(self.ask(worker, "cancel", pid=pid, secret=secret) for worker in others))


class _Calls:
    """What one connection of a worker may ask."""

    def __init__(self, control: Control, seat: _Seat, epoch: int, welcome: dict[str, Any]) -> None:
        self._control = control
        self._seat = seat
        self._cell = seat.cell
        self._epoch = epoch
        self._welcome = welcome

    @property
    def handlers(self) -> dict[str, Callable[[dict[str, Any]], Awaitable[Any]]]:
        return {
            "welcome": self._say_welcome,
            "ready": self._say_ready,
            "login": self._login,
            "login_failed": self._login_failed,
            "wake": self._wake,
            "release": self._release,
            "report": self._report,
            "forward_cancel": self._forward_cancel,
        }

    async def _say_welcome(self, _: dict[str, Any]) -> Any:
        return self._welcome

    async def _say_ready(self, _: dict[str, Any]) -> None:
        self._control.ready(self._seat.slot, self._seat.identity)

    async def _login(self, given: dict[str, Any]) -> Any:
        return asdict(
            await self._cell.login(
                EndpointId(given["endpoint"]), given["role"], given["client_address"], given["operator"]
            )
        )

    async def _login_failed(self, given: dict[str, Any]) -> None:
        await self._cell.login_failed(EndpointId(given["endpoint"]), given["role"], given["client_address"])

    async def _wake(self, given: dict[str, Any]) -> Any:
        upstream = await self._cell.wake(EndpointId(given["endpoint"]), operator=bool(given["operator"]))
        if self._seat.epoch != self._epoch:
            # The worker has registered again, or died: nobody will ever name this lease.
            await self._cell.release(upstream.lease)
            raise Unavailable("the connection that asked is gone")
        self._seat.leases.add(upstream.lease)
        return asdict(upstream)

    async def _release(self, given: dict[str, Any]) -> None:
        lease = LeaseId(given["lease"])
        await self._cell.release(lease)
        self._seat.leases.discard(lease)

    async def _report(self, given: dict[str, Any]) -> None:
        await self._cell.report(int(given["number"]), [Traffic(**item) for item in given["traffic"]])

    async def _forward_cancel(self, given: dict[str, Any]) -> None:
        asking = worker_id(self._seat.slot, self._seat.identity)
        await self._control.forward_cancel(asking, int(given["pid"]), str(given["secret"]))
