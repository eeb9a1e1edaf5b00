"""The composition root of a cell: opens its data directory, adopts what still runs, and serves until told to stop.

Two processes never share a data directory: the control process holds a lock on it. Front door workers and
postmasters live on when this process dies, and the next one takes them up.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import secrets
import socket
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from starlette.types import ASGIApp

from tenantry.cell.api.addresses import FrontDoor
from tenantry.cell.api.app import build_app
from tenantry.cell.api.health import METRICS_PATH, Check, health_routes
from tenantry.cell.api.site import Organization, Site
from tenantry.cell.cell import Cell
from tenantry.cell.compute.admin import Admin
from tenantry.cell.compute.engines import EngineStore
from tenantry.cell.compute.instances import Instances
from tenantry.cell.config import CellConfig
from tenantry.cell.door import Staff
from tenantry.cell.engine_directories import engines_directory, project_uids
from tenantry.cell.loops.discard import discard_loop
from tenantry.cell.loops.expiry import expiry_loop, schedule_loop
from tenantry.cell.loops.history import bases_loop, history_loop
from tenantry.cell.loops.idle import idle_loop
from tenantry.cell.loops.metering import forgetting_loop, metering_loop
from tenantry.cell.loops.quotas import quotas_loop
from tenantry.cell.loops.retention import retention_loop
from tenantry.cell.loops.spares import spares_loop
from tenantry.cell.model import Uid
from tenantry.cell.operations import restore_branch
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.history import Keeper
from tenantry.cell.operations.keys import Keys
from tenantry.cell.operations.numbers import numbers
from tenantry.cell.operations.records import StateRecords
from tenantry.cell.operations.runner import Runner
from tenantry.cell.operations.spares import Newborn
from tenantry.cell.operations.verbs import VERBS
from tenantry.cell.proxy import certificates
from tenantry.cell.proxy.settings import Settings
from tenantry.cell.proxy.supervisor import DoorConfig, Supervisor, WebConfig
from tenantry.cell.state.state import State
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage import bases
from tenantry.cell.storage.clone import probe
from tenantry.cell.storage.freeze import resume_stopped
from tenantry.cell.storage.heads import unnamed
from tenantry.cell.storage.layout import Layout, prepare, run_directory
from tenantry.cell.storage.recover import end_instance
from tenantry.errors import OperatorError, Unavailable
from tenantry.neon.ids import HeadId, RegionId
from tenantry.runtime.clock import SystemClock
from tenantry.runtime.files import remove_tree, write_atomic
from tenantry.runtime.sealing import Sealer

_log = structlog.get_logger("cell")

HTTP_CONNECTIONS_MAX: Final = 1_000
HTTP_BACKLOG: Final = 512
HTTP_DRAIN_SECONDS: Final = 5


def take_lock(path: Path) -> int:
    """Holds the data directory for this process's life. Raises OperatorError when another cell has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise OperatorError(
            f"another cell (pid {owner or 'unknown'}) runs on {path.parent}",
            next_step="stop it first, or choose another --data directory",
            path=str(path.parent),
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def is_loopback(host: str) -> bool:
    """Whether a listener on ``host`` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reachable(host: str) -> str:
    """An address of the listener that this machine's own clients can use: a wildcard is none."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - named to be replaced


