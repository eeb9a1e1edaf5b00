"""``/v2``: the protocol in a WebSocket's messages, and the sessions behind it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)

from tenantry.postgres import wire

from .conftest import DATABASE, ENDPOINT, PASSWORD, ROLE, Instance, OpenWeb, StaticCell, WebMaker, wait_for


class WebSocket:
    """A client that sends what the test says, and reads messages of the protocol within those of the WebSocket."""

    def __init__(self, web: OpenWeb, target: str = "/v2", host: str = f"{ENDPOINT}.localhost") -> None:
        self.sock = socket.create_connection(("127.0.0.1", web.port), timeout=20)
        self._connection = WSConnection(ConnectionType.CLIENT)
        self.inbox = bytearray()
        self.events: list[Event] = []
        self.say(Request(host=host, target=target))
        while not self.events:
            assert self.hear()

    def say(self, event: Event) -> None:
        self.sock.sendall(self._connection.send(event))

    def send(self, data: bytes) -> None:
        self.say(BytesMessage(data))

    def hear(self) -> bool:
        """Takes in what has come; False at the end."""
        data = self.sock.recv(65536)
        self._connection.receive_data(data or None)
        for event in self._connection.events():
            if isinstance(event, BytesMessage):
                self.inbox += event.data
            else:
                self.events.append(event)
        return bool(data)

    def until(self, kind: type[Event]) -> Any:
        while not any(isinstance(event, kind) for event in self.events):
            assert self.hear(), self.events
        return next(event for event in self.events if isinstance(event, kind))

    def message(self) -> wire.Message:
        while (message := wire.take_message(self.inbox, bytes_max=2**30)) is None:
            assert self.hear(), self.events
        return message

    def read_to(self, kind: bytes) -> wire.Message:
        while (message := self.message()).kind != kind:
            pass
        return message

    def startup(self, **parameters: str) -> bytes:
        return wire.startup({"user": ROLE, "database": DATABASE, "application_name": "tunnel", **parameters})

    def login(self, password: str = PASSWORD, **parameters: str) -> None:
        self.send(self.startup(**parameters))
        assert self.message() == wire.Message(b"R", b"\0\0\0\3")
        self.send(wire.message(b"p", password.encode() + b"\0"))

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


@pytest.fixture
def connect(open_web: WebMaker) -> Iterator[Callable[..., WebSocket]]:
    """Opens WebSockets of one port; keywords are of the WebSocket."""
    opened: list[WebSocket] = []
    web = open_web()

    def make(**words: Any) -> WebSocket:
        opened.append(WebSocket(web, **words))
        return opened[-1]

    yield make
    for client in opened:
        client.sock.close()
    wait_for(lambda: not web.cell.leases)
    wait_for(lambda: not web.house.tunnels)
    wait_for(lambda: web.house.limits.connections == 0)


def error(client: WebSocket) -> dict[str, str]:
    fields = wire.parse_error(client.read_to(b"E").body)
    assert client.until(CloseConnection).code == 1000
    return fields


def test_all_at_once_before_anything_is_answered(connect: Callable[..., WebSocket]):
    client = connect()
    password = wire.message(b"p", PASSWORD.encode() + b"\0")
    client.send(client.startup() + password + wire.query("select 1") + wire.query("select 2"))
    kinds = [client.message().kind for _ in range(4)]
    assert kinds[:2] == [b"R", b"R"]
    client.read_to(b"K")
    client.read_to(b"Z")
    for n in (b"1", b"2"):
        assert client.read_to(b"D").body.endswith(n)
    client.read_to(b"Z")
    client.send(wire.terminate())
    assert client.until(CloseConnection).code == 1000
    assert client.hear() is False


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_messages_of_the_two_protocols_need_not_fit(connect: Callable[..., WebSocket], size: int):
    client = connect()
    sent = client.startup() + wire.message(b"p", PASSWORD.encode() + b"\0") + wire.query("select 'x'")
    for at in range(0, len(sent), size):
        client.say(BytesMessage(sent[at : at + size], message_finished=at % 2 == 0 or at + size >= len(sent)))
    assert client.read_to(b"D").body.endswith(b"x")


@pytest.mark.parametrize(
    "words",
    [
        {"host": f"{ENDPOINT}.db.example.com:443"},
        {"host": f"{ENDPOINT}-pooler.db.example.com"},
        {"host": "127.0.0.1", "target": f"/v2?address={ENDPOINT}.localhost:5432"},
    ],
)
def test_the_ways_to_name_an_endpoint(connect: Callable[..., WebSocket], words: dict[str, str]):
    client = connect(**words)
    client.login()
    client.read_to(b"Z")


def test_an_endpoint_in_the_options(connect: Callable[..., WebSocket]):
    client = connect(host="127.0.0.1:7700")
    client.login(options=f"endpoint={ENDPOINT}")
    client.read_to(b"Z")
    nameless = connect(host="127.0.0.1:7700")
    nameless.send(nameless.startup())
    assert error(nameless)["C"] == "08004"
    two = connect()
    two.send(two.startup(options="endpoint=ep-another"))
    assert error(two)["C"] == "08P01"


def test_who_is_not_let_in_looks_the_same(open_web: WebMaker):
    web = open_web()
    told: set[tuple[tuple[str, str], ...]] = set()
    for host, password in ((f"{ENDPOINT}.localhost", "wrong"), ("ep-no-such-a1b2c3d4.localhost", PASSWORD)):
        with WebSocket(web, host=host) as client:
            client.login(password)
            told.add(tuple(error(client).items()))
    assert len(told) == 1
    assert dict(next(iter(told)))["C"] == "28P01"
    assert web.cell.woken == 0
    assert len(web.cell.failed) == 2


@pytest.mark.parametrize("sent", [b"p\0\0\0\4", b"p\0\0\0\5x", b"p\0\0\0\7a\0\0", b"Q\0\0\0\5\0", b"p\0\2\0\0"])
def test_what_is_no_password(connect: Callable[..., WebSocket], sent: bytes):
    client = connect()
    client.send(client.startup() + sent)
    assert error(client)["C"] == "08P01"


def test_only_over_a_websocket_is_a_password_asked_for(open_web: WebMaker):
    web = open_web()
    with web.door.raw() as client:
        client.startup()
        assert client.message().body[:4] == b"\0\0\0\n"


def test_no_encryption_is_needed_within(open_web: WebMaker):
    web = open_web(tls_required=True)
    with WebSocket(web) as client:
        client.login()
        client.read_to(b"Z")


def test_ping_text_and_other_paths(connect: Callable[..., WebSocket], open_web: WebMaker):
    client = connect()
    assert client.until(AcceptConnection)
    client.say(Ping(b"are you there"))
    assert client.until(Pong).payload == b"are you there"
    client.say(TextMessage("select 1"))
    assert client.until(CloseConnection).code == 1003
    other = connect(target="/v1")
    assert other.until(RejectConnection).status_code == 404


def test_what_is_no_websocket(connect: Callable[..., WebSocket]):
    client = connect()
    assert client.until(AcceptConnection)
    client.sock.sendall(b"\xff\xff\xff\xff")
    assert client.until(CloseConnection).code == 1002
    unmasked = connect()
    unmasked.sock.sendall(b"\x82\x01x")
    assert unmasked.until(CloseConnection).code == 1002


def test_a_goodbye_of_the_websocket_ends_the_session(open_web: WebMaker, instance: Instance):
    web = open_web()
    with WebSocket(web) as client, instance.admin() as admin:
        client.login()
        client.read_to(b"Z")
        of_ours = "select count(*) from pg_stat_activity where application_name = 'tunnel'"
        wait_for(lambda: admin.execute(of_ours).fetchone() == (1,))  # those of the tests before are on their way out
        client.say(CloseConnection(code=1000))
        assert client.until(CloseConnection)
        wait_for(lambda: admin.execute(of_ours).fetchone() == (0,))
    wait_for(lambda: not web.cell.leases)


def test_a_client_that_vanishes_ends_the_session(open_web: WebMaker, instance: Instance):
    web = open_web()
    with instance.admin() as admin:
        with WebSocket(web) as client:
            client.login()
            client.read_to(b"Z")
        wait_for(lambda: not web.cell.leases)
        of_ours = "select count(*) from pg_stat_activity where application_name = 'tunnel'"
        wait_for(lambda: admin.execute(of_ours).fetchone() == (0,))


def test_what_one_side_does_not_take_stops_the_other(open_web: WebMaker, instance: Instance):
    web = open_web()
    with WebSocket(web) as client, instance.admin() as admin:
        client.login()
        client.read_to(b"Z")
        # An answer that is not read: the instance has to wait, and nothing is held for it here.
        client.send(wire.query("select repeat('x', 1000000) from generate_series(1, 60)"))
        waiting = (
            "select count(*)::int from pg_stat_activity"
            " where wait_event = 'ClientWrite' and application_name = 'tunnel'"
        )
        wait_for(lambda: admin.execute(waiting).fetchone() == (1,))
        rows = 0
        while (message := client.message()).kind != b"Z":
            rows += message.kind == b"D"
        assert rows == 60
        # Statements that the instance does not read, because it sleeps.
        client.send(wire.query("select pg_sleep(0.5)"))
        large = wire.query(f"select length('{'y' * 30_000_000}')")
        client.send(large)
        client.read_to(b"Z")
        assert client.read_to(b"D").body.endswith(b"30000000")


def test_at_the_end_sessions_are_told(open_web: WebMaker):
    web = open_web()
    with WebSocket(web) as client:
        client.login()
        client.read_to(b"Z")
        web.door.run(web.web.drain(0.1))
        assert error(client)["C"] == "57P01"


def test_bytes_are_counted(open_web: WebMaker):
    web = open_web()
    with WebSocket(web) as client:
        client.login()
        client.read_to(b"Z")
        client.send(wire.query("select repeat('x', 100000)"))
        client.read_to(b"Z")
    wait_for(lambda: sum(item.bytes_out for item in web.cell.traffic) > 100_000)
    assert sum(item.connections_opened for item in web.cell.traffic) == 1


def test_an_instance_that_does_not_start(open_web: WebMaker, instance: Instance):
    web = open_web(cell=StaticCell(instance, broken=True))
    with WebSocket(web) as client:
        client.login()
        fields = error(client)
    assert (fields["C"], fields["M"]) == ("57P03", "the database could not be started")
