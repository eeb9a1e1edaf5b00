"""A real Postgres behind a real door: one instance for each test process, one door for each test."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import uvloop
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tenantry.cell.proxy.cancel import Cancels
from tenantry.cell.proxy.certificates import Tls
from tenantry.cell.proxy.door import Door
from tenantry.cell.proxy.house import House
from tenantry.cell.proxy.limits import Limits
from tenantry.cell.proxy.metering import Meter
from tenantry.cell.proxy.ports import LeaseId, Login, Traffic, Upstream
from tenantry.cell.proxy.settings import Settings
from tenantry.cell.proxy.web import Web
from tenantry.errors import StartFailed
from tenantry.neon.ids import EndpointId
from tenantry.postgres import scram, wire
from tenantry.runtime.tasks import Tasks

T = TypeVar("T")
ENDPOINT = EndpointId("ep-cool-sun-a1b2c3d4")
FIRST_WORDS = "n=,r=nonceofthisclient"
ROLE, PASSWORD, DATABASE = "app", "pass word/ü", "appdb"
ADMIN_PASSWORD = "admin-secret"
UID = 65534  # initdb wants a user that has a name


@dataclass
class Instance:
    """One real Postgres on a Unix socket."""

    directory: Path
    engine: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket_directory(self) -> str:
        return str(self.directory / "run")

    @property
    def socket_path(self) -> str:
        return f"{self.socket_directory}/.s.PGSQL.5432"

    def program(self, name: str) -> str:
        return str(self.engine / "bin" / name)

    def start(self) -> None:
        log = (self.directory / "postgres.log").open("ab")
        self.process = subprocess.Popen(
            [
                self.program("postgres"), "-D", str(self.directory / "data"), "-k", self.socket_directory,
                "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_connections=250",
                "-c", "io_method=sync", "-c", "fsync=on", "-c", "unix_socket_permissions=0777",
                "-c", "max_worker_processes=0", "-c", "autovacuum=off",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, **as_other_user(),
        )  # fmt: skip
        log.close()
        wait_for(self.answers)

    def answers(self) -> bool:
        try:
            self.admin("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def admin(self, dbname: str = DATABASE) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=self.socket_directory,
            user="cloud_admin",
            password=ADMIN_PASSWORD,
            dbname=dbname,
            autocommit=True,
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # ends sessions, as a plain SIGTERM would not
            self.process.wait(20)
            self.process = None


def as_other_user() -> dict[str, Any]:
    """Postgres refuses to run as root."""
    return {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until ``condition`` holds, looking every few milliseconds."""
    ready = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        ready.wait(0.005)
    raise AssertionError("the condition did not come true in time")


@pytest.fixture(scope="session")
def instance(engine_directory: Path, new_workdir: Callable[[str], Path]) -> Iterator[Instance]:
    directory = new_workdir("pg")
    made = Instance(directory, engine_directory)
    for name in ("data", "run"):
        (directory / name).mkdir(mode=0o711)
        if os.geteuid() == 0:
            os.chown(directory / name, UID, UID)
    (directory / "data").chmod(0o700)
    password_file = directory / "pw"
    password_file.write_text(ADMIN_PASSWORD)
    password_file.chmod(0o644)
    subprocess.run(
        [
            made.program("initdb"), "-D", str(directory / "data"), "-U", "cloud_admin", "-A", "scram-sha-256",
            f"--pwfile={password_file}", "--no-sync", "--no-instructions", "--wal-segsize=1", "-E", "UTF8",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C",
        ],
        check=True, capture_output=True, cwd="/", **as_other_user(),
    )  # fmt: skip
    try:
        made.start()
        with made.admin("postgres") as admin:
            admin.execute(f"create role {ROLE} login password '{PASSWORD}'")
            admin.execute(f"create database {DATABASE} owner {ROLE}")
        yield made
    finally:
        made.stop()


