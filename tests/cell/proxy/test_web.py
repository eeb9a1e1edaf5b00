"""The HTTP port: what is passed on to the control process, and how the port outlives that process."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tenantry.cell.proxy import certificates
from tenantry.cell.proxy.others import Others
from tenantry.cell.proxy.supervisor import WebConfig
from tenantry.cell.proxy.web import Web
from tenantry.runtime.child import alive

from .conftest import DATABASE, ENDPOINT, PASSWORD, ROLE, DoorMaker, Instance, LoopThread, wait_for
from .test_supervisor import Building

STRING = f"postgresql://{ROLE}:{quote(PASSWORD, safe='')}@{ENDPOINT}/{DATABASE}"


@dataclass
class Control:
    """A control process's HTTP server, which comes and goes."""

    path: Path
    thread: LoopThread
    asked: list[str] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    heard_gone: asyncio.Event = field(default_factory=asyncio.Event)
    server: uvicorn.Server | None = None
    serving: asyncio.Task[None] | None = None

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"])
        await _ROUTES[scope["path"]](self, scope, receive, send)

    def start(self) -> None:
        async def start() -> None:
            listener = socket.socket(socket.AF_UNIX)
            self.path.unlink(missing_ok=True)
            listener.bind(str(self.path))
            listener.listen(16)
            config = uvicorn.Config(
                self.app,  # pyright: ignore[reportArgumentType] - its scopes are typed otherwise
                interface="asgi3",
                lifespan="off",
                loop="none",
                log_config=None,
                timeout_graceful_shutdown=1,
            )
            self.server = uvicorn.Server(config)
            self.serving = asyncio.ensure_future(self.server._serve([listener]))
            while not self.server.started:
                await asyncio.sleep(0.005)

        self.thread.run(start())

    def stop(self) -> None:
        async def stop() -> None:
            if self.server is not None and self.serving is not None:
                self.server.should_exit = True
                await asyncio.wait([self.serving])

        self.thread.run(stop())


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _echo(control: Control, scope: Scope, receive: Receive, send: Send) -> None:
    body = await _body(receive)
    seen = {
        "method": scope["method"],
        "target": (scope["raw_path"] + b"?" + scope["query_string"]).decode(),
        "headers": [[name.decode(), value.decode("latin-1")] for name, value in scope["headers"]],
        "length": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
    }
    await send({"type": "http.response.start", "status": 201, "headers": [(b"x-a", b"1"), (b"x-a", b"2")]})
    await send({"type": "http.response.body", "body": json.dumps(seen).encode()})


