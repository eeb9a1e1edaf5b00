"""What happens when something dies at night: acknowledged commits are there, sessions go on, others are refused."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tenantry.errors import OperatorError


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)


class Writer(threading.Thread):
    """Commits numbers one after another, connecting anew whenever the connection breaks."""

    def __init__(self, uri: str) -> None:
        super().__init__(daemon=True)
        self.uri = uri
        self.acknowledged: list[int] = []
        self.breaks = 0
        self.done = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.done.is_set():
            try:
                with psycopg.connect(self.uri, autocommit=True, connect_timeout=30) as connection:
                    while not self.done.is_set():
                        number += 1
                        connection.execute("insert into log values (%s)", (number,))
                        self.acknowledged.append(number)
            except psycopg.OperationalError:
                self.breaks += 1

    def wait_for_more(self, commits: int) -> None:
        before = len(self.acknowledged)
        until(lambda: len(self.acknowledged) > before + commits, "commits go on")

    def finish(self) -> None:
        self.done.set()
        self.join(30)


def test_postmasters_killed_under_writes_lose_no_acknowledged_commit(
    make_cell: Any, api: Any, connect: Any, postgres_pids: Callable[[Path], list[int]]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    cell = make_cell()
    cell.start()
    client = api(cell)
    uri = client.uri(client.create("ACME")["project"]["id"])
    with connect(uri) as connection:
        connection.execute("create table log (n int primary key)")
    writer = Writer(uri)
    writer.start()
    for kill in range(4):
        writer.wait_for_more(10)
        time.sleep(chance.random() * 0.1)
        (pid,) = postgres_pids(cell.data)
        os.kill(pid, signal.SIGKILL)
        until(lambda k=kill: writer.breaks > k, "the client noticed")
    writer.wait_for_more(10)
    writer.finish()
    with connect(uri) as connection:
        there = {row[0] for row in connection.execute("select n from log")}
    assert set(writer.acknowledged) <= there
    assert len(there) - len(writer.acknowledged) <= 4 + 1, "at most the commits in flight are there unannounced"


def test_sessions_go_on_when_the_control_process_is_killed_and_comes_back(
    make_cell: Any, api: Any, connect: Any, postgres_pids: Callable[[Path], list[int]]
) -> None:
    cell = make_cell("d", "--suspend-after", "1")
    cell.start()
    client = api(cell)
    uri = client.uri(client.create("ACME")["project"]["id"])
    idle_uri = client.uri(client.create("Idle")["project"]["id"])
    with connect(uri) as connection:
        connection.execute("create temporary table mine (n int)")
        with connect(idle_uri) as other:
            other.execute("select 1")
            pids = postgres_pids(cell.data)
            assert len(pids) == 2
        port = cell.target.postgres_port
        cell.kill()
        connection.execute("insert into mine values (1)")  # with nobody in control
        cell.postgres = f"127.0.0.1:{port}"
        cell.start()
        assert set(postgres_pids(cell.data)) <= set(pids), "nothing was started again"
        connection.execute("insert into mine values (2)")
        until(lambda: len(postgres_pids(cell.data)) == 1, "the idle one goes to sleep")
        time.sleep(1.5)  # longer than the timeout: a busy tenant is never stopped
        assert connection.execute("select count(*) from mine").fetchone() == (2,)
        with connect(uri) as second:
            assert second.execute("select 1").fetchone() == (1,)
    until(lambda: postgres_pids(cell.data) == [], "the last one sleeps when its sessions are gone")
    assert cell.stop() == 0


def test_a_killed_worker_is_replaced_and_its_leases_end(
    make_cell: Any, api: Any, connect: Any, postgres_pids: Callable[[Path], list[int]]
) -> None:
    cell = make_cell("d", "--suspend-after", "1")
    cell.start()
    client = api(cell)
    uri = client.uri(client.create("ACME")["project"]["id"])
    connection = connect(uri)
    connection.execute("create table log (n int); insert into log values (1)")
    worker = next(
        each.pid
        for each in psutil.process_iter(["cmdline", "ppid"])
        if each.info["ppid"] == cell.process.pid and "tenantry.cell.proxy.worker" in (each.info["cmdline"] or ())
    )
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("select 1")
    connection.close()
    with connect(uri) as again:
        assert again.execute("select n from log").fetchone() == (1,)
    until(lambda: postgres_pids(cell.data) == [], "the dead worker's lease does not keep it awake")


def test_two_cells_on_one_data_directory(make_cell: Any, workdir: Path) -> None:
    cell = make_cell()
    cell.start()
    second = make_cell()
    with pytest.raises(OperatorError, match=f"another cell .pid {cell.process.pid}. runs on"):
        second.start()
    assert cell.target.pid == cell.process.pid, "the first one still answers"


def test_a_taken_port_is_named(make_cell: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("http", "postgres"):
            cell = make_cell(option)
            setattr(cell, option, f"127.0.0.1:{port}")
            with pytest.raises(OperatorError, match=f"127.0.0.1:{port}: the port is taken") as caught:
                cell.start()
            assert f"--{option}" in str(caught.value)
            assert cell.leftovers() == []


@pytest.mark.parametrize("rounds", [40, pytest.param(1_000, marks=[pytest.mark.slow, pytest.mark.timeout(1_800)])])
def test_suspend_races_connect(make_cell: Any, api: Any, connect: Any, rounds: int) -> None:
    """Whoever connects while the instance is being put to sleep waits for it to wake again; nobody is turned away."""
    cell = make_cell()
    cell.start()
    client = api(cell)
    created = client.create("ACME")
    project, endpoint = created["project"]["id"], created["endpoints"][0]["id"]
    uri = client.uri(project)
    failures: list[str] = []
    done = threading.Event()

    def hammer() -> None:
        while not done.is_set():
            try:
                with connect(uri) as connection:
                    connection.execute("select 1")
            except psycopg.OperationalError as error:
                # A session that was open when an operator insisted on sleep is ended; that one may say so.
                if "terminating connection due to administrator command" not in str(error) and "closed" not in str(
                    error
                ):
                    failures.append(str(error))

    threads = [threading.Thread(target=hammer, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(rounds):
        client.call("POST", f"/projects/{project}/endpoints/{endpoint}/suspend")
    done.set()
    for thread in threads:
        thread.join(30)
    assert failures == []
