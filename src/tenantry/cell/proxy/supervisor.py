"""Starts the door's workers, keeps them running, takes up those of an earlier control process, and ends them.

The list of workers is written to a file after each change, and a living worker passes its listening socket when
it registers: a control process that comes after a crash goes on with the same port and the same sessions.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from tenantry.cell.proxy.certificates import Pair
from tenantry.cell.proxy.control import WORKERS_MAX, Control, Listeners, Registration, worker_id
from tenantry.cell.proxy.ports import Staff, WorkerId
from tenantry.cell.proxy.settings import HTTP, HTTPS, LISTEN_BACKLOG, POSTGRES, Settings
from tenantry.errors import OperatorError, TenantryError, Unavailable
from tenantry.runtime import child
from tenantry.runtime.child import Identity
from tenantry.runtime.files import write_atomic
from tenantry.runtime.tasks import Tasks

PROTOCOL_VERSION: Final = "4"
"""Of the calls between workers and control. A worker of another one keeps its sessions and takes no new ones."""
ADOPT_SECONDS: Final = 5.0
"""How long a living worker may take to register with a new control process, before it counts as hung."""
START_SECONDS: Final = 20.0
RESTART_SECONDS: Final = 0.1
RESTART_SECONDS_MAX: Final = 5.0
PROVEN_SECONDS: Final = 10.0
"""A worker that lived so long has not failed at once, and its successor need not wait."""
END_SECONDS: Final = 5.0
"""What a worker may take to end after its sessions have."""
BIND_ATTEMPTS_MAX: Final = 10
_BIND_RETRY_SECONDS: Final = 0.1
_WATCH_SECONDS: Final = 3600.0
_WORDS: Final = {
    POSTGRES: ("Postgres", "--postgres"),
    HTTP: ("HTTP", "--http"),
    HTTPS: ("HTTP", "--http"),
}
"""How an operator calls what is spoken, and the option that says where."""
_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "TENANTRY_FAILPOINTS")

_log = structlog.get_logger("proxy.supervisor")


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The HTTP port of a door."""

    address: tuple[str, int]
    tls: bool

    @property
    def spoken(self) -> str:
        return HTTPS if self.tls else HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorConfig:
    """What the door of one cell is to be."""

    address: tuple[str, int]
    web: WebConfig | None = None
    """None: no HTTP port."""
    directory: Path
    """Short, ours alone, and the same at each start: holds the calls' socket and the list of workers."""
    settings: Settings
    tls: Pair | None = None
    workers: int = 1
    log_path: Path | None = None
    uid: int | None = None
    gid: int | None = None
    """Whom workers run as; None: as ourselves. They need a way to the sockets of instances."""