async def _nothing(control: Control, scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _stream(control: Control, scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"first\n", "more_body": True})
    await control.let_go.wait()
    for _ in range(100):
        await send({"type": "http.response.body", "body": b"y" * 100_000, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _wait(control: Control, scope: Scope, receive: Receive, send: Send) -> None:
    await _body(receive)
    assert (await receive())["type"] == "http.disconnect"
    control.heard_gone.set()


async def _break(control: Control, scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    raise ZeroDivisionError


_ROUTES: dict[str, Callable[[Control, Scope, Receive, Send], Awaitable[None]]] = {
    "/echo": _echo,
    "/a b": _echo,
    "/nothing": _nothing,
    "/stream": _stream,
    "/wait": _wait,
    "/break": _break,
}


@pytest.fixture
def control(workdir: Path, loop_thread: LoopThread) -> Iterator[Control]:
    made = Control(workdir / "api.sock", loop_thread)
    made.start()
    yield made
    made.let_go.set()
    made.stop()


@pytest.fixture
def client(
    open_door: DoorMaker, control: Control, loop_thread: LoopThread, request: pytest.FixtureRequest
) -> Iterator[httpx.Client]:
    """A client of an HTTP port that passes all on but ``/sql``. Its parameter is how long it waits for the control."""
    door = open_door(patience_seconds=getattr(request, "param", 5.0))

    async def start() -> tuple[Web, int]:
        listener = socket.create_server(("127.0.0.1", 0))
        web = Web(listener, door.house, Others(control.path, door.house), None)
        port = listener.getsockname()[1]
        web.open()
        return web, port

    web, port = loop_thread.run(start())
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as made:
        yield made

    async def stop() -> None:
        await web.drain(0)

    loop_thread.run(stop())


def test_requests_are_passed_on_as_they_are(client: httpx.Client):
    body = os.urandom(3_000_000)
    answer = client.put(
        "/echo?a=1&b=%2F%20&a=2", content=body, headers=[(b"X-Forwarded-For", b"6.6.6.6"), (b"X-B", b"\xfc")]
    )
    assert answer.status_code == 201
    assert answer.headers.get_list("x-a") == ["1", "2"]
    seen = answer.json()
    assert (seen["method"], seen["target"]) == ("PUT", "/echo?a=1&b=%2F%20&a=2")
    assert (seen["length"], seen["digest"]) == (len(body), hashlib.sha256(body).hexdigest())
    headers = seen["headers"]
    assert [value for name, value in headers if name == "x-forwarded-for"] == ["127.0.0.1"]
    assert ["x-forwarded-proto", "http"] in headers
    assert ["x-b", "ü"] in headers
    assert [value for name, value in headers if name == "host"] == [client.base_url.netloc.decode()]
    assert client.get("/a%20b").json()["target"] == "/a%20b?"


def test_bodies_of_unknown_length_and_none(client: httpx.Client):
    parts = [b"x" * 100_000] * 5
    assert client.post("/echo", content=iter(parts)).json()["length"] == 500_000
    assert client.get("/echo").json()["length"] == 0
    assert client.delete("/echo").json()["method"] == "DELETE"
    head = client.head("/echo")
    assert (head.status_code, head.content) == (201, b"")
    assert client.get("/nothing").status_code == 204


def test_answers_are_passed_on_as_they_come(client: httpx.Client, control: Control, loop_thread: LoopThread):
    with client.stream("GET", "/stream") as answer:
        parts = answer.iter_bytes()
        assert next(parts) == b"first\n"
        loop_thread.loop.call_soon_threadsafe(control.let_go.set)
        assert sum(len(part) for part in parts) == 10_000_000
    assert client.get("/echo").status_code == 201


def test_a_client_that_goes_away_is_heard_of(client: httpx.Client, control: Control):
    with socket.create_connection((client.base_url.host, client.base_url.port or 0)) as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        wait_for(lambda: control.asked == ["/wait"])
    wait_for(control.heard_gone.is_set)


def test_an_answer_that_breaks_off_does_not_look_whole(client: httpx.Client):
    with pytest.raises(httpx.TransportError):
        client.get("/break")
    assert client.get("/echo").status_code == 201


def test_requests_wait_for_the_next_control_process(client: httpx.Client, control: Control, loop_thread: LoopThread):
    assert client.get("/echo").status_code == 201
    control.stop()
    loop_thread.loop.call_soon_threadsafe(loop_thread.loop.call_later, 0.3, lambda: None)
    answers: list[httpx.Response] = []

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=client.base_url, timeout=20) as other:
            answers.append(await other.post("/echo", content=b"x" * 500_000))

    asking = asyncio.run_coroutine_threadsafe(ask(), loop_thread.loop)
    control.start()
    asking.result(20)
    assert answers[0].json()["length"] == 500_000
    assert control.asked == ["/echo", "/echo"]


@pytest.mark.parametrize("client", [0.3], indirect=True, ids=["soon"])
def test_without_a_control_process_there_is_an_answer(client: httpx.Client, control: Control):
    control.stop()
    answer = client.get("/echo")
    assert answer.status_code == 503
    told = answer.json()
    assert (told["code"], told["message"]) == ("UNAVAILABLE", "the server is restarting, try again")
    assert told["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["retry-after"] == "1"
    assert set(answer.json()) == {"request_id", "code", "message"}


# -------------------------------------------------------------------------------------------- in processes


@pytest.fixture
def building(instance: Instance, loop_thread: LoopThread, workdir: Path) -> Iterator[Building]:
    made = Building(instance, loop_thread, workdir)
    yield made
    workers = made.close()
    assert not [worker for worker in workers if alive(worker)]


def sql(url: str, text: str, verify: Any = False) -> list[Any]:
    headers = {"Neon-Connection-String": STRING, "Connection": "close"}
    answer = httpx.post(f"{url}/sql", json={"query": text}, headers=headers, verify=verify, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["rows"]


def test_the_port_outlives_the_control_process(building: Building):
    first, _ = building.open(web=WebConfig(("127.0.0.1", 0), tls=False))
    port = first.web_address[1]
    url = f"http://127.0.0.1:{port}"
    assert sql(url, "select 1 as n") == [{"n": 1}]
    (worker,) = first.workers
    building.thread.run(first.detach())
    second, staff = building.open(web=WebConfig(("127.0.0.1", port), tls=False))
    assert second.workers == [worker]
    assert second.web_address[1] == port
    assert sql(url, "select 2 as n") == [{"n": 2}]
    wait_for(lambda: not staff.cell.leases)
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: len(staff.registered) == 2)
    assert sql(url, "select 3 as n") == [{"n": 3}], "and a worker"
    building.thread.run(second.stop())
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_worker_whose_port_is_not_wanted_any_more_takes_no_new_clients(building: Building):
    first, _ = building.open(web=WebConfig(("127.0.0.1", 0), tls=False))
    (old,) = first.workers
    port = first.web_address[1]
    building.thread.run(first.detach())
    second, _ = building.open(web=WebConfig(("127.0.0.1", 0), tls=False))
    assert second.workers == [old], "any port will do"
    assert second.web_address[1] == port
    building.thread.run(second.detach())
    third, _ = building.open(web=None)
    assert old not in third.workers or len(third.workers) == 2
    wait_for(lambda: old not in third.workers)
    with building.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)


def test_tls_on_the_http_port(building: Building, new_workdir: Callable[[str], Path]):
    directory = new_workdir("tls")
    pair = certificates.own(directory, ["127.0.0.1"])
    first, _ = building.open(web=WebConfig(("127.0.0.1", 0), tls=True), tls=pair)
    port = first.web_address[1]
    trust = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    assert sql(f"https://127.0.0.1:{port}", "select 1 as n", trust) == [{"n": 1}]
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/sql", timeout=5)
    building.thread.run(first.detach())
    # The next one has another certificate, which a worker that lives on shows from then on.
    other = new_workdir("tls2")
    renewed = certificates.own(other, ["127.0.0.1"])
    second, _ = building.open(web=WebConfig(("127.0.0.1", port), tls=True), tls=renewed)
    trust = ssl.create_default_context(cafile=str(other / "ca.crt"))
    assert sql(f"https://127.0.0.1:{port}", "select 2 as n", trust) == [{"n": 2}]
    building.thread.run(second.detach())
    (old,) = second.workers or first.workers or [None]
    third, _ = building.open(web=WebConfig(("127.0.0.1", port), tls=False), tls=renewed)
    assert old not in third.workers or len(third.workers) == 2
    assert sql(f"http://127.0.0.1:{port}", "select 3 as n") == [{"n": 3}]
