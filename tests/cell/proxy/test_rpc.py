"""The calls between a worker and the control process, over a real socket, with every way they can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tenantry.cell.proxy import rpc
from tenantry.cell.proxy.control import Control, Listeners, Registration
from tenantry.cell.proxy.ports import Cell, LeaseId, Login, Traffic, Upstream, WorkerId
from tenantry.cell.proxy.remote_cell import RemoteCell
from tenantry.cell.proxy.settings import Settings
from tenantry.errors import Conflict, Defect, InvalidInput, LimitReached, StartFailed, TenantryError, Unavailable
from tenantry.neon.ids import EndpointId
from tenantry.postgres.wire import ProtocolViolation

ENDPOINT = EndpointId("ep-a")


@dataclass
class FakeStaff:
    """A cell that does as the test says, and all that it was asked."""

    leases: set[LeaseId] = field(default_factory=set)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    registered: list[list[LeaseId]] = field(default_factory=list)
    gone: list[WorkerId] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    error: BaseException | None = None
    number: int = 0

    def cell_for(self, worker: WorkerId) -> Cell:
        return self

    async def worker_registered(self, worker: WorkerId, leases: list[LeaseId]) -> None:
        self.registered.append(leases)
        self.leases.update(leases)

    async def worker_gone(self, worker: WorkerId) -> None:
        self.gone.append(worker)

    async def _pass(self, gate: str) -> None:
        self.entered.set()
        if gate in self.gates:
            await self.gates[gate].wait()
        if self.error is not None:
            raise self.error

    async def login(self, endpoint: EndpointId, role: str, client_address: str, operator: str | None = None) -> Login:
        await self._pass("login")
        return Login(endpoint=endpoint, verifier=role, md5=True, connections_max=7, refusal="no")

    async def login_failed(self, endpoint: EndpointId, role: str, client_address: str) -> None:
        await self._pass("login_failed")

    async def wake(self, endpoint: EndpointId, *, operator: bool = False) -> Upstream:
        await self._pass("wake")
        self.number += 1
        lease = LeaseId(f"lease-{id(self)}-{self.number}")
        self.leases.add(lease)
        return Upstream("/run/x", lease)

    async def release(self, lease: LeaseId) -> None:
        await self._pass("release")
        self.leases.discard(lease)

    async def report(self, number: int, traffic: list[Traffic]) -> None:
        self.traffic += traffic


class Wire:
    """One worker's end; control processes come and go at the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.welcomed: list[dict[str, Any]] = []
        self.remote = RemoteCell(
            path,
            3,
            "1",
            {"postgres": self.listener, "http": self.listener},
            welcome=self._welcome,
            handlers={"cancel": self._cancel},
        )
        self.remote.patience_seconds = 5
        self.cancelled: list[dict[str, Any]] = []
        self.passed: list[Listeners] = []
        self.ready: list[WorkerId] = []
        self.refuse: TenantryError | None = None

    async def _welcome(self, welcome: dict[str, Any]) -> None:
        self.welcomed.append(welcome)

    async def _cancel(self, given: dict[str, Any]) -> None:
        self.cancelled.append(given)

    def _registered(self, registration: Registration, listeners: Listeners) -> dict[str, Any]:
        if self.refuse is not None:
            raise self.refuse
        self.passed.append(listeners)
        return {"hello": registration.slot}

    @contextlib.asynccontextmanager
    async def control(self, staff: FakeStaff) -> AsyncGenerator[Control]:
        control = Control(self.path, staff, self._registered, self.ready.append, uid=None)
        await control.start()
        try:
            yield control
        finally:
            await control.stop()
            await control.stop()


def run(workdir: Path, test: Callable[[Wire], Awaitable[None]], runner: Any = uvloop) -> None:
    async def whole() -> None:
        wire = Wire(workdir / "cell.sock")
        task = asyncio.create_task(wire.remote.run())
        try:
            async with asyncio.timeout(30):
                await test(wire)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await wire.remote.stop()
            await wire.remote.stop()
            wire.listener.close()
            for listeners in wire.passed:
                for listener in listeners.values():
                    listener.close()

    runner.run(whole())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("runner", [asyncio, uvloop])
def test_calls_and_their_answers(workdir: Path, runner: Any):
    async def test(wire: Wire) -> None:
        staff = FakeStaff()
        async with wire.control(staff):
            login = await wire.remote.login(ENDPOINT, "rôle", "::1")
            assert login == Login(ENDPOINT, "rôle", md5=True, connections_max=7, refusal="no")
            upstream = await wire.remote.wake(ENDPOINT)
            assert staff.leases == {upstream.lease}
            await wire.remote.login_failed(ENDPOINT, "r", "")
            await wire.remote.release(upstream.lease)
            await wire.remote.release(upstream.lease)
            assert staff.leases == set()
            traffic = Traffic(ENDPOINT, 1, 2, 3, 4)
            await wire.remote.report(1, [traffic])
            assert staff.traffic == [traffic]
        assert wire.welcomed == [{"hello": 3}]
        (passed,) = wire.passed
        assert list(passed) == ["postgres", "http"]
        assert {sock.getsockname() for sock in passed.values()} == {wire.listener.getsockname()}
        assert len(wire.ready) == 1

    run(workdir, test, runner)