@dataclass(slots=True)
class _Worker:
    slot: int
    identity: Identity
    adopted: bool
    """It was started by an earlier control process."""
    started_at: float
    retiring: bool = False
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    """It has registered with this control process, and its door is open or closed as it was told."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> WorkerId:
        return worker_id(self.slot, self.identity)


class Supervisor:
    """The door of one cell. ``start`` once; ``stop`` ends the workers, ``detach`` leaves them; both safe twice."""

    def __init__(self, config: DoorConfig, staff: Staff) -> None:
        self._config = config
        self._control = Control(config.directory / "cell.sock", staff, self._registered, self._ready, uid=config.uid)
        self._registry = config.directory / "workers.json"
        self._workers: dict[WorkerId, _Worker] = {}
        self._listeners: Listeners = {}
        self._changed = asyncio.Event()
        self._watches = Tasks("door")
        self._keeping: asyncio.Task[None] | None = None
        self._ending = False
        self._delay = RESTART_SECONDS
        self._places: dict[str, _Place] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Where the door listens, with the port that was chosen when 0 was asked for."""
        return self._address(POSTGRES)

    @property
    def web_address(self) -> tuple[str, int]:
        """Where the HTTP port is, likewise."""
        assert self._config.web is not None, "the door has no HTTP port"
        return self._address(self._config.web.spoken)

    @property
    def api_path(self) -> Path:
        """Where workers expect the control process to answer what they do not."""
        return self._config.directory / "api.sock"

    def _address(self, name: str) -> tuple[str, int]:
        host, port = self._listeners[name].getsockname()[:2]
        return str(host), int(port)

    @property
    def workers(self) -> list[Identity]:
        """The living workers, those that only finish their sessions among them."""
        return [worker.identity for worker in self._workers.values()]

    @property
    def open(self) -> bool:
        """Whether a worker takes connections."""
        return any(worker.ready.is_set() and not worker.retiring for worker in self._workers.values())

    # -- start

    async def start(self) -> None:
        """Returns when the door is open and every earlier worker has registered again or is proved dead.

        Raises OperatorError when the port is taken or workers do not come up.
        """
        try:
            self._config.directory.mkdir(mode=0o711 if self._config.uid is not None else 0o700, exist_ok=True)
            earlier = await asyncio.to_thread(self._read_registry)
            addresses = {POSTGRES: self._config.address}
            if self._config.web is not None:
                addresses[self._config.web.spoken] = self._config.web.address
            for name, address in addresses.items():
                self._places[name] = await asyncio.to_thread(_resolve, name, address)
            await self._control.start()
            await self._adopt(earlier)
            for name, place in self._places.items():
                if name not in self._listeners:
                    self._listeners[name] = await self._bind(name, place)
            for _ in range(self._missing()):
                await self._spawn()
            await self._all_ready(list(self._workers.values()), START_SECONDS)
            if self._missing() or not all(worker.ready.is_set() for worker in self._workers.values()):
                raise OperatorError(
                    "the front door's workers did not come up",
                    next_step=f"see {self._config.log_path or 'their log'}",
                )
        except BaseException:
            for worker in self._workers.values():
                if not worker.adopted:
                    child.kill(worker.identity, signal.SIGTERM)
            await self.detach()
            raise
        self._keeping = asyncio.get_running_loop().create_task(self._keep(), name="door:keep")

    async def _adopt(self, earlier: Sequence[tuple[int, Identity]]) -> None:
        """Waits for the living workers of an earlier control process; ends those that do not come."""
        living = [self._employ(slot, identity, adopted=True) for slot, identity in earlier if child.alive(identity)]
        await self._all_ready(living, ADOPT_SECONDS)
        for worker in living:
            if not worker.ready.is_set() and not worker.ended.is_set():
                _log.error("a front door worker hangs; ending it and its sessions", pid=worker.identity.pid)
                child.kill(worker.identity, signal.SIGKILL)
                await worker.ended.wait()

    async def _bind(self, name: str, place: _Place) -> socket.socket:
        """Raises OperatorError.

        A taken port is tried for a moment: a retiring worker may hold it, or a living one that no list names may
        be about to register and bring it along.
        """
        for attempt in range(1, BIND_ATTEMPTS_MAX + 1):
            try:
                return _bind(place)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise _cannot_listen(name, place.written, error.strerror) from error
                if attempt == BIND_ATTEMPTS_MAX:
                    raise _cannot_listen(name, place.written, "the port is taken") from error
            await asyncio.sleep(_BIND_RETRY_SECONDS)
            if name in self._listeners:
                return self._listeners[name]
        raise AssertionError("the loop ends by return or raise")

    async def _all_ready(self, workers: Sequence[_Worker], seconds: float) -> None:
        """Waits until each is ready or has ended, or the time is over."""

        async def settled(worker: _Worker) -> None:
            waits = [asyncio.ensure_future(worker.ready.wait()), asyncio.ensure_future(worker.ended.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()

        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(settled(worker) for worker in workers))
        except TimeoutError:
            return

    # -- workers

    def _registered(self, registration: Registration, listeners: Listeners) -> dict[str, Any]:
        """A worker has registered: one that was started here, or one of an earlier control process."""
        worker = self._workers.get(registration.worker)
        if worker is None:
            if any(other.slot == registration.slot for other in self._workers.values()):
                raise Unavailable("another worker has this slot")
            worker = self._employ(registration.slot, registration.identity, adopted=True)
        for name, listener in listeners.items():
            if name not in self._listeners and self._fits(name, listener):
                self._listeners[name] = listener
        # One that has stopped to accept, or does so elsewhere, takes no new clients here.
        worker.retiring = (
            worker.retiring
            or registration.version != PROTOCOL_VERSION
            or listeners.keys() != self._places.keys()
            or not all(self._same_port(name, listener) for name, listener in listeners.items())
        )
        for listener in listeners.values():
            if listener not in self._listeners.values():
                listener.close()
        self._changed.set()
        tls = self._config.tls
        return {
            "settings": self._config.settings.to_json(),
            "tls": None if tls is None else {"chain": tls.chain, "key": tls.key},
            "api": str(self.api_path),
            "retire": worker.retiring,
        }

    def _ready(self, worker: WorkerId) -> None:
        if worker in self._workers:
            self._workers[worker].ready.set()

    def _fits(self, name: str, listener: socket.socket) -> bool:
        """Whether it listens where the door is to be; any port will do where any was asked for."""
        place = self._places.get(name)
        host, port = listener.getsockname()[:2]
        return place is not None and host == place.address[0] and place.address[1] in {0, port}

    def _same_port(self, name: str, listener: socket.socket) -> bool:
        ours = self._listeners.get(name)
        return ours is not None and ours.getsockname() == listener.getsockname()

    def _employ(self, slot: int, identity: Identity, *, adopted: bool) -> _Worker:
        worker = _Worker(slot, identity, adopted, asyncio.get_running_loop().time())
        self._workers[worker.id] = worker
        self._watches.start(self._watch(worker), f"watch {identity.pid}")
        return worker

    async def _watch(self, worker: _Worker) -> None:
        while not await child.wait_exit(worker.identity, _WATCH_SECONDS):
            pass
        del self._workers[worker.id]
        lived = asyncio.get_running_loop().time() - worker.started_at
        if not self._ending and not worker.retiring:
            _log.error("a front door worker died", pid=worker.identity.pid, lived_seconds=round(lived, 1))
        self._delay = RESTART_SECONDS if lived > PROVEN_SECONDS else min(2 * self._delay, RESTART_SECONDS_MAX)
        try:
            await self._control.gone(worker.id)
            if not self._ending:
                await asyncio.to_thread(self._write_registry)
        finally:  # it has ended and wants a successor, also where the list of workers cannot be written
            worker.ended.set()
            self._changed.set()

    def _missing(self) -> int:
        return max(0, self._config.workers - sum(not worker.retiring for worker in self._workers.values()))

    async def _keep(self) -> None:
        """Looks whether workers are missing, each time that one has come or gone."""
        while True:
            self._changed.clear()
            if self._missing():
                await asyncio.sleep(self._delay)
                try:
                    await self._spawn()
                except TenantryError as error:
                    _log.error("cannot start a front door worker", reason=str(error))
                    self._delay = min(2 * self._delay, RESTART_SECONDS_MAX)
                continue
            await self._changed.wait()

    async def _spawn(self) -> None:
        used = {worker.slot for worker in self._workers.values()}
        slot = next(slot for slot in range(WORKERS_MAX) if slot not in used)
        arguments = [
            *(sys.executable, "-P", "-m", "tenantry.cell.proxy.worker"),
            *("--rpc", str(self._config.directory / "cell.sock")),
            *(f"--listen={name}:{listener.fileno()}" for name, listener in self._listeners.items()),
            *("--slot", str(slot), "--version", PROTOCOL_VERSION),
        ]
        starting = asyncio.ensure_future(
            asyncio.to_thread(
                child.spawn,
                arguments,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                cwd=None,
                log_path=self._config.log_path,
                uid=self._config.uid,
                gid=self._config.gid,
                pass_fds=[listener.fileno() for listener in self._listeners.values()],
            )
        )
        try:
            await asyncio.shield(starting)
        finally:
            # The thread cannot be cancelled: whoever stops us must find what it starts.
            await asyncio.wait([starting])
            if starting.exception() is None:
                self._started(slot, starting.result())
        await asyncio.to_thread(self._write_registry)

    def _started(self, slot: int, identity: Identity) -> None:
        registered = self._workers.get(worker_id(slot, identity))
        if registered is None:
            self._employ(slot, identity, adopted=False)
        else:  # it was faster than the thread that started it
            registered.adopted = False

    # -- the list of workers

    def _read_registry(self) -> list[tuple[int, Identity]]:
        try:
            listed = json.loads(self._registry.read_text())
            return [(int(slot), Identity(int(pid), int(ticks))) for slot, pid, ticks in listed]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError) as error:
            # A living worker still comes by itself; only a hung one would be missed.
            _log.error("the list of front door workers does not read", path=str(self._registry), reason=str(error))
            return []

    def _write_registry(self) -> None:
        listed = [(w.slot, w.identity.pid, w.identity.start_ticks) for w in list(self._workers.values())]
        write_atomic(self._registry, json.dumps(listed).encode(), durable=False)

    # -- the end

    async def stop(self, drain_seconds: float | None = None) -> None:
        """Closes the door, lets sessions end for ``drain_seconds`` (the settings', when None), ends every worker."""
        self._ending = True
        seconds = self._config.settings.drain_seconds if drain_seconds is None else drain_seconds
        await self._stop_keeping()
        self._close_listeners()
        workers = list(self._workers.values())
        for worker in workers:
            if not await self._control.ask(worker.id, "drain", seconds=seconds):
                child.kill(worker.identity, signal.SIGTERM)
        await self._all_ended(workers, seconds + END_SECONDS)
        for worker in workers:
            if not worker.ended.is_set():
                _log.error("a front door worker does not end", pid=worker.identity.pid)
                child.kill(worker.identity, signal.SIGKILL)
        await self._all_ended(workers, END_SECONDS)
        await self._watches.stop()
        await self._control.stop()
        self._registry.unlink(missing_ok=True)

    async def detach(self) -> None:
        """Leaves the workers and their sessions to the next control process."""
        self._ending = True
        await self._stop_keeping()
        await self._watches.stop()
        await self._control.stop()
        self._close_listeners()
        self._workers.clear()

    async def _stop_keeping(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
            self._keeping = None

    async def _all_ended(self, workers: Sequence[_Worker], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                for worker in workers:
                    await worker.ended.wait()
        except TimeoutError:
            return

    def _close_listeners(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where to listen, as the kernel wants to hear it, and as the operator wrote it."""

    family: int
    address: tuple[Any, ...]
    written: str


def _resolve(name: str, address: tuple[str, int]) -> _Place:
    """Blocks for a host name. Raises OperatorError."""
    host, port = address
    written = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, _, _, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise _cannot_listen(name, written, error.strerror) from error
    return _Place(family, resolved, written)


def _bind(place: _Place) -> socket.socket:
    """A listening socket. Raises OSError."""
    listener = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place.address)
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _cannot_listen(name: str, written: str, reason: str | None) -> OperatorError:
    spoken, option = _WORDS[name]
    return OperatorError(
        f"cannot listen for {spoken} clients on {written}: {reason}",
        next_step=f"stop what uses it, or choose another {option} HOST:PORT",
        address=written,
    )
