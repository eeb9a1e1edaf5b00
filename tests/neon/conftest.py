"""The API over a fake cell, and a server that answers as a script says."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from tenantry.neon import transport
from tenantry.neon.client import NeonClient
from tenantry.testing.fake_api import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as api:
        yield api


@pytest.fixture
def client(api: FakeApi) -> Iterator[NeonClient]:
    with NeonClient(api.base_url, api.key) as client:
        yield client


@dataclass
class Reply:
    """What the scripted server does with one request; without a status it breaks the connection."""

    status: int | None = 200
    body: bytes = b'{"regions": []}'
    headers: dict[str, str] = field(default_factory=dict[str, str])
    stall: threading.Event | None = None


@dataclass
class Script:
    base_url: str
    asked: list[str] = field(default_factory=list[str])
    replies: list[Reply] = field(default_factory=list[Reply])


@pytest.fixture
def script() -> Iterator[Script]:
    """A server on loopback that plays ``replies`` in order and notes what it was asked."""
    played = Script("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _play(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            played.asked.append(f"{self.command} {self.path}")
            reply = played.replies.pop(0)
            if reply.stall:
                reply.stall.wait(30)
            if reply.status is None:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _play

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that has given up is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    played.base_url = f"http://127.0.0.1:{server.server_port}/api/v2"
    yield played
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def new_reply() -> type[Reply]:
    return Reply


@pytest.fixture
def even_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """However quick the machine: for clients a second passes each time that one looks at the clock, and none else."""
    monkeypatch.setattr(transport, "_RETRY_SECONDS_FIRST", 0.001)
    looks = itertools.count(1.0)
    monkeypatch.setattr(transport, "time", SimpleNamespace(monotonic=lambda: next(looks)))


Connect = Callable[[str], NeonClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """A client of a base URL, closed after the test."""
    made: list[NeonClient] = []

    def connect(base_url: str) -> NeonClient:
        made.append(NeonClient(base_url, "the-key-hunter2", deadline_seconds=5))
        return made[-1]

    yield connect
    for client in made:
        client.close()
