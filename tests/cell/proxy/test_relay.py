"""What goes through the door: every feature of the protocol, big things, slow peers, ends of streams."""

from __future__ import annotations

import asyncio
import gc
import io
import socket
import threading
import time
from typing import Any

import asyncpg
import pg8000.native
import psutil
import psycopg
import pytest

from tenantry.cell.proxy import door as door_module
from tenantry.postgres import wire

from .conftest import DATABASE, ENDPOINT, PASSWORD, ROLE, DoorMaker, OpenDoor, wait_for

MIB = 2**20


@pytest.fixture
def door(open_door: DoorMaker) -> OpenDoor:
    return open_door()


def test_pipeline_mode(door: OpenDoor):
    with door.connect() as client, client.pipeline():
        answers = [client.execute("select %s::int", [n]) for n in range(500)]
        assert [answer.fetchone() for answer in answers] == [(n,) for n in range(500)]


def test_copy_both_ways(door: OpenDoor):
    rows = [(n, f"row {n} " + "x" * 100) for n in range(20_000)]
    with door.connect() as client, client.cursor() as cursor:
        cursor.execute("create temp table copied (n int, t text)")
        with cursor.copy("copy copied from stdin") as copy:
            for row in rows:
                copy.write_row(row)
        out = io.BytesIO()
        with cursor.copy("copy copied to stdout") as copy:
            for data in copy:
                out.write(data)
    assert out.getvalue() == b"".join(f"{n}\t{t}\n".encode() for n, t in rows)


def test_listen_and_notify(door: OpenDoor):
    with door.connect() as listener, door.connect() as speaker:
        listener.execute("listen news")
        speaker.execute("notify news, 'hello'")
        (heard,) = list(listener.notifies(timeout=30, stop_after=1))
    assert (heard.channel, heard.payload) == ("news", "hello")


def test_large_objects(door: OpenDoor):
    content = bytes(range(256)) * 4096
    with door.connect() as client:
        found = client.execute("select lo_from_bytea(0, %s)", [content]).fetchone()
        assert found is not None
        oid = found[0]
        assert client.execute("select lo_get(%s)", [oid]).fetchone() == (content,)
        client.execute("select lo_unlink(%s)", [oid])


def test_notices_errors_and_transactions(door: OpenDoor):
    with door.connect() as client:
        heard: list[str | None] = []
        client.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        client.execute("do $$begin raise notice 'hi'; end$$")
        assert heard == ["hi"]
        with pytest.raises(psycopg.errors.DivisionByZero), client.transaction():
            client.execute("select 1/0")
        assert client.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_cancel(door: OpenDoor, version: str):
    with door.connect(max_protocol_version=version) as client:
        failed: list[type[BaseException]] = []

        def sleep() -> None:
            try:
                client.execute("select pg_sleep(60)")
            except psycopg.errors.QueryCanceled as error:
                failed.append(type(error))

        thread = threading.Thread(target=sleep)
        thread.start()
        wait_for(lambda: any(relay.bytes_in > 20 for relay in door.house.relays))
        for _ in range(100):  # A request that comes before the query has begun cancels nothing.
            client.cancel_safe(timeout=5)
            thread.join(0.1)
            if not thread.is_alive():
                break
        assert failed == [psycopg.errors.QueryCanceled]


@pytest.mark.parametrize("version", ["3.0", "3.2"])
def test_the_process_id_shown_is_the_one_that_notifications_come_from(door: OpenDoor, version: str):
    with door.connect(max_protocol_version=version) as client:
        client.execute("listen news")
        client.execute("notify news")
        assert [heard.pid for heard in client.notifies(timeout=30, stop_after=1)] == [client.info.backend_pid]
        assert client.execute("select pg_backend_pid()").fetchone() == (client.info.backend_pid,)


def test_a_wrong_cancel_key_cancels_nothing(door: OpenDoor):
    with door.raw() as client, door.raw() as stranger:
        client.startup()
        client.prove()
        pid, key = wire.parse_backend_key_data(client.until(b"K").body)
        client.until(b"Z")
        client.query("select pg_sleep(0.3)")
        wrong = key[:-1] + bytes([255 - key[-1]])
        stranger.sock.sendall(wire.cancel_request(pid, wrong))
        assert stranger.at_end()
        assert door.cell.forwarded == [(pid, wrong)]
        assert client.message().kind == b"T"