@pytest.mark.parametrize(
    ("thrown", "kind", "client_text"),
    [
        (StartFailed("log words", client_text="could not start", endpoint="ep-a"), StartFailed, "could not start"),
        (Unavailable("log words"), Unavailable, "internal error"),
        (LimitReached("full", next_step="wait"), LimitReached, "full (wait)"),
        (ProtocolViolation("bad", next_step="go"), InvalidInput, "bad (go)"),
        (Conflict("a", client_text="b", next_step="c"), Conflict, "b (c)"),
        (ZeroDivisionError("a secret"), Defect, "internal error"),
    ],
)
def test_errors_keep_their_kind_and_their_words(
    workdir: Path, thrown: BaseException, kind: type[TenantryError], client_text: str
):
    async def test(wire: Wire) -> None:
        staff = FakeStaff(error=thrown)
        async with wire.control(staff):
            with pytest.raises(TenantryError) as caught:
                await wire.remote.wake(ENDPOINT)
        assert type(caught.value) is kind
        assert caught.value.client_text == client_text
        assert "secret" not in str(caught.value)

    run(workdir, test)


def test_calls_wait_for_the_next_control_process(workdir: Path):
    async def test(wire: Wire) -> None:
        first = FakeStaff(gates={"wake": asyncio.Event(), "login": asyncio.Event()})
        async with wire.control(first):
            waking = asyncio.create_task(wire.remote.wake(ENDPOINT))
            asking = asyncio.create_task(wire.remote.login(ENDPOINT, "r", ""))
            await first.entered.wait()
        assert not first.leases
        second = FakeStaff()
        async with wire.control(second):
            assert (await waking).lease in second.leases
            assert (await asking).verifier == "r"

    run(workdir, test)


def test_without_a_control_process_calls_end_in_time(workdir: Path):
    async def test(wire: Wire) -> None:
        wire.remote.patience_seconds = 0.2
        with pytest.raises(Unavailable, match="out of reach") as caught:
            await wire.remote.wake(ENDPOINT)
        assert caught.value.client_text == "the server is restarting, try again"
        with pytest.raises(Unavailable):
            await wire.remote.report(1, [])
        await wire.remote.release(LeaseId("any"))

    run(workdir, test)


def test_leases_are_named_again_and_lost_ones_taken_back(workdir: Path):
    async def test(wire: Wire) -> None:
        staff = FakeStaff()
        async with wire.control(staff) as control:
            kept, lost = (await wire.remote.wake(ENDPOINT)).lease, (await wire.remote.wake(ENDPOINT)).lease
            (seat,) = control._seats.values()
            assert seat.peer is not None
            await seat.peer.close()  # The connection breaks, both processes live on.
            await wire.remote.release(lost)
            await until(lambda: len(staff.registered) == 2)
            assert staff.registered[1] == [kept]
            await until(lambda: staff.leases == {kept})
        other = FakeStaff()
        async with wire.control(other):
            await until(lambda: other.registered)
            assert other.registered == [[kept]]
            await wire.remote.release(kept)
            await until(lambda: not other.leases)

    run(workdir, test)


def test_a_wake_that_nobody_waits_for_gives_its_lease_back(workdir: Path):
    async def test(wire: Wire) -> None:
        staff = FakeStaff(gates={"wake": asyncio.Event()})
        async with wire.control(staff):
            waking = asyncio.create_task(wire.remote.wake(ENDPOINT))
            await staff.entered.wait()
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)
            staff.gates["wake"].set()
            await until(lambda: staff.number == 1 and not staff.leases)

    run(workdir, test)


def test_a_lease_taken_for_a_worker_that_is_gone_goes_back(workdir: Path):
    class Stubborn(FakeStaff):
        """Takes the lease although its caller is gone, as a start that cannot be stopped halfway might."""

        async def wake(self, endpoint: EndpointId, *, operator: bool = False) -> Upstream:
            with contextlib.suppress(asyncio.CancelledError):
                await super()._pass("wake")
            self.gates.clear()
            return await super().wake(endpoint)

    async def test(wire: Wire) -> None:
        staff = Stubborn(gates={"wake": asyncio.Event()})
        async with wire.control(staff) as control:
            waking = asyncio.create_task(wire.remote.wake(ENDPOINT))
            await staff.entered.wait()
            await control.gone(wire.ready[0])
            assert staff.number == 1
            assert not staff.leases
            assert staff.gone == wire.ready[:1]
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)

    run(workdir, test)


