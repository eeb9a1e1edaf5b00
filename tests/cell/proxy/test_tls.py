"""Through the door under TLS: routing by name, channel binding, and no way to slip bytes in before it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from tenantry.cell.proxy import certificates
from tenantry.postgres import wire

from .conftest import DATABASE, ENDPOINT, PASSWORD, ROLE, DoorMaker, OpenDoor, RawClient, wait_for

HOST = f"{ENDPOINT}.localhost"


@pytest.fixture(scope="module")
def directory(new_workdir) -> Path:
    path: Path = new_workdir("tls")
    certificates.own(path, ["*.localhost", "localhost", "127.0.0.1"])
    return path


@pytest.fixture
def door(open_door: DoorMaker, directory: Path) -> OpenDoor:
    return open_door(tls=loaded(directory))


def loaded(directory: Path) -> certificates.Tls:
    return certificates.load(certificates.given(directory / "server.crt", directory / "server.key"))


def by_name(door: OpenDoor, directory: Path, **changes: Any) -> psycopg.Connection[tuple[Any, ...]]:
    """Connects as a user with a wildcard domain does: by a verified name, without options."""
    words: dict[str, Any] = {
        "host": HOST, "hostaddr": "127.0.0.1", "options": "", "sslmode": "verify-full",
        "sslrootcert": str(directory / "ca.crt"), "channel_binding": "require", **changes,
    }  # fmt: skip
    return door.connect(**words)


@pytest.mark.parametrize("host", [HOST, f"{ENDPOINT}-pooler.localhost", HOST.upper()])
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_a_name_leads_to_its_endpoint(door: OpenDoor, directory: Path, host: str, negotiation: str):
    with by_name(door, directory, host=host, sslnegotiation=negotiation) as client:
        assert client.pgconn.ssl_in_use
        assert client.execute("select current_database()").fetchone() == (DATABASE,)


@pytest.mark.parametrize("binding", ["require", "disable", "prefer"])
def test_channel_binding_as_the_client_likes(door: OpenDoor, binding: str):
    with door.connect(sslmode="require", channel_binding=binding) as client:
        assert client.execute("select 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        door.connect(sslmode="require", channel_binding=binding, password="wrong")


def test_channel_binding_cannot_be_had_without_tls(door: OpenDoor):
    with pytest.raises(psycopg.OperationalError, match="channel binding required"):
        door.connect(sslmode="disable", channel_binding="require")


def test_name_and_options_have_to_agree(door: OpenDoor, directory: Path):
    by_name(door, directory, options=f"endpoint={ENDPOINT}").close()
    with pytest.raises(psycopg.OperationalError, match="two different endpoints"):
        by_name(door, directory, options="endpoint=ep-other-one-a1b2c3d4")
    with pytest.raises(psycopg.OperationalError, match="does not say which endpoint"):
        by_name(door, directory, host="localhost")


def test_an_unknown_name_looks_like_a_wrong_password(door: OpenDoor, directory: Path):
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "app"'):
        by_name(door, directory, host="ep-no-such-a1b2c3d4.localhost")
    assert door.cell.woken == 0


def test_a_door_that_demands_tls_says_so(open_door: DoorMaker, directory: Path):
    door = open_door(tls=loaded(directory), tls_required=True)
    with door.raw() as client:
        client.startup()
        error = client.error()
    assert (error["C"], error["H"]) == ("28000", "connect with sslmode=require, or stronger")
    door.connect(sslmode="require").close()


def test_a_door_without_tls_says_no(open_door: DoorMaker):
    door = open_door()
    door.connect(sslmode="prefer").close()
    with pytest.raises(psycopg.OperationalError, match="server does not support SSL"):
        door.connect(sslmode="require")
    with pytest.raises(psycopg.OperationalError):
        door.connect(sslmode="require", sslnegotiation="direct")


def test_bytes_sent_before_tls_are_not_taken_for_bytes_under_it(door: OpenDoor):
    with door.raw(wire.ssl_request() + wire.startup({"user": "app"})) as client:
        assert client.error()["M"] == "received unencrypted data after SSL request"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_and_other_protocols_are_refused(door: OpenDoor):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    other.check_hostname, other.verify_mode = False, ssl.CERT_NONE
    with door.raw() as client, pytest.raises((ssl.SSLError, ConnectionResetError)):
        client.sock.sendall(wire.ssl_request())
        assert client.sock.recv(1) == b"S"
        old.wrap_socket(client.sock)
    for alpn in ([], ["h2"]):  # Direct TLS has to name the protocol.
        other.set_alpn_protocols(alpn)
        with door.raw() as client:
            client.sock = other.wrap_socket(client.sock)
            try:
                client.sock.sendall(wire.startup({"user": "app"}))
                assert client.sock.recv(100) == b""
            except (ssl.SSLError, ConnectionResetError):
                continue
    wait_for(lambda: door.door.sessions == 0)


def under_tls(door: OpenDoor) -> RawClient:
    client = door.raw(wire.ssl_request())
    assert client.sock.recv(1) == b"S"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client.sock = context.wrap_socket(client.sock, server_hostname=HOST, suppress_ragged_eofs=False)
    return client


def test_plain_scram_is_refused_where_the_client_believes_that_nothing_better_was_offered(door: OpenDoor):
    with under_tls(door) as client:
        client.startup()
        assert b"SCRAM-SHA-256-PLUS" in client.until(b"R").body
        client.sock.sendall(wire.sasl_initial_response("SCRAM-SHA-256", b"y,,n=,r=nonce"))
        assert client.error()["M"] == "SCRAM channel binding negotiation error"


def test_a_login_bound_to_another_certificate_is_refused(door: OpenDoor):
    with under_tls(door) as client:
        client.startup()
        client.until(b"R")
        first = b"p=tls-server-end-point,,n=,r=nonce"
        client.sock.sendall(wire.sasl_initial_response("SCRAM-SHA-256-PLUS", first))
        server_first = client.until(b"R").body[4:].decode()
        nonce = server_first.split(",")[0]
        client.sock.sendall(wire.sasl_response(f"c=cD10bHMtc2VydmVyLWVuZC1wb2ludCwsYWJj,{nonce},p=AAAA".encode()))
        assert client.error()["M"] == "SCRAM channel binding check failed"


def test_big_things_and_the_tail_go_through_tls(door: OpenDoor):
    with under_tls(door) as client:
        client.login()
        for _ in range(3):
            client.query("select repeat('x', 1000) from generate_series(1, 10000)")
        rows = done = 0
        while done < 3:
            message = client.message()
            rows += message.kind == b"D"
            done += message.kind == b"Z"
            client.seen.clear()
        assert rows == 30_000
        client.query(f"select length('{'y' * 5_000_000}')")
        assert client.until(b"D").body.endswith(b"5000000")
        client.until(b"Z")
        client.sock.sendall(wire.terminate())
        assert client.at_end()
    wait_for(lambda: door.door.sessions == 0)


def test_a_client_under_tls_that_does_not_read_is_held(door: OpenDoor):
    with under_tls(door) as client:
        client.login()
        client.query("select repeat('x', 1000000) from generate_series(1, 100)")
        wait_for(lambda: any(relay.bytes_out > 100_000 for relay in door.house.relays))
        (relay,) = door.house.relays
        seen = -1
        still = threading.Event()
        while seen != relay.bytes_out:
            seen = relay.bytes_out
            still.wait(0.3)
        assert seen < 20_000_000
        rows = 0
        while (message := client.message()).kind != b"Z":
            rows += message.kind == b"D"
            client.seen.clear()
        assert rows == 100


def test_a_client_that_vanishes_without_a_notice_ends_its_session(door: OpenDoor):
    client = under_tls(door)
    client.login()
    client.query("select repeat('x', 1000) from generate_series(1, 100000)")
    wait_for(lambda: any(relay.bytes_out > 100_000 for relay in door.house.relays))
    socket.socket.shutdown(client.sock, socket.SHUT_RDWR)
    client.sock.close()
    wait_for(lambda: door.door.sessions == 0)
    wait_for(lambda: not door.cell.leases)


def test_the_end_is_announced(door: OpenDoor):
    with under_tls(door) as client:
        client.login()
        door.run(door.door.drain(0))
        assert client.error()["C"] == "57P01"
    with pytest.raises(OSError):
        door.raw()


def test_cancel_under_tls(door: OpenDoor):
    with door.connect(sslmode="require") as client:
        failed: list[type[BaseException]] = []

        def sleep() -> None:
            try:
                client.execute("select pg_sleep(60)")
            except psycopg.errors.QueryCanceled as error:
                failed.append(type(error))

        thread = threading.Thread(target=sleep)
        thread.start()
        wait_for(lambda: any(relay.bytes_in > 20 for relay in door.house.relays))
        for _ in range(100):
            client.cancel_safe(timeout=5)
            thread.join(0.1)
            if not thread.is_alive():
                break
        assert failed == [psycopg.errors.QueryCanceled]


def test_asyncpg_under_tls(door: OpenDoor, directory: Path):
    async def ask() -> Any:
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        context.check_hostname = False
        client = await asyncpg.connect(
            host="127.0.0.1", port=door.port, user=ROLE, password=PASSWORD, database=DATABASE, ssl=context,
            server_settings={"options": f"endpoint={ENDPOINT}"},
        )  # fmt: skip
        try:
            return await client.fetchval("select repeat('x', 1000000)")
        finally:
            await client.close()

    assert asyncio.run(ask()) == "x" * 1_000_000


def test_garbage_instead_of_a_handshake(door: OpenDoor):
    for garbage in (b"\x16\x03\x01\xff\xff" + b"x" * 100, b"\x16", b"\x16\x03\x01\0\x05hello"):
        with door.raw(garbage) as client:
            rest = b""
            try:
                client.sock.shutdown(socket.SHUT_WR)
                while data := client.sock.recv(1000):
                    rest += data
            except OSError:
                pass
            assert b"E" not in rest[:1]
    with door.raw(wire.ssl_request() + b"") as client:
        assert client.sock.recv(1) == b"S"
        client.sock.sendall(b"not a handshake at all" * 10)
        assert not client.sock.recv(1000).startswith(b"E")
    wait_for(lambda: door.door.sessions == 0)