def test_keys_are_forgotten_with_their_session(door: OpenDoor):
    for _ in range(3):
        door.connect().close()
    wait_for(lambda: door.door.sessions == 0)
    assert door.house.cancels.sessions == 0


async def _asyncpg(door: OpenDoor) -> list[Any]:
    client = await asyncpg.connect(
        host="127.0.0.1", port=door.port, user=ROLE, password=PASSWORD, database=DATABASE, ssl=False,
        server_settings={"options": f"endpoint={ENDPOINT}"},
    )  # fmt: skip
    try:
        async with client.transaction():
            return [record["n"] async for record in client.cursor("select generate_series(1, 5000) as n")]
    finally:
        await client.close()


def test_asyncpg(door: OpenDoor):
    assert asyncio.run(_asyncpg(door)) == list(range(1, 5001))


def test_asyncpg_by_uri(door: OpenDoor):
    async def ask() -> Any:
        uri = (
            f"postgresql://{ROLE}:pass%20word%2F%C3%BC@127.0.0.1:{door.port}/{DATABASE}"
            f"?options=endpoint%3D{ENDPOINT}&sslmode=disable"
        )
        client = await asyncpg.connect(uri)
        try:
            return await client.fetchval("select current_database()")
        finally:
            await client.close()

    assert asyncio.run(ask()) == DATABASE


def test_pg8000(door: OpenDoor):
    client = pg8000.native.Connection(
        ROLE, host="127.0.0.1", port=door.port, password=PASSWORD, database=DATABASE, ssl_context=False,
        startup_params={"options": f"endpoint={ENDPOINT}"},
    )  # fmt: skip
    try:
        assert client.run("select :n::int + 1", n=41) == [[42]]
    finally:
        client.close()


def test_two_hundred_clients_at_once(door: OpenDoor):
    async def one(number: int) -> Any:
        client = await psycopg.AsyncConnection.connect(door.dsn(connect_timeout=60))
        async with client:
            cursor = await client.execute("select %s::int", [number])
            return (await cursor.fetchone() or [None])[0]

    async def everyone() -> list[Any]:
        return await asyncio.gather(*(one(number) for number in range(200)))

    assert asyncio.run(everyone()) == list(range(200))
    wait_for(lambda: not door.cell.leases)
    assert door.cell.woken == 200
    wait_for(lambda: sum(t.connections_opened for t in door.cell.traffic) == 200)


def test_the_tail_arrives_after_the_client_has_said_its_last(door: OpenDoor):
    with door.raw() as client:
        client.login()
        client.query("select repeat('x', 1000) from generate_series(1, 20000)")
        client.sock.shutdown(socket.SHUT_WR)
        rows = 0
        while (message := client.message()).kind != b"Z":
            rows += message.kind == b"D"
        assert rows == 20_000
        assert client.at_end()
    wait_for(lambda: door.door.sessions == 0)


def test_the_instances_last_words_arrive_when_it_ends_first(door: OpenDoor):
    with door.raw() as client, door.instance_admin() as admin:
        client.login()
        client.query("select pg_backend_pid()")
        pid = int(client.until(b"D").body[6:])
        client.until(b"Z")
        admin.execute("select pg_terminate_backend(%s)", [pid])
        assert client.error()["C"] == "57P01"
    wait_for(lambda: door.door.sessions == 0)


def test_a_client_that_vanishes_ends_its_session(door: OpenDoor):
    client = door.raw()
    client.login()
    client.query("select repeat('x', 1000) from generate_series(1, 1000000)")
    wait_for(lambda: any(relay.bytes_out > MIB for relay in door.house.relays))
    client.sock.close()
    wait_for(lambda: door.door.sessions == 0)
    wait_for(lambda: not door.cell.leases)


