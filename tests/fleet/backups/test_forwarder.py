"""A server that demands TLS, dumped and restored by programs whose libpq has none.

The server is a real one; TLS ends in front of it, as it does at a provider's door. What pg_dump says is untouched.
"""

from __future__ import annotations

import contextlib
import datetime
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tenantry.errors import OperatorError, Unavailable
from tenantry.fleet.backups.forwarder import reachable
from tenantry.fleet.backups.load import load_dump
from tenantry.fleet.backups.programs import Client, clients, running
from tenantry.fleet.backups.reach import connect
from tenantry.postgres.dsn import Dsn, parse_uri

ROWS = 20_000


@pytest.fixture(scope="session")
def certificate(new_workdir: Callable[[str], Path]) -> tuple[Path, Path]:
    """Of 127.0.0.1 and of nobody else, signed by itself; and its key."""
    folder = new_workdir("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server of the tests")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "server.crt", folder / "server.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


@pytest.fixture
def door(certificate: tuple[Path, Path], postgres_server: str) -> Iterator[int]:
    """The port of a door that takes nobody without TLS and passes the rest on to the real server's socket."""
    home = str(psycopg.conninfo.conninfo_to_dict(postgres_server)["host"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(plain: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.closing(plain), socket.socket(socket.AF_UNIX) as server:
            plain.settimeout(30)
            if plain.recv(8)[4:] != (80877103).to_bytes(4, "big"):
                return
            plain.sendall(b"S")
            server.connect(f"{home}/.s.PGSQL.5432")
            with context.wrap_socket(plain, server_side=True) as client:
                _pass_on(client, server)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def _pass_on(client: ssl.SSLSocket, server: socket.socket) -> None:
    with selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ)
        ready.register(server, selectors.EVENT_READ)
        while True:
            for source, target in ((client, server), (server, client)):
                waiting = source is client and client.pending()
                if waiting or any(key.fileobj is source for key, _ in ready.select(0.01)):
                    chunk = source.recv(65_536)
                    if not chunk:
                        return
                    target.sendall(chunk)


@pytest.fixture
def without_tls() -> Client:
    """The wheel's programs, whose libpq has no TLS."""
    return next(client for client in clients() if client.major == 18)


def _by(door: int, uri: str, **parameters: str) -> Dsn:
    local = parse_uri(uri.replace("@/", "@localhost/"))
    return Dsn(
        host="127.0.0.1", port=door, database=local.database, role=local.role, password=local.password,
        parameters={"sslmode": "require", **parameters},
    )  # fmt: skip


def test_a_dump_and_its_restore_pass_through_a_door_that_demands_tls(
    door: int, certificate: tuple[Path, Path], new_database: Callable[[], str], without_tls: Client
) -> None:
    source, target = new_database(), new_database()
    with psycopg.connect(source) as connection:
        connection.execute(
            "CREATE TABLE t AS SELECT i, repeat('x', 200) AS pad FROM generate_series(1, %s) AS i", [ROWS]
        )
    with reachable(_by(door, source), certificate[0]) as dsn, running(without_tls, "pg_dump", ["-Fc"], dsn) as dump:
        whole = list(dump.chunks())
    with reachable(_by(door, target), certificate[0]) as dsn:
        load_dump(without_tls, iter(whole), dsn, server_major=18)
        with connect(dsn) as session:
            assert session.execute("SELECT count(*), sum(length(pad)) FROM t").fetchone() == (ROWS, 200 * ROWS)


def test_nothing_is_said_to_a_server_that_proves_nothing(
    door: int, certificate: tuple[Path, Path], new_database: Callable[[], str]
) -> None:
    uri = new_database()
    with pytest.raises(OperatorError, match="not trusted"), reachable(_by(door, uri)):
        pass
    named = _by(door, uri, hostaddr="127.0.0.1")
    other = Dsn(
        host="other.example.com", port=door, database="d", role="r", password="secret", parameters=named.parameters
    )
    with pytest.raises(OperatorError, match="not trusted") as refused, reachable(other, certificate[0]):
        pass
    assert "secret" not in str(refused.value)


def test_a_server_without_tls_and_one_that_is_not_there_are_told_apart(certificate: tuple[Path, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def refuse() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as client:
                client.recv(8)
                client.sendall(b"N")

        threading.Thread(target=refuse, daemon=True).start()
        dsn = Dsn(host="127.0.0.1", port=port, database="d", role="r", parameters={"sslmode": "require"})
        with pytest.raises(OperatorError, match="offers no TLS"), reachable(dsn, certificate[0]):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else comes to
        nobody = replace(dsn, port=taken.getsockname()[1])
        with pytest.raises(Unavailable, match="does not answer"), reachable(nobody, certificate[0]):
            pass


def test_where_nothing_demands_tls_the_way_is_the_direct_one() -> None:
    dsn = Dsn(host="/run/pg", database="d", role="r", parameters={"sslmode": "prefer", "channel_binding": "require"})
    with reachable(dsn) as direct:
        assert direct == Dsn(host="/run/pg", database="d", role="r", parameters={"sslmode": "prefer"})