def _written(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(path: Path) -> socket.socket:
    """A listening socket for our own processes. Raises OperatorError."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(HTTP_BACKLOG)
    except OSError as error:
        listener.close()
        raise OperatorError(
            f"cannot listen on {path}: {error.strerror}", next_step="check the run directory and its rights"
        ) from error
    listener.setblocking(False)
    return listener


def _checks(context: Context, supervisor: Supervisor) -> dict[str, Check]:
    """What must answer before traffic may come."""

    async def state() -> None:
        await context.state.read(lambda tables: tables.projects_count())

    async def door() -> None:
        if not supervisor.open:
            raise Unavailable("no front door worker takes connections", next_step="see logs/door.log")

    return {"state": state, "front_door": door}


class _HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: the cell decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running cell answers."""

    api_url: str
    api_key: str
    postgres_host: str
    postgres_port: int
    api_ca: Path | None
    """The authority that signed the API's certificate, where it is the cell's own; None without TLS of our making."""


class RunningCell:
    """A cell from its start to its end: ``start`` once, ``stop`` as often as one likes."""

    def __init__(self, config: CellConfig) -> None:
        self._config = config
        self._root = os.geteuid() == 0
        data = config.data.absolute()
        self._layout = Layout(data=data, run=run_directory(data, root=self._root))
        self._stack = contextlib.AsyncExitStack()
        self._stopped = False
        self._ours = False

    async def start(self) -> Addresses:
        """Answers when everything answers. Raises OperatorError, having undone what it began."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> Addresses:
        config, layout = self._config, self._layout
        await asyncio.to_thread(prepare, layout, root=self._root)
        self._stack.callback(os.close, take_lock(layout.lock))
        self._ours = True
        state = await asyncio.to_thread(State, layout.database)
        self._stack.push_async_callback(state.close)
        sealer = await asyncio.to_thread(Sealer.from_file, layout.key)
        admin = Admin(sealer)
        uids = await asyncio.to_thread(project_uids, config)
        engines = EngineStore(
            await asyncio.to_thread(engines_directory, layout.data, uids),
            layout.templates,
            prefer_source=config.engine_source,
        )
        await asyncio.to_thread(engines.load)
        clock = SystemClock()
        keeper = Keeper(
            layout=layout,
            state=state,
            engines=engines,
            clock=clock,
            driver=await asyncio.to_thread(probe, layout.projects),
            root=self._root,
        )
        instances = Instances(
            config=config,
            paths=layout,
            records=StateRecords(state, clock),
            history=keeper,
            engines=engines,
            admin=admin,
            clock=clock,
            root=self._root,
        )
        context = Context(
            config=config,
            layout=layout,
            state=state,
            engines=engines,
            instances=instances,
            keeper=keeper,
            admin=admin,
            sealer=sealer,
            clock=clock,
            uids=uids,
            own_uid=Uid(os.getuid()),
        )
        await self._clear_unnamed(context)
        adopted = await instances.adopt()
        for instance in instances.awake():
            # An earlier control process may have died while it held one still for a copy.
            if instance.running is not None:
                await asyncio.to_thread(resume_stopped, instance.running.identity)
        self._stack.push_async_callback(instances.close)
        runner = Runner(context, VERBS)
        self._stack.push_async_callback(runner.stop)
        resumed = await runner.resume()
        keys = Keys(context)
        await keys.load()
        operator_key = await self._operator_key(keys)
        newborn = Newborn(context)
        engine = await engines.for_major(config.default_major)
        _log.info("cell opened", data=str(layout.data), engine=engine.build_id, adopted=adopted, resumed=resumed)

        loops = [
            idle_loop(context),
            spares_loop(context, newborn),
            discard_loop(context),
            history_loop(context),
            bases_loop(context),
            retention_loop(context),
            expiry_loop(context, runner),
            schedule_loop(context, runner),
            metering_loop(context),
            forgetting_loop(context),
            quotas_loop(context, runner),
        ]
        for loop in loops:
            loop.start()
            self._stack.push_async_callback(loop.stop)
        door, supervisor = await self._open_door(context)
        site = Site(
            door=door,
            region_id=RegionId(config.region),
            recovery_seconds=config.recover_seconds,
            organization=Organization(created_at=await keys.born()),
        )
        others = health_routes(_checks(context, supervisor), partial(numbers, context))
        # Numbers of the whole cell are for whoever is on this machine, or has a key.
        guarded = () if is_loopback(config.http[0]) else (METRICS_PATH,)
        app = build_app(Cell(context, runner, newborn, keys), site, others=others, guarded=guarded)
        await self._serve_http(app, supervisor.api_path)
        # The door closes before what answers behind it.
        self._stack.push_async_callback(supervisor.stop)
        host, port = supervisor.web_address
        scheme = "https" if self._needs_tls(host) else "http"
        return Addresses(
            api_url=f"{scheme}://{_written(reachable(host))}:{port}/api/v2",
            api_key=operator_key,
            postgres_host=door.host,
            postgres_port=door.port,
            api_ca=self._layout.tls / "ca.crt" if scheme == "https" and not config.tls_certificate else None,
        )

    def _needs_tls(self, host: str) -> bool:
        return not is_loopback(host) and not self._config.insecure

    async def _clear_unnamed(self, context: Context) -> None:
        """Dooms directories that a crash left without a row, and removes bases that were not finished."""
        layout = context.layout

        def names(tables: Tables) -> set[str]:
            named = set(tables.doomed())
            for spare in tables.spares():
                named.add(layout.relative(layout.head(spare.project_id, spare.head_id)))
            for head in tables.all_heads():
                named.add(layout.relative(layout.head(head.project_id, head.id)))
            # What a restore was making goes on where it was interrupted, and is removed by nobody else.
            for project_id, head_id in restore_branch.unborn(tables):
                named.add(layout.relative(layout.head(project_id, head_id)))
            return named

        named = await context.state.read(names)
        found = await asyncio.to_thread(unnamed, layout, named)
        for path, _ in found:
            # A copy that was made for one look runs on after the cell that made it.
            head_id = HeadId(Path(path).name)
            await end_instance(layout.data / path, layout.making_dir(head_id))
            await asyncio.to_thread(layout.remove_making_traces, head_id)
        if found:
            now = context.clock.now()
            await context.state.write(lambda tables: [tables.doom(path, Uid(uid), now) for path, uid in found])
            _log.info("directories without a row will be deleted", paths=[path for path, _ in found])
        heads = await context.state.read(lambda tables: tables.all_heads())
        unfinished = await asyncio.to_thread(
            lambda: sum(bases.delete_unfinished(layout.head(head.project_id, head.id)) for head in heads)
        )
        if unfinished:
            _log.info("base images that were being taken are deleted", count=unfinished)

    async def _operator_key(self, keys: Keys) -> str:
        """The key of whoever runs this cell: in a file only they can read, and hashed like every other."""
        path = self._layout.operator_key
        if not path.exists():
            await asyncio.to_thread(write_atomic, path, f"tenantry_{secrets.token_urlsafe(32)}".encode())
        clear = path.read_text().strip()
        if await keys.authenticate(clear) is None:
            await keys.create("operator", clear=clear)
        return clear

    async def _open_door(self, context: Context) -> tuple[FrontDoor, Supervisor]:
        """Opens the front door, or takes up the one that outlived an earlier control process."""
        config = self._config
        host, _ = config.postgres
        if config.tls_certificate and config.tls_key:
            pair = await asyncio.to_thread(certificates.given, config.tls_certificate, config.tls_key)
        else:
            names = [
                *sorted({reachable(host), reachable(config.http[0])}),
                "localhost",
                "*.localhost",
                *((f"*.{config.domain}",) if config.domain else ()),
            ]
            pair = await asyncio.to_thread(certificates.own, self._layout.tls, names)
        supervisor = Supervisor(
            DoorConfig(
                address=config.postgres,
                web=WebConfig(config.http, tls=self._needs_tls(config.http[0])),
                directory=self._layout.workers,
                settings=Settings(
                    secret=context.sealer.derive("door"),
                    tls_required=self._needs_tls(host),
                    drain_seconds=config.drain_seconds_max,
                ),
                tls=pair,
                workers=config.door_workers,
                log_path=self._layout.logs / "door.log",
            ),
            Staff(context),
        )
        await supervisor.start()
        self._stack.push_async_callback(supervisor.stop)
        context.instances.settle_adopted()
        host, port = supervisor.address
        door = FrontDoor(
            host=reachable(host),
            port=port,
            domain=config.domain,
            # On the loopback nothing can listen in, and several drivers take "require" for "verify". Where a host name
            # says which endpoint is meant, the door learns it from TLS alone.
            sslmode="require" if config.domain or self._needs_tls(host) else "disable",
        )
        return door, supervisor

    async def _serve_http(self, app: ASGIApp, path: Path) -> None:
        """Answers what the front door's workers pass on of their HTTP port."""
        listener = await asyncio.to_thread(_listen, path)
        self._stack.callback(listener.close)
        server = _HttpServer(
            uvicorn.Config(
                app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                limit_concurrency=HTTP_CONNECTIONS_MAX,
                backlog=HTTP_BACKLOG,
                timeout_graceful_shutdown=HTTP_DRAIN_SECONDS,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="http")

        async def end() -> None:
            server.should_exit = True
            await asyncio.wait([serving])

        self._stack.push_async_callback(end)
        while not server.started:
            if serving.done():
                await serving
                raise OperatorError("the HTTP API did not come up", next_step="see the log above")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Drains the door, stops every instance and closes the data directory. Safe twice."""
        if self._stopped:
            return
        self._stopped = True
        await self._stack.aclose()
        if self._ours:
            # Sockets of nobody. What still runs (an instance that would not stop) is found by its data directory.
            await asyncio.to_thread(remove_tree, self._layout.run)