def test_a_release_that_races_the_registration_is_not_lost(workdir: Path):
    async def test(wire: Wire) -> None:
        first = FakeStaff()
        async with wire.control(first):
            lease = (await wire.remote.wake(ENDPOINT)).lease

        class Slow(FakeStaff):
            async def worker_registered(self, worker: WorkerId, leases: list[LeaseId]) -> None:
                await super().worker_registered(worker, leases)
                await wire.remote.release(lease)  # It was named as held a moment ago.

        second = Slow()
        async with wire.control(second):
            await until(lambda: second.registered and not second.leases)
        assert second.registered == [[lease]]

    run(workdir, test)


def test_cancel_requests_reach_all_workers_but_the_one_that_asks(workdir: Path):
    async def test(wire: Wire) -> None:
        async with wire.control(FakeStaff()) as control:
            await wire.remote.login(ENDPOINT, "r", "")
            await wire.remote.forward_cancel(17, b"key")
            assert wire.cancelled == []
            await control.forward_cancel(WorkerId("another"), 17, b"key".hex())
        assert wire.cancelled == [{"pid": 17, "secret": b"key".hex()}]

    run(workdir, test)


def test_a_worker_that_is_turned_away_tries_again(workdir: Path):
    async def test(wire: Wire) -> None:
        wire.refuse = Unavailable("not now")
        async with wire.control(FakeStaff()):
            await asyncio.sleep(0.2)
            assert not wire.welcomed
            wire.refuse = None
            await wire.remote.login(ENDPOINT, "r", "")

    run(workdir, test)


def registration(**changes: Any) -> dict[str, Any]:
    start_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    me = {"pid": os.getpid(), "start_ticks": start_ticks}
    return {"slot": 1, **me, "version": "1", "leases": [], "listeners": [], **changes}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0",
        struct.pack("!I", rpc.FRAME_BYTES_MAX + 1),
        rpc.frame([]),
        rpc.frame({}),
        b"\0\0\0\4nope",
        rpc.frame(registration(pid=1)),
        rpc.frame(registration(start_ticks=1)),
        rpc.frame(registration(slot=256)),
        rpc.frame(registration(leases=7)),
        rpc.frame(registration()) + struct.pack("!I", rpc.FRAME_BYTES_MAX + 1),
        rpc.frame(registration()) + b"\0\0\0\4nope",
        rpc.frame(registration()) + rpc.frame({"answer": 1}),
        rpc.frame(registration()) + rpc.frame({"call": 1}),
        rpc.frame(registration()) + rpc.frame([1]),
    ],
    # Named by number: what they hold differs from process to process, and parallel workers compare the names.
    ids=map(str, range(15)),
)
def test_strangers_on_the_socket_are_shown_out(workdir: Path, data: bytes):
    async def test(wire: Wire) -> None:
        async with wire.control(FakeStaff()):
            reader, writer = await asyncio.open_unix_connection(str(wire.path))
            writer.write(data)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert (await wire.remote.login(ENDPOINT, "r", "")).verifier == "r"

    run(workdir, test)


def test_what_a_worker_named_before_its_latest_registration_is_not_counted(workdir: Path):
    async def test(wire: Wire) -> None:
        staff = FakeStaff()
        writers: list[asyncio.StreamWriter] = []

        async def register(*leases: str) -> None:
            """Of another worker than the remote cell's."""
            registered = len(wire.passed)
            _, writer = await asyncio.open_unix_connection(str(wire.path))
            writer.write(rpc.frame(registration(slot=4, leases=leases)))
            writers.append(writer)
            await until(lambda: len(wire.passed) > registered)

        async with wire.control(staff):
            await until(lambda: wire.ready)
            await register("a")
            await until(lambda: ["a"] in staff.registered)
            staff.gates["release"] = asyncio.Event()
            await register("b")
            await staff.entered.wait()  # what it does not name is being given back
            await register()
            staff.gates["release"].set()
            await until(lambda: staff.registered[-1] == [])
            assert staff.registered == [[], ["a"], []]
            assert staff.leases == set()
            for writer in writers:
                writer.close()

    run(workdir, test)


def test_an_unknown_call_is_answered(workdir: Path):
    async def test(wire: Wire) -> None:
        async with wire.control(FakeStaff()):
            await wire.remote.login(ENDPOINT, "r", "")
            peer = wire.remote._peer
            assert peer is not None
            with pytest.raises(Defect, match="no such call"):
                await peer.call("nonsense")
            with pytest.raises(Defect, match="login failed"):
                await peer.call("login")

    run(workdir, test)


def test_too_long_a_message_is_never_sent_half():
    with pytest.raises(Unavailable, match="too long"):
        rpc.frame("x" * rpc.FRAME_BYTES_MAX)


def test_settings_travel_and_newer_ones_are_left_out():
    settings = Settings(secret=b"\x00\xff", tls_required=True, wake_seconds=3.5)
    assert Settings.from_json({**settings.to_json(), "from_the_future": 1}) == settings
    assert "ff" not in repr(settings)
    assert set(settings.to_json()) == set(asdict(settings))