def test_a_client_that_does_not_read_costs_one_buffer(door: OpenDoor):
    with door.raw() as client:
        client.login()
        client.query("select repeat('x', 1000000) from generate_series(1, 300)")
        wait_for(lambda: any(relay.bytes_out > MIB for relay in door.house.relays))
        (relay,) = door.house.relays
        before = psutil.Process().memory_info().rss
        stalled_at, since = -1, 0.0
        while time.monotonic() - since < 0.3:  # Until nothing has moved for a while: the sockets are full.
            if relay.bytes_out != stalled_at:
                stalled_at, since = relay.bytes_out, time.monotonic()
        assert stalled_at < 20 * MIB
        assert psutil.Process().memory_info().rss - before < 8 * MIB
        rows = 0
        while (message := client.message()).kind != b"Z":
            rows += message.kind == b"D"
            client.seen.clear()
        assert rows == 300


def test_an_instance_that_does_not_read_holds_its_client_back(door: OpenDoor):
    with door.raw() as client, door.raw() as other:
        client.login()
        other.login()
        for sql in ("create table if not exists held (t text)", "begin; lock table held"):
            other.query(sql)
            other.until(b"Z")
        client.query("insert into held select ''; copy held from stdin")
        client.sock.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100 * MIB:
                sent += client.sock.send(wire.message(b"d", b"x" * 60_000))
        relay_in = max(relay.bytes_in for relay in door.house.relays)
        assert relay_in < 10 * MIB
        client.sock.settimeout(10)
        other.query("rollback")
        other.until(b"Z")
    wait_for(lambda: door.door.sessions == 0)


def test_bytes_are_counted_in_both_directions(door: OpenDoor):
    with door.raw() as client:
        client.login()
        client.query("select repeat('x', 1000000)")
        client.until(b"Z")
        wait_for(lambda: sum(t.bytes_out for t in door.cell.traffic) > 1_000_000)  # While it is open.
        assert [t.connections_open for t in door.cell.traffic][-1] == 1
        client.query(f"select length('{'y' * 1_000_000}')")
        client.until(b"Z")
        client.sock.sendall(wire.terminate())
        assert client.at_end()
        out = sum(len(message.encode()) for message in client.seen[client.seen.index(ready(client)) + 1 :])
    wait_for(lambda: door.cell.traffic[-1].connections_open == 0)
    wait_for(lambda: sum(t.bytes_in for t in door.cell.traffic) > 1_000_000)
    counted_in = sum(t.bytes_in for t in door.cell.traffic)
    assert counted_in == len(wire.query("select repeat('x', 1000000)")) + 1_000_000 + len(
        wire.query("select length('')")
    ) + len(wire.terminate())
    assert sum(t.bytes_out for t in door.cell.traffic) == out
    assert sum(t.connections_opened for t in door.cell.traffic) == 1
    assert {t.endpoint for t in door.cell.traffic} == {ENDPOINT}


def ready(client: Any) -> Any:
    """The message that ended the login."""
    return next(message for message in client.seen if message.kind == b"Z")


def test_sessions_leave_no_garbage(open_door: DoorMaker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(door_module, "WATCH_AGAIN_SECONDS", 0.001)  # so that each of them is looked at
    door = open_door()
    door.connect().close()
    wait_for(lambda: door.door.sessions == 0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            door.connect().close()
        wait_for(lambda: door.door.sessions == 0)
        left = [type(thing).__name__ for thing in gc.get_objects()]
        for name in ("Relay", "_Direction", "Conn", "ServerExchange"):
            assert left.count(name) == 0, name
    finally:
        gc.enable()


def test_the_loop_is_never_held_up(open_door: DoorMaker, caplog: pytest.LogCaptureFixture):
    door = open_door()
    door.thread.loop.slow_callback_duration = 0.1
    with caplog.at_level("WARNING", logger="asyncio"):
        with door.connect() as client:
            client.execute("select repeat('x', 30000000)")
        with pytest.raises(psycopg.OperationalError):
            door.connect(password="wrong")
        assert caplog.messages == []
        door.thread.loop.call_soon_threadsafe(time.sleep, 0.2)
        wait_for(lambda: any("took" in message for message in caplog.messages))  # It would have been seen.
