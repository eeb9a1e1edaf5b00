"""Who is let in, on which words, and what the others are told."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from typing import Any

import psycopg
import pytest

from tenantry.cell.proxy.limits import PER_ADDRESS_AND_ENDPOINT
from tenantry.cell.proxy.ports import Login
from tenantry.postgres import wire

from .conftest import ADMIN_PASSWORD, ENDPOINT, ROLE, DoorMaker, Instance, OpenDoor, RawClient, StaticCell, wait_for


def test_a_password_opens_the_door(open_door: DoorMaker):
    door = open_door()
    with door.connect() as client:
        assert client.execute("select current_user, current_database()").fetchone() == ("app", "appdb")
        assert client.info.parameter_status("server_version")
        assert len(door.cell.leases) == 1
    wait_for(lambda: not door.cell.leases)
    assert door.cell.woken == 1
    assert door.cell.failed == []


@pytest.mark.parametrize("changes", [{"password": "wrong"}, {"user": "cloud_admin", "password": ADMIN_PASSWORD}])
def test_who_does_not_prove_a_password_wakes_nothing(open_door: DoorMaker, changes: dict[str, str]):
    door = open_door()
    user = changes.get("user", ROLE)
    with pytest.raises(psycopg.OperationalError, match=f'password authentication failed for user "{user}"'):
        door.connect(**changes)
    assert door.cell.woken == 0
    assert door.cell.failed == [(ENDPOINT, user)]


def told(client: RawClient, **parameters: str) -> tuple[list[tuple[bytes, bytes]], str]:
    """All that a client with a wrong password is told, its nonces and salt apart, and the salt."""
    client.startup(**parameters)
    client.prove("wrong")
    assert client.error()["C"] == "28P01"
    messages = [(message.kind, message.body) for message in client.seen]
    assert messages[1][0] == b"R"
    nonce, salt, iterations = messages[1][1][4:].decode().split(",")
    assert nonce.startswith("r=nonceofthisclient")
    messages[1] = (b"R", f"{len(nonce)},{len(salt)},{iterations}".encode())
    return messages, salt


def test_unknown_endpoint_unknown_role_and_wrong_password_look_the_same(open_door: DoorMaker, instance: Instance):
    door = open_door()
    with instance.admin() as admin:
        admin.execute("drop role if exists nologin_role; create role nologin_role nologin")
    unknown_endpoint = {"options": "endpoint=ep-no-such-a1b2c3d4"}
    cases: dict[str, list[tuple[list[tuple[bytes, bytes]], str]]] = {}
    for name, parameters in {
        "wrong password": {},
        "unknown endpoint": unknown_endpoint,
        "unknown role": {"user": "bpp"},
        "no password": {"user": "nologin_role"},
        "admin": {"user": "cloud_admin"},
    }.items():
        for _ in range(2):
            with door.raw() as client:
                messages, salt = told(client, **parameters)
                shown = parameters.get("user", ROLE).encode()
                messages = [(kind, body.replace(shown, b"ROLE")) for kind, body in messages]
                cases.setdefault(name, []).append((messages, salt))
    for tries in cases.values():
        assert tries[0][0] == cases["wrong password"][0][0]
        assert tries[0][1] == tries[1][1], "a salt that changes betrays a fake one"
    assert len({tries[0][1] for tries in cases.values()}) == len(cases)
    assert door.cell.woken == 0
    assert len(door.cell.failed) == 10


def test_failures_take_the_same_time_whatever_the_cell_has_to_do(open_door: DoorMaker, instance: Instance):
    class Stuck(StaticCell):
        async def login_failed(self, endpoint: str, role: str, client_address: str) -> None:
            if endpoint == ENDPOINT:
                await asyncio.Event().wait()

    door = open_door(cell=Stuck(instance), failed_login_seconds=0.2)
    door.run(door.cell.login(ENDPOINT, ROLE, ""))
    times = {}
    for endpoint in (ENDPOINT, "ep-no-such-a1b2c3d4"):
        with door.raw() as client:
            started = time.monotonic()
            client.startup(options=f"endpoint={endpoint}")
            client.prove("wrong")
            client.error()  # although the one will never be done, and the other was at once
            times[endpoint] = time.monotonic() - started
    assert all(seconds > 0.18 for seconds in times.values()), times


def test_without_an_endpoint_the_client_hears_how(open_door: DoorMaker):
    door = open_door()
    with door.raw() as client:
        client.startup(options="")
        error = client.error()
    assert error["C"] == "08004"
    assert "options=endpoint%3D" in error["H"]
    for options in ("endpoint=", "endpoint=no/such", f"endpoint={'x' * 80}"):
        with door.raw() as client:
            client.startup(options=options)
            assert client.error()["C"] == "08004"
    with door.raw() as client:
        client.startup(options=f"endpoint={ENDPOINT} endpoint=ep-other")
        assert client.error()["C"] == "08P01"
    assert door.cell.woken == 0
    assert door.cell.failed == []


@pytest.mark.parametrize(
    "options",
    [f"endpoint={ENDPOINT}", f"project={ENDPOINT}", f"-c endpoint={ENDPOINT}", f"endpoint={ENDPOINT}-pooler"],
)
def test_the_ways_to_name_an_endpoint(open_door: DoorMaker, options: str):
    door = open_door()
    with door.connect(options=f"-c statement_timeout=4321 {options} -c work_mem=1234kB") as client:
        assert client.execute("show statement_timeout").fetchone() == ("4321ms",)
        assert client.execute("show work_mem").fetchone() == ("1234kB",)


def test_startup_parameters_reach_the_instance(open_door: DoorMaker):
    door = open_door()
    with door.connect(application_name="näme", client_encoding="utf8") as client:
        assert client.execute("show application_name").fetchone() == (r"n\xc3\xa4me",)
        assert client.info.parameter_status("application_name") == r"n\xc3\xa4me"


def test_a_missing_database_is_the_instances_word(open_door: DoorMaker):
    door = open_door()
    with door.raw() as client:
        client.startup(database="nosuch")
        client.prove()
        error = client.error()
    assert (error["C"], error["M"]) == ("3D000", 'database "nosuch" does not exist')
    wait_for(lambda: not door.cell.leases)


def test_replication_is_refused_plainly(open_door: DoorMaker):
    door = open_door()
    for value in ("true", "database", "on"):
        with door.raw() as client:
            client.startup(replication=value)
            assert client.error()["C"] == "0A000"
    with door.raw() as client:
        client.login(replication="off")


def test_an_md5_role_hears_how_to_reset(open_door: DoorMaker, instance: Instance):
    door = open_door()
    with instance.admin() as admin:
        admin.execute("set md5_password_warnings = off")
        admin.execute(
            "drop role if exists old_role; set password_encryption = 'md5'; create role old_role login password 'x'"
        )
    with door.raw() as client:
        client.startup(user="old_role")
        client.prove("x")
        error = client.error()
    assert error["C"] == "28P01"
    assert "md5" in error["M"]
    assert "password_encryption = 'scram-sha-256'" in error["H"]


def test_a_password_changed_by_sql_works_after_one_failure_and_the_old_one_never(
    open_door: DoorMaker, instance: Instance
):
    door = open_door()
    with instance.admin() as admin:
        admin.execute("drop role if exists changing; create role changing login password 'one'")
        door.run(door.cell.login(ENDPOINT, ROLE, ""))
        admin.execute("alter role changing password 'two'")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        door.connect(user="changing", password="two")
    wait_for(lambda: door.cell.looked == 1)  # which the door does not wait for any longer than for other failures
    door.connect(user="changing", password="two").close()

    with instance.admin() as admin:
        admin.execute("alter role changing password 'three'")
    # The door still knows the old verifier; the instance does not, and its word counts.
    woken = door.cell.woken
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        door.connect(user="changing", password="two")
    assert door.cell.woken == woken + 1
    assert door.cell.failed[-1] == (ENDPOINT, "changing")
    wait_for(lambda: door.cell.looked == 2)
    door.connect(user="changing", password="three").close()
    wait_for(lambda: not door.cell.leases)


def test_a_start_that_fails_tells_no_secrets(open_door: DoorMaker):
    door = open_door()
    door.cell.broken = True
    with door.raw() as client:
        client.startup()
        client.prove()
        error = client.error()
    assert (error["C"], error["M"]) == ("57P03", "the database could not be started")
    assert "H" not in error


def test_a_refusal_is_said_only_after_the_password(open_door: DoorMaker):
    door = open_door()
    door.cell.refusal = "the endpoint is disabled"
    with door.raw() as client:
        client.startup()
        client.prove("wrong")
        assert client.error()["C"] == "28P01"
    with door.raw() as client:
        client.startup()
        client.prove()
        assert client.error()["M"] == "the endpoint is disabled"
    assert door.cell.woken == 0


def test_an_instance_on_its_way_down_is_woken_again(open_door: DoorMaker):
    door = open_door()
    door.cell.socket_paths = ["/nonexistent/.s.PGSQL.5432"]
    with door.connect() as client:
        assert client.execute("select 1").fetchone() == (1,)
        assert door.cell.woken == 2
        wait_for(lambda: len(door.cell.leases) == 1)
    door.cell.socket_paths = ["/nonexistent/.s.PGSQL.5432"] * 9
    with pytest.raises(psycopg.OperationalError, match="the database is not available, try again"):
        door.connect()
    assert len(door.cell.socket_paths) == 6
    wait_for(lambda: not door.cell.leases)


def test_a_wake_that_takes_too_long(open_door: DoorMaker):
    door = open_door(wake_seconds=0.2)
    door.cell.wake_gate = asyncio.Event()
    with door.raw() as client:
        client.startup()
        client.prove()
        error = client.error()
    assert (error["C"], error["M"]) == ("57P03", "the database did not get ready in time, try again")


def test_an_endpoint_holds_only_so_many_connections(open_door: DoorMaker):
    door = open_door()
    door.cell.connections_max = 2
    first, second = door.connect(), door.connect()
    with door.raw() as client:
        client.startup()
        client.prove()
        assert client.error()["C"] == "53300"
    first.close()
    wait_for(lambda: len(door.cell.leases) == 1)
    door.connect().close()
    second.close()


def test_the_door_holds_only_so_many_connections(open_door: DoorMaker):
    door = open_door(connections_max=2)
    first, second = door.connect(), door.connect()
    with door.raw() as client:
        client.startup()
        assert client.error()["C"] == "53300"
    first.close()
    second.close()
    wait_for(lambda: door.door.sessions == 0)
    door.connect().close()


def test_whoever_says_nothing_gives_way_to_who_comes(open_door: DoorMaker):
    door = open_door(handshakes_per_address_max=3)
    silent, half = door.raw(), door.raw(wire.startup({"user": ROLE})[:11])
    wait_for(lambda: door.door.sessions == 2)
    stuck = door.raw()
    stuck.startup()
    stuck.until(b"R")
    more: list[RawClient] = []
    for client in (silent, half, stuck):  # whom nothing was heard of for longest first
        door.connect().close()
        wait_for(lambda: door.door.sessions == 2)
        error = client.error()
        assert (error["C"], error["M"]) == ("53300", "too many clients are logging in")
        more.append(door.raw())
        wait_for(lambda: door.door.sessions == 3)
    for client in (silent, half, stuck, *more):
        client.sock.close()


def test_clients_whom_the_door_lets_wait_keep_their_place(open_door: DoorMaker, instance: Instance):
    class SlowCell(StaticCell):
        asked = 0

        async def login(self, *given: Any) -> Login:
            self.asked += 1
            await go_on.wait()
            return await super().login(*given)

    go_on = asyncio.Event()
    cell = SlowCell(instance)
    door = open_door(handshakes_max=2, cell=cell)
    asking = [door.raw() for _ in range(2)]
    for client in asking:
        client.startup()
        client.choose()
    wait_for(lambda: cell.asked == 2 and not door.house.limits.silent)
    with door.raw() as client:
        client.startup()
        assert client.error()["M"] == "too many clients are logging in"
    door.thread.loop.call_soon_threadsafe(go_on.set)
    for client in asking:
        client.answer()
        client.until(b"Z")
        client.sock.close()


def test_guessing_is_slowed_down_for_whoever_guesses(open_door: DoorMaker):
    door = open_door(failed_login_seconds=0.0, now=lambda: 0.0)

    def guess() -> dict[str, str]:
        with door.raw() as client:
            client.startup()
            try:
                client.prove("wrong")
            except EOFError:  # turned away instead of asked
                return wire.parse_error(client.seen[-1].body)
            return client.error()

    guesses = 0
    while (error := guess())["C"] == "28P01":
        guesses += 1
        assert guesses < 40, "whoever guesses may go on for ever"
    assert guesses == PER_ADDRESS_AND_ENDPOINT.burst
    assert (error["C"], error["M"]) == ("28000", "too many failed logins from this address")
    with door.raw() as client:  # Another endpoint is not concerned, known or not.
        client.startup(options="endpoint=ep-no-such-a1b2c3d4")
        client.prove("wrong")
        assert client.error()["C"] == "28P01"
    assert door.cell.woken == 0


def test_guesses_begun_at_once_get_no_more_tries(open_door: DoorMaker):
    door = open_door(failed_login_seconds=0.0, now=lambda: 0.0)
    clients = [door.raw() for _ in range(30)]
    for client in clients:
        client.startup()
    for client in clients:
        client.prove("wrong")
    codes = [client.error()["C"] for client in clients]
    for client in clients:
        client.sock.close()
    assert codes.count("28P01") == PER_ADDRESS_AND_ENDPOINT.burst, codes
    assert set(codes) == {"28P01", "28000"}


# -- bad input


@pytest.mark.parametrize(
    "packet",
    [
        b"\0\0\0\x08\0\3\0\0",
        b"\0\0\0\x09\0\3\0\0\0",
        b"\0\0\0\x0f\0\3\0\0user\0x\0",
        b"\0\0\0\x0c\0\2\0\0x\0\0\0",
        wire.ssl_request() * 4,
        wire.gssenc_request() + wire.ssl_request() + wire.gssenc_request() + wire.gssenc_request(),
        wire.startup({"user": "x" * 9000, "database": "y"}),
        wire.startup({"database": "y"}),
        wire.startup({"user": "app", "options": "endpoint=ep-a"}) + b"Q\0\0\0\x0bselect\0",
        wire.startup({"user": "app", "options": "endpoint=ep-a"}) + b"p\xff\xff\xff\xff",
        wire.startup({"user": "app", "options": "endpoint=ep-a"}) + wire.sasl_initial_response("MD5", b""),
        wire.startup({"user": "app", "options": "endpoint=ep-a"}) + wire.sasl_response(b"x"),
    ],
)
def test_bad_packets_end_their_connection_and_nothing_else(open_door: DoorMaker, packet: bytes):
    door = open_door()
    with door.raw(packet) as client:
        rest = bytearray()
        try:
            while data := client.sock.recv(4096):
                rest += data
        except ConnectionResetError:
            pass
        answer = bytes(rest).lstrip(b"N")
        while (message := wire.take_message(bytearray(answer), bytes_max=10_000)) and message.kind == b"R":
            answer = answer[len(message.encode()) :]
        assert answer[:1] == b"E", rest
    wait_for(lambda: door.door.sessions == 0)
    door.connect().close()


@pytest.mark.parametrize(
    "packet",
    [
        wire.terminate(),  # A client that is told to end before it has begun.
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0\0\0\0",
        b"\0\0\0\4",
        struct.pack("!I", 10_001),
        b"\xff" * 100,
        wire.cancel_request(1, b""),
    ],
)
def test_what_begins_no_packet_is_not_answered(open_door: DoorMaker, packet: bytes):
    door = open_door()
    with door.raw(packet) as client:
        assert client.sock.recv(1) == b""
    wait_for(lambda: door.door.sessions == 0)
    door.connect().close()


def asked_for_proof(door: OpenDoor) -> RawClient:
    """A client that has heard how to prove itself, and says nothing more."""
    while True:
        client = door.raw()
        client.startup()
        try:
            client.until(b"R")
        except (EOFError, ConnectionResetError):  # the machine stood still for longer than a login may take
            client.sock.close()
        else:
            return client


def test_whoever_is_slow_to_speak_is_shown_out(open_door: DoorMaker):
    door = open_door(handshake_seconds=0.3)
    silent, half, stuck = door.raw(), door.raw(wire.startup({"user": "app"})[:11]), asked_for_proof(door)
    for client in (silent, half, stuck):
        error = client.error()
        assert "longer than 0.3 seconds" in error["M"]
        client.sock.close()
    wait_for(lambda: door.door.sessions == 0)


def test_a_slow_drip_does_not_keep_the_door_open(open_door: DoorMaker):
    door = open_door(handshake_seconds=0.3)
    with door.raw() as client:
        packet = wire.startup({"user": "app", "options": f"endpoint={ENDPOINT}"})
        tick = threading.Event()
        sent = 0
        with pytest.raises(OSError):
            for byte in packet * 10:
                client.sock.sendall(bytes([byte]))
                sent += 1
                tick.wait(0.02)
        assert sent < len(packet) * 2
    wait_for(lambda: door.door.sessions == 0)


def test_clients_that_come_and_go_leave_nothing(open_door: DoorMaker):
    door = open_door()
    for packets in ([], [b"\0"], [wire.startup({"user": "app", "options": f"endpoint={ENDPOINT}"})]):
        door.raw(*packets).sock.close()
    door.connect().close()  # who came before has been let in by then
    wait_for(lambda: door.door.sessions == 0)
    assert door.house.limits.connections == 0
    assert not door.house.relays


# -- versions


def test_newer_minor_versions_and_options_are_negotiated(open_door: DoorMaker):
    door = open_door()
    with door.raw() as client:
        client.startup(version=0x0003_270F, **{"_pq_.fancy": "1"})
        negotiated = client.message()
        assert negotiated == wire.Message(b"v", b"\0\3\0\2\0\0\0\1_pq_.fancy\0")
        client.prove()
        key = client.until(b"K")
        assert len(key.body) == 4 + 32
        client.until(b"Z")
        client.query("select 1")
        client.until(b"Z")


# -- ending


def test_draining_lets_sessions_end_and_then_tells_them(open_door: DoorMaker):
    door = open_door()
    with door.raw() as idle, door.raw() as silent, door.raw() as waiting:
        idle.login()
        waiting.startup()
        waiting.until(b"R")
        wait_for(lambda: door.door.sessions == 3)
        ending = asyncio.run_coroutine_threadsafe(door.door.drain(60), door.thread.loop)
        with pytest.raises(OSError):
            wait_for(lambda: bool(door.raw().sock.close()))
        idle.query("select 'still served'")
        idle.until(b"Z")
        sooner = asyncio.run_coroutine_threadsafe(door.door.drain(0.2), door.thread.loop)
        for client in (idle, silent, waiting):
            assert client.error()["C"] == "57P01"
        sooner.result(30)
        ending.result(30)
    wait_for(lambda: not door.cell.leases)


def test_draining_ends_with_the_last_session(open_door: DoorMaker):
    door = open_door()
    with door.raw() as client:
        client.login()
        ending = asyncio.run_coroutine_threadsafe(door.door.drain(60), door.thread.loop)
        client.sock.sendall(wire.terminate())
        assert client.at_end()
        client.sock.close()
        ending.result(10)


def test_a_client_that_waits_for_an_answer_hears_last_words(open_door: DoorMaker):
    door = open_door()
    with door.raw() as client:
        client.login()
        client.query("select pg_sleep(60)")
        wait_for(lambda: any(relay.bytes_in > 10 for relay in door.house.relays))
        door.run(door.door.drain(0))
        assert client.error()["C"] == "57P01"


def test_last_words_never_fall_into_another_message(open_door: DoorMaker):
    door = open_door()
    with door.raw() as client:
        client.login()
        client.query("select repeat('x', 100000000)")
        wait_for(lambda: any(relay.bytes_out > 100_000 for relay in door.house.relays))
        door.run(door.door.drain(0))
        with pytest.raises((EOFError, ConnectionResetError)):
            client.until(b"E")
        assert len(client.inbox) > 1000
