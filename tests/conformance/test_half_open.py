"""Thousands of connections to a cell's ports that never come to ask anything, and real clients among them."""

from __future__ import annotations

import resource
import selectors
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import pytest

from tenantry.cell.proxy.settings import Settings
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import ProjectId
from tenantry.postgres import wire
from tenantry.testing.throwaway import ThrowawayCell

BYTES_PER_CONNECTION_MAX: Final = 16 * 2**10
"""Of a worker's memory; with a socket's buffers, which are the kernel's, it is more."""
BYTES_LEFT_MAX: Final = 8 * 2**20
"""What a worker may hold more in a second flood than in the first: nothing but noise."""
SPARE_DESCRIPTORS: Final = 200
SOURCES: Final = [f"127.0.0.{number}" for number in range(2, 12)]
"""So that neither the door's bound for one address nor a machine's ports for it are the end of it."""
FIRST_WORDS: Final = {
    "postgres": [  # nothing, half a startup packet, half a TLS handshake
        b"",
        wire.startup({"user": "neondb_owner", "database": "neondb"})[:20],
        wire.ssl_request() + b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    "http": [b"", b"POST /sql HTTP/1.1\r\nhost: ", b"POST"],
}


@contextmanager
def descriptors(count: int) -> Generator[int]:
    """As many open files as the hard limit permits; how many connections can be held with them, ``count`` at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield count if hard == resource.RLIM_INFINITY else min(count, hard - SPARE_DESCRIPTORS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Flood:
    """Connections that were opened and say no more."""

    def __init__(self, address: tuple[str, int], count: int, words: list[bytes]) -> None:
        self.sockets: list[socket.socket] = []
        for number in range(count):
            client = socket.socket()
            self.sockets.append(client)
            client.settimeout(30)
            client.bind((SOURCES[number % len(SOURCES)], 0))
            client.connect(address)
            if word := words[number % len(words)]:
                client.sendall(word)

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.sockets:
            client.close()

    def wait_closed(self, seconds: float) -> list[bytes]:
        """What each heard until the door closed it; fails when one is still open after ``seconds``."""
        heard = dict.fromkeys(self.sockets, b"")
        with selectors.DefaultSelector() as selector:
            for client in self.sockets:
                selector.register(client, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(seconds)
                assert ready, f"{len(selector.get_map())} of {len(heard)} are still open"
                for key, _ in ready:
                    client: Any = key.fileobj
                    try:
                        data = client.recv(4096)
                    except ConnectionResetError:
                        data = b""
                    heard[client] += data
                    if not data:
                        selector.unregister(client)
        return list(heard.values())


def workers_of(cell: ThrowawayCell) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for child in psutil.Process(cell.process.pid).children(recursive=True):
        try:
            if "tenantry.cell.proxy.worker" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:  # one of Postgres', which come and go
            continue
    return found


def memory_of(workers: list[psutil.Process]) -> int:
    assert workers
    return sum(worker.memory_info().rss for worker in workers)


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("port", FIRST_WORDS)
def test_half_open_connections_keep_nobody_out(port: str, count: int, new_workdir: Callable[[str], Path]) -> None:
    with ExitStack() as stack:
        possible = stack.enter_context(descriptors(count))
        if possible < count:
            print(f"the limit on open files allows {possible} connections, not {count}")
        cell = stack.enter_context(ThrowawayCell(data=new_workdir("half") / "d", options=["--no-fleet"]))
        target = cell.target
        api_url = str(target.api_url)
        with NeonClient(api_url, str(target.api_key)) as client:
            project_id = ProjectId(client.create_project(name="ACME Corp").project.id)
            uri = client.connection_uri(project_id, database_name="neondb", role_name="neondb_owner")
        http = urlsplit(api_url)
        address = {
            "postgres": (str(target.postgres_host), int(target.postgres_port or 0)),
            "http": (str(http.hostname), int(http.port or 0)),
        }[port]

        def answers() -> None:
            with psycopg.connect(uri, connect_timeout=30) as connection:
                assert connection.execute("select 42").fetchone() == (42,)
            headers, body = {"Neon-Connection-String": uri}, {"query": "select 42 as n"}
            answer = httpx.post(f"{http.scheme}://{http.netloc}/sql", headers=headers, json=body, timeout=30)
            assert answer.json()["rows"] == [{"n": 42}]

        workers, settings = workers_of(cell), Settings(secret=b"")
        held = min(possible, settings.handshakes_max * len(workers))
        with psycopg.connect(uri, autocommit=True) as session:
            answers()
            before = memory_of(workers)
            with Flood(address, possible, FIRST_WORDS[port]):
                # Who comes after them has been let in, so they all have been accepted.
                for _ in range(10):
                    answers()
                flooded = memory_of(workers)
                grown = flooded - before
                print(f"{port}: {possible} connections, {held} held: {grown / held:.0f} bytes each")
                assert grown < held * BYTES_PER_CONNECTION_MAX
                assert session.execute("select 42").fetchone() == (42,), "who was in stays in"
            with Flood(address, possible, FIRST_WORDS[port]) as flood:
                answers()
                assert memory_of(workers) < flooded + BYTES_LEFT_MAX, "those who are gone have left nothing"
                heard = flood.wait_closed(max(settings.handshake_seconds, settings.http_head_seconds) + 30)
                answers()
        told = [answer.lstrip(b"S")[:1] for answer in heard]
        if port == "postgres":
            assert set(told) <= {b"E", b""}, "an error, or nothing in the middle of a TLS handshake"
            assert told.count(b"E") >= possible // 3
        else:
            assert set(told) == {b""}
