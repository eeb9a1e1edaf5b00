"""Real worker processes: started, killed, taken up by the next control process, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.proxy import control as control_module
from tenantry.cell.proxy import supervisor as supervisor_module
from tenantry.cell.proxy.ports import Cell, LeaseId, WorkerId
from tenantry.cell.proxy.settings import Settings
from tenantry.cell.proxy.supervisor import DoorConfig, Supervisor
from tenantry.errors import DiskFull, OperatorError
from tenantry.postgres import wire
from tenantry.runtime.child import Identity, alive

from .conftest import PASSWORD, ClientSide, Instance, LoopThread, StaticCell, wait_for


@dataclass
class StaticStaff:
    """One cell for all workers, and a record of their coming and going."""

    cell: StaticCell
    registered: list[tuple[WorkerId, list[LeaseId]]] = field(default_factory=list)
    gone: list[WorkerId] = field(default_factory=list)

    def cell_for(self, worker: WorkerId) -> Cell:
        return self.cell

    async def worker_registered(self, worker: WorkerId, leases: list[LeaseId]) -> None:
        self.registered.append((worker, leases))
        self.cell.leases.update(leases)

    async def worker_gone(self, worker: WorkerId) -> None:
        self.gone.append(worker)


class Building(ClientSide):
    """One door of worker processes, which control processes come and go for."""

    def __init__(self, instance: Instance, thread: LoopThread, directory: Path) -> None:
        self.instance = instance
        self.thread = thread
        self.config = DoorConfig(
            address=("127.0.0.1", 0),
            directory=directory / "door",
            settings=Settings(secret=b"s" * 32, report_seconds=0.2, drain_seconds=0.2, patience_seconds=30),
            log_path=directory / "door.log",
        )
        self.supervisors: list[Supervisor] = []

    def open(self, **changes: Any) -> tuple[Supervisor, StaticStaff]:
        """A control process begins."""
        self.config = replace(self.config, **changes)
        staff = StaticStaff(StaticCell(self.instance))

        async def start() -> Supervisor:
            supervisor = Supervisor(self.config, staff)
            self.supervisors.append(supervisor)
            await supervisor.start()
            return supervisor

        supervisor = self.thread.run(start())
        self.port = supervisor.address[1]
        return supervisor, staff

    def close(self) -> list[Identity]:
        workers = [identity for supervisor in self.supervisors for identity in supervisor.workers]
        for supervisor in self.supervisors:
            self.thread.run(supervisor.stop())
        return workers


@pytest.fixture
def building(instance: Instance, loop_thread: LoopThread, workdir: Path) -> Iterator[Building]:
    made = Building(instance, loop_thread, workdir)
    yield made
    workers = made.close()
    assert not [worker for worker in workers if alive(worker)]


def test_worker_processes_serve_and_leave_nothing(building: Building):
    supervisor, staff = building.open(workers=2)
    assert len(supervisor.workers) == 2
    with building.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)
        assert len(staff.cell.leases) == 1
    wait_for(lambda: not staff.cell.leases)
    wait_for(lambda: sum(t.connections_opened for t in staff.cell.traffic) == 1)
    workers = supervisor.workers
    building.thread.run(supervisor.stop())
    building.thread.run(supervisor.stop())
    assert not [worker for worker in workers if alive(worker)]
    assert len(staff.gone) == 2
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", building.port), 1)
    assert sorted(path.name for path in building.config.directory.iterdir()) == []


def test_a_killed_worker_is_replaced_and_acknowledged_commits_are_there(building: Building):
    supervisor, staff = building.open()
    with building.connect() as client:
        client.execute("drop table if exists written; create table written (n int)")
    acknowledged: list[int] = []

    def write() -> None:
        try:
            with building.connect() as client:
                for n in range(1_000_000):
                    client.execute("insert into written values (%s)", [n])
                    acknowledged.append(n)
        except psycopg.OperationalError:
            return

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: len(acknowledged) > 50)
    (victim,) = supervisor.workers
    os.kill(victim.pid, signal.SIGKILL)
    writer.join(10)
    assert not writer.is_alive()
    wait_for(lambda: len(staff.gone) == 1 and len(staff.registered) == 2)
    assert staff.gone == [staff.registered[0][0]]
    with building.connect() as client:
        found = {n for (n,) in client.execute("select n from written").fetchall()}
    assert found >= set(acknowledged)


def test_sessions_go_on_while_the_control_process_is_replaced(building: Building):
    first, staff = building.open()
    workers = first.workers
    with building.connect() as client:
        (lease,) = staff.cell.leases
        building.thread.run(first.detach())
        building.thread.run(first.detach())
        assert client.execute("select 41 + 1").fetchone() == (42,)
        # A new client waits for the next control process.
        found: list[object] = []

        def come_late() -> None:
            with building.connect() as client:
                found.append(client.execute("select 7").fetchone())

        late = threading.Thread(target=come_late)
        late.start()
        second, staff = building.open()
        assert second.workers == workers
        assert staff.registered[0][1] == [lease]
        late.join(30)
        assert found == [(7,)]
        assert client.execute("select 'still here'").fetchone() == ("still here",)
        assert lease in staff.cell.leases
    wait_for(lambda: lease not in staff.cell.leases)


def test_without_a_control_process_clients_wait_only_so_long(building: Building):
    first, _ = building.open(settings=replace(building.config.settings, patience_seconds=0.5))
    building.thread.run(first.detach())
    with pytest.raises(psycopg.OperationalError, match="the server is restarting"):
        building.connect(connect_timeout=15)
    building.open()


def test_a_session_that_ended_meanwhile_gives_its_lease_back(building: Building):
    first, staff = building.open()
    kept, ended = building.connect(), building.connect()
    wait_for(lambda: len(staff.cell.leases) == 2)
    building.thread.run(first.detach())
    its = "select from pg_stat_activity where pid = %s"
    pid = ended.info.backend_pid
    ended.close()
    with kept:
        wait_for(lambda: kept.execute(its, [pid]).fetchone() is None)
        _, staff = building.open()
        # It may have been named in the moment in which it ended; then it is given back behind that.
        wait_for(lambda: len(staff.cell.leases) == 1)
        kept.execute("select 1")


def test_a_taken_port_is_an_operator_error(building: Building):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OperatorError, match=f"127.0.0.1:{port}: the port is taken"):
            building.open(address=("127.0.0.1", port))


def test_a_drained_session_is_told(building: Building):
    supervisor, _ = building.open()
    with building.connect() as client:
        client.execute("select 1")
        building.thread.run(supervisor.stop())
        with pytest.raises(psycopg.errors.AdminShutdown):
            client.execute("select 1")


def serves(worker: Identity, client: socket.socket) -> bool:
    """Whether the other end of a client's connection is this process's."""
    port = f":{client.getsockname()[1]:04X}"
    connections = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    held: set[str] = set()
    for entry in Path(f"/proc/{worker.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            held.add(os.readlink(entry))
    return any(f"socket:[{found[9]}]" in held for found in connections if found[2].endswith(port))


def test_a_cancel_request_finds_the_worker_whose_key_it_is(building: Building):
    supervisor, _ = building.open(workers=2)
    with building.raw() as client:
        client.startup()
        client.prove()
        pid, key = wire.parse_backend_key_data(client.until(b"K").body)
        client.until(b"Z")
        (owner,) = [worker for worker in supervisor.workers if serves(worker, client.sock)]
        client.query("select pg_sleep(60)")
        client.sock.settimeout(0.3)
        for _ in range(50):  # A request that comes before the query has begun cancels nothing.
            os.kill(owner.pid, signal.SIGSTOP)
            try:
                # Only the other one can accept this.
                with building.raw(wire.cancel_request(pid, key)) as stranger:
                    stranger.sock.settimeout(0.2)
                    with pytest.raises(TimeoutError):
                        stranger.sock.recv(1)
                    os.kill(owner.pid, signal.SIGCONT)
                    stranger.sock.settimeout(10)
                    assert stranger.at_end()
            finally:
                os.kill(owner.pid, signal.SIGCONT)
            try:
                assert wire.parse_error(client.until(b"E").body)["C"] == "57014"
                return
            except TimeoutError:
                continue
        pytest.fail("not cancelled")


def test_a_worker_that_hangs_is_not_waited_for(building: Building, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor_module, "ADOPT_SECONDS", 0.5)
    first, _ = building.open()
    (hung,) = first.workers
    building.thread.run(first.detach())
    os.kill(hung.pid, signal.SIGSTOP)
    second, staff = building.open()
    assert not alive(hung)
    assert second.workers[0] != hung
    assert [worker.split("-")[1] for worker in staff.gone] == [str(hung.pid)]
    building.connect().close()


def test_a_worker_that_hangs_keeps_nobody_from_stopping(building: Building, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(control_module, "ASK_SECONDS_MAX", 0.3)
    monkeypatch.setattr(supervisor_module, "END_SECONDS", 0.3)
    supervisor, _ = building.open()
    (hung,) = supervisor.workers
    os.kill(hung.pid, signal.SIGSTOP)

    async def stop() -> None:
        async with asyncio.timeout(10):
            await supervisor.stop(0)

    try:
        building.thread.run(stop())
    finally:
        os.kill(hung.pid, signal.SIGKILL) if alive(hung) else None
    wait_for(lambda: not alive(hung))


def test_a_dead_worker_is_replaced_where_the_list_of_workers_cannot_be_written(
    building: Building, monkeypatch: pytest.MonkeyPatch
):
    supervisor, _ = building.open()
    (first,) = supervisor.workers
    write, failures = supervisor._write_registry, iter([DiskFull("no space", next_step="make some")])

    def full_once() -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        write()

    monkeypatch.setattr(supervisor, "_write_registry", full_once)
    os.kill(first.pid, signal.SIGKILL)
    wait_for(lambda: supervisor.open and first not in supervisor.workers)
    building.connect().close()


def test_a_worker_may_register_before_whoever_started_it_hears_of_it(
    building: Building, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(supervisor_module, "START_SECONDS", 5.0)
    spawn = supervisor_module.child.spawn

    def late(*arguments: Any, **named: Any) -> Identity:
        identity = spawn(*arguments, **named)
        wait_for(lambda: building.supervisors[-1].open)
        return identity

    monkeypatch.setattr(supervisor_module.child, "spawn", late)
    supervisor, staff = building.open()
    (worker,) = supervisor.workers
    building.connect().close()
    building.thread.run(supervisor.stop())
    assert not alive(worker) and len(staff.gone) == 1


def test_a_worker_that_is_being_started_is_ended_with_the_others(building: Building, monkeypatch: pytest.MonkeyPatch):
    supervisor, _ = building.open()
    (first,) = supervisor.workers
    spawn, begun, may_go_on, started = (
        supervisor_module.child.spawn,
        threading.Event(),
        threading.Event(),
        list[Identity](),
    )

    def late(*arguments: Any, **named: Any) -> Identity:
        begun.set()
        assert may_go_on.wait(15)
        started.append(spawn(*arguments, **named))
        return started[0]

    monkeypatch.setattr(supervisor_module.child, "spawn", late)
    os.kill(first.pid, signal.SIGKILL)
    assert begun.wait(15), "a successor is being started"
    threading.Timer(0.3, may_go_on.set).start()
    building.thread.run(supervisor.stop())
    wait_for(lambda: bool(started))
    try:
        assert not alive(started[0])
    finally:
        os.kill(started[0].pid, signal.SIGKILL) if alive(started[0]) else None


def test_a_worker_of_another_version_finishes_its_sessions(building: Building, monkeypatch: pytest.MonkeyPatch):
    first, _ = building.open()
    (old,) = first.workers
    with building.connect() as client:
        building.thread.run(first.detach())
        monkeypatch.setattr(supervisor_module, "PROTOCOL_VERSION", "next")
        port = building.port
        second, staff = building.open(address=("127.0.0.1", port))
        assert len(second.workers) == 2
        for _ in range(5):
            building.connect().close()
        assert client.execute("select 'old session'").fetchone() == ("old session",)
    wait_for(lambda: not alive(old))
    wait_for(lambda: len(staff.gone) == 1)
    assert len(second.workers) == 1
    building.connect().close()


def test_a_door_that_moves_leaves_open_sessions_alone(building: Building):
    first, _ = building.open()
    (old,) = first.workers
    old_port = building.port
    with building.connect() as client:
        building.thread.run(first.detach())
        with socket.create_server(("127.0.0.1", 0)) as free:
            new_port = free.getsockname()[1]
        building.open(address=("127.0.0.1", new_port))
        assert building.port == new_port
        building.connect().close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", old_port), 20)
        assert client.execute("select 1").fetchone() == (1,)
    wait_for(lambda: not alive(old))


@pytest.mark.parametrize("written", [None, "not json", "[[1]]"])
def test_a_lost_list_of_workers_loses_no_session(building: Building, written: str | None):
    first, _ = building.open()
    workers = first.workers
    with building.connect() as client:
        building.thread.run(first.detach())
        registry = building.config.directory / "workers.json"
        registry.unlink() if written is None else registry.write_text(written)
        second, _ = building.open(address=("127.0.0.1", building.port))
        assert second.workers == workers
        assert client.execute("select 1").fetchone() == (1,)


def test_workers_that_do_not_come_up_are_an_operator_error(building: Building, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor_module.sys, "executable", "/bin/false")
    with pytest.raises(OperatorError, match="did not come up"):
        building.open()
    monkeypatch.setattr(supervisor_module.sys, "executable", "/nonexistent")
    with pytest.raises(OperatorError, match="cannot execute"):
        building.open()


def test_a_worker_that_is_told_to_end_by_signal_drains(building: Building):
    supervisor, staff = building.open()
    (worker,) = supervisor.workers
    with building.connect() as client:
        os.kill(worker.pid, signal.SIGTERM)
        wait_for(lambda: not alive(worker))
        with pytest.raises(psycopg.errors.AdminShutdown):
            client.execute("select 1")
    wait_for(lambda: len(staff.registered) == 2)  # Nobody asked for fewer workers.
    building.connect().close()


def test_three_hundred_clients_at_once(building: Building):
    """None is refused by the door; the instance has room for 250, and says so to the others."""
    # A machine that is busy with other tests makes these clients slow.
    building.open(settings=replace(building.config.settings, handshake_seconds=60, wake_seconds=60))

    async def one() -> str:
        try:
            client = await psycopg.AsyncConnection.connect(building.dsn(connect_timeout=60))
        except psycopg.OperationalError as error:
            return error.sqlstate or str(error)
        async with client:
            return "ok"

    async def everyone() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(300)))

    outcomes = asyncio.run(everyone())
    assert {outcome for outcome in outcomes if "slots" not in outcome and "too many" not in outcome} == {"ok"}


def test_secrets_are_in_no_list_log_or_error(building: Building):
    supervisor, _ = building.open()
    building.connect().close()
    with pytest.raises(psycopg.OperationalError):
        building.connect(password="a wrong secret")
    (worker,) = supervisor.workers
    shown = Path(f"/proc/{worker.pid}/cmdline").read_bytes() + Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert building.config.log_path is not None
    shown += building.config.log_path.read_bytes()
    for path in building.config.directory.iterdir():
        shown += path.read_bytes() if path.is_file() else b""
    for secret in (PASSWORD, "a wrong secret", "SCRAM-SHA-256$", (b"s" * 32).hex()):
        assert secret.encode() not in shown