@dataclass
class StaticCell:
    """A second implementation of ``ports.Cell``: one awake instance, leases counted, in process."""

    instance: Instance
    woken: int = 0
    leases: set[LeaseId] = field(default_factory=set)
    failed: list[tuple[EndpointId, str]] = field(default_factory=list)
    looked: int = 0
    """After how many of the failed logins the instance's roles have been looked at."""
    traffic: list[Traffic] = field(default_factory=list)
    verifiers: dict[str, str | None] = field(default_factory=dict)
    connections_max: int = 0
    refusal: str | None = None
    broken: bool = False
    endpoints: frozenset[str] = frozenset({ENDPOINT})
    wake_gate: asyncio.Event | None = None
    forwarded: list[tuple[int, bytes]] = field(default_factory=list)
    """Cancel requests that are no session's of this worker."""
    socket_paths: list[str] = field(default_factory=list)
    """Given out before the real one."""

    def refresh(self) -> None:
        with self.instance.admin() as admin:
            self.verifiers = dict(admin.execute("select rolname, rolpassword from pg_authid").fetchall())

    async def login(self, endpoint: EndpointId, role: str, client_address: str, operator: str | None = None) -> Login:
        if not self.verifiers:
            await asyncio.to_thread(self.refresh)
        verifier = self.verifiers.get(role) if endpoint in self.endpoints else None
        md5 = bool(verifier and verifier.startswith("md5"))
        return Login(
            endpoint=endpoint,
            verifier=None if md5 else verifier,
            md5=md5,
            connections_max=self.connections_max,
            refusal=self.refusal,
        )

    async def login_failed(self, endpoint: EndpointId, role: str, client_address: str) -> None:
        self.failed.append((endpoint, role))
        await asyncio.to_thread(self.refresh)
        self.looked += 1

    async def wake(self, endpoint: EndpointId, *, operator: bool = False) -> Upstream:
        if self.wake_gate is not None:
            await self.wake_gate.wait()
        if self.broken:
            raise StartFailed("secret words of the log", client_text="the database could not be started")
        self.woken += 1
        lease = LeaseId(f"lease-{secrets.token_hex(4)}")
        self.leases.add(lease)
        return Upstream(self.socket_paths.pop(0) if self.socket_paths else self.instance.socket_path, lease)

    async def release(self, lease: LeaseId) -> None:
        self.leases.discard(lease)

    async def report(self, number: int, traffic: list[Traffic]) -> None:
        self.traffic += traffic

    async def forward_cancel(self, pid: int, secret: bytes) -> None:
        self.forwarded.append((pid, secret))


class LoopThread:
    """An event loop in a thread of its own, so that tests may use blocking clients."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.loop.set_debug(True)
        self.loop.slow_callback_duration = 0.5
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop of a test")
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(40)

    def close(self) -> None:
        async def cancel_all() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@pytest.fixture
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


class ClientSide:
    """How tests reach a door."""

    port: int

    def dsn(self, **changes: Any) -> str:
        words: dict[str, Any] = {
            "host": "127.0.0.1", "port": self.port, "user": ROLE, "password": PASSWORD, "dbname": DATABASE,
            "sslmode": "disable", "gssencmode": "disable", "connect_timeout": 10,
            "options": f"endpoint={ENDPOINT}", **changes,
        }  # fmt: skip
        return psycopg.conninfo.make_conninfo(**words)

    def connect(self, **changes: Any) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.dsn(**changes), autocommit=True)

    def raw(self, *packets: bytes) -> RawClient:
        """A bare connection that has sent ``packets``."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        for packet in packets:
            sock.sendall(packet)
        return RawClient(sock)


@dataclass
class OpenDoor(ClientSide):
    """A door in this process, on a loop in a thread."""

    cell: StaticCell
    house: House
    door: Door
    port: int
    thread: LoopThread

    def instance_admin(self) -> psycopg.Connection[tuple[Any, ...]]:
        return self.cell.instance.admin()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the door's loop."""
        return self.thread.run(work)


DoorMaker = Callable[..., OpenDoor]


@pytest.fixture
def open_door(instance: Instance, loop_thread: LoopThread) -> Iterator[DoorMaker]:
    """Opens doors; each keyword is a setting, ``tls`` gives one with TLS, ``cell`` changes the cell, and ``now`` is
    the clock by which failed logins are forgiven."""
    opened: list[tuple[Door, Tasks, House]] = []

    def make(
        *,
        tls: Tls | None = None,
        cell: StaticCell | None = None,
        now: Callable[[], float] | None = None,
        **settings: Any,
    ) -> OpenDoor:
        the_cell = cell or StaticCell(instance)
        tasks = Tasks("test door")

        async def start() -> OpenDoor:
            chosen = Settings(secret=b"s" * 32, **settings)
            meter = Meter(the_cell, 0.2)
            house = House(
                cell=the_cell,
                settings=chosen,
                limits=Limits(chosen, now or asyncio.get_running_loop().time),
                meter=meter,
                cancels=Cancels(),
                forwarder=the_cell,
                tasks=tasks,
                tls=tls,
            )
            tasks.start(meter.run(), "meter")
            listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
            door = Door(listener, house)
            door.open()
            opened.append((door, tasks, house))
            return OpenDoor(the_cell, house, door, listener.getsockname()[1], loop_thread)

        return loop_thread.run(start())

    yield make

    async def stop() -> None:
        for door, tasks, house in opened:
            await door.drain(0)
            await tasks.stop()
            house.pool.stop()

    loop_thread.run(stop())


@dataclass
class OpenWeb:
    """An HTTP port in this process, and the door that shares its house."""

    door: OpenDoor
    web: Web
    port: int

    @property
    def cell(self) -> StaticCell:
        return self.door.cell

    @property
    def house(self) -> House:
        return self.door.house

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/sql"


WebMaker = Callable[..., OpenWeb]


async def _nothing_else(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("not served here", 404)(scope, receive, send)


@pytest.fixture
def open_web(open_door: DoorMaker, loop_thread: LoopThread) -> Iterator[WebMaker]:
    """Opens HTTP ports; takes what ``open_door`` takes."""
    opened: list[OpenWeb] = []

    def make(**settings: Any) -> OpenWeb:
        door = open_door(**settings)

        async def start() -> OpenWeb:
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            web = Web(listener, door.house, _nothing_else, None)
            web.open()
            opened.append(OpenWeb(door, web, port))
            return opened[-1]

        return loop_thread.run(start())

    yield make

    async def stop() -> None:
        for web in opened:
            await web.web.drain(0)
            await web.house.stop()

    loop_thread.run(stop())


class RawClient:
    """A client whose every byte the test decides, and sees."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = bytearray()
        self.seen: list[wire.Message] = []

    def message(self) -> wire.Message:
        while (message := wire.take_message(self.inbox, bytes_max=2**30)) is None:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self.inbox += data
        self.seen.append(message)
        return message

    def until(self, kind: bytes) -> wire.Message:
        while (message := self.message()).kind != kind:
            pass
        return message

    def startup(self, version: int = wire.PROTOCOL_3_0, **parameters: str) -> None:
        given = {"user": ROLE, "database": DATABASE, "options": f"endpoint={ENDPOINT}", **parameters}
        self.sock.sendall(wire.startup(given, version))

    def choose(self) -> None:
        """The SCRAM exchange up to the client's first words."""
        self.until(b"R")
        self.sock.sendall(wire.sasl_initial_response(scram.MECHANISM, f"n,,{FIRST_WORDS}".encode()))

    def prove(self, password: str = PASSWORD) -> None:
        """The SCRAM exchange up to the proof."""
        self.choose()
        self.answer(password)

    def answer(self, password: str = PASSWORD) -> None:
        """The rest of it."""
        bare = FIRST_WORDS
        server_first = self.until(b"R").body[4:].decode()
        fields = dict(part.split("=", 1) for part in server_first.split(","))
        salted = hashlib.pbkdf2_hmac(
            "sha256", scram.saslprep(password), base64.b64decode(fields["s"]), int(fields["i"])
        )
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={fields['r']}"
        message = f"{bare},{server_first},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True))).decode()
        self.sock.sendall(wire.sasl_response(f"{without_proof},p={proof}".encode()))

    def login(self, **parameters: str) -> None:
        self.startup(**parameters)
        self.prove()
        self.until(b"Z")

    def query(self, sql: str) -> None:
        self.sock.sendall(wire.query(sql))

    def error(self) -> dict[str, str]:
        """The error that ends the connection, after which there is nothing."""
        fields = wire.parse_error(self.until(b"E").body)
        assert self.at_end()
        return fields

    def at_end(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()
