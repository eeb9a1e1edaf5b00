"""A way to a server that demands TLS, for programs whose libpq has none: a socket here, a checked connection there.

Each connection to the socket becomes one to the server, which must show a certificate for its name from an authority
that is trusted: also where the connection string says ``require``, which libpq leaves unchecked. The socket lies in a
directory that only this user may enter. No password and no data is looked at.
"""

from __future__ import annotations

import contextlib
import selectors
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from tenantry.errors import OperatorError, TenantryError, Unavailable
from tenantry.postgres.dsn import DEFAULT_PORT, Dsn
from tenantry.runtime.telemetry import late_log

CONNECT_SECONDS_MAX: Final = 30.0
CHUNK_BYTES: Final = 256 * 1024
CONNECTIONS_MAX: Final = 16
SILENT_SECONDS_MAX: Final = 24 * 3600.0
"""A connection over which nothing comes for so long is given up."""
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
_WANTS_TLS: Final = ("require", "verify-ca", "verify-full")
_OF_TLS: Final = ("sslmode", "sslrootcert", "sslnegotiation", "channel_binding", "gssencmode", "hostaddr")


def wants_tls(dsn: Dsn) -> bool:
    return dsn.parameters.get("sslmode") in _WANTS_TLS and not dsn.host.startswith("/")


def tls_of(dsn: Dsn, ca: Path | None) -> ssl.SSLContext:
    """Trusts the system's authorities, ``ca`` beside them, or those alone that the connection string names."""
    root = dsn.parameters.get("sslrootcert")
    try:
        if root not in (None, "system"):
            context = ssl.create_default_context(cafile=root)
        else:
            context = ssl.create_default_context()
            if ca is not None:
                context.load_verify_locations(cafile=ca)
    except OSError as error:
        raise OperatorError(
            f"the certificate to trust cannot be read from {root or ca}: {error.strerror or error}",
            next_step="see sslrootcert of the connection string, and backups.tls_ca",
        ) from error
    context.check_hostname = dsn.parameters.get("sslmode") != "verify-ca"
    return context


@contextmanager
def reachable(dsn: Dsn, ca: Path | None = None) -> Generator[Dsn]:
    """The same server by a way that needs no TLS of the program; where it does not demand it, as it is."""
    if not wants_tls(dsn):
        parameters = {name: value for name, value in dsn.parameters.items() if name != "channel_binding"}
        yield replace(dsn, parameters=parameters)
        return
    forwarder = _Forwarder(dsn, tls_of(dsn, ca))
    try:
        forwarder.prove()
        yield forwarder.dsn
    finally:
        forwarder.close()


class _Forwarder:
    def __init__(self, dsn: Dsn, context: ssl.SSLContext) -> None:
        self._target = dsn
        self._context = context
        self._directory = Path(tempfile.mkdtemp(prefix="tenantry-tls-"))  # mode 0700
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._directory / f".s.PGSQL.{DEFAULT_PORT}"))
        self._listener.listen(CONNECTIONS_MAX)
        self._living = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._accepting = threading.Thread(target=self._accept, name="tls-forwarder", daemon=True)
        self._accepting.start()

    @property
    def dsn(self) -> Dsn:
        kept = {name: value for name, value in self._target.parameters.items() if name not in _OF_TLS}
        return replace(
            self._target, host=str(self._directory), port=DEFAULT_PORT, parameters={**kept, "sslmode": "disable"}
        )

    def prove(self) -> None:
        """Connects once, so that what is wrong is said by its name. Raises OperatorError, Unavailable."""
        self._connect().close()

    def _connect(self) -> ssl.SSLSocket:
        host = self._target.host
        there = self._target.parameters.get("hostaddr") or host
        try:
            plain = socket.create_connection((there, self._target.port), timeout=CONNECT_SECONDS_MAX)
        except OSError as error:
            raise Unavailable(
                f"{host} does not answer: {error.strerror or error}", next_step="see that it runs and can be reached"
            ) from error
        try:
            if self._target.parameters.get("sslnegotiation") != "direct":
                plain.sendall(_SSL_REQUEST)
                if plain.recv(1) != b"S":
                    raise OperatorError(f"{host} offers no TLS, and the connection string demands it")
            return self._context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            plain.close()
            raise OperatorError(
                f"{host} shows a certificate that is not trusted here: {error.verify_message}",
                next_step="name the authority that signed it: backups.tls_ca, or sslrootcert in the connection string",
            ) from error
        except OSError as error:
            plain.close()
            raise Unavailable(f"{host} ended the beginning of TLS: {error.strerror or error}") from error
        except TenantryError:
            plain.close()
            raise

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), name="tls-forwarder", daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with self._living, contextlib.closing(client):
            try:
                server = self._connect()
            except TenantryError as error:
                late_log("backups").warning("a connection was not forwarded", reason=error.message)
                return
            with contextlib.closing(server):
                with self._lock:
                    if self._closed:
                        return
                    self._open |= {client, server}
                try:
                    _relay(client, server)
                except OSError:
                    return  # either side has gone, and hears of the other's end by the closing of its own
                finally:
                    with self._lock:
                        self._open -= {client, server}

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(CONNECT_SECONDS_MAX)
        shutil.rmtree(self._directory, ignore_errors=True)


def _relay(client: socket.socket, server: ssl.SSLSocket) -> None:
    """Both ways, in one thread: a TLS connection may not be read and written by two at once."""
    client.settimeout(SILENT_SECONDS_MAX)
    # What comes over TLS may be of TLS itself, and a blocking read would then wait for data behind it.
    server.setblocking(False)
    with selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ)
        ready.register(server, selectors.EVENT_READ)
        while events := ready.select(SILENT_SECONDS_MAX):
            for key, _ in events:
                done = _from_client(client, server) if key.fileobj is client else _from_server(client, server)
                if done:
                    return


def _from_client(client: socket.socket, server: ssl.SSLSocket) -> bool:
    """Whether that was the end."""
    rest = memoryview(client.recv(CHUNK_BYTES))
    ended = not rest
    while rest:
        try:
            rest = rest[server.send(rest) :]
        except ssl.SSLWantWriteError:
            _wait(server, selectors.EVENT_WRITE)
        except ssl.SSLWantReadError:
            _wait(server, selectors.EVENT_READ)
    return ended


def _from_server(client: socket.socket, server: ssl.SSLSocket) -> bool:
    while True:
        try:
            chunk = server.recv(CHUNK_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        if not chunk:
            return True
        client.sendall(chunk)
        # What TLS has opened already is not seen by the selector.
        if not server.pending():
            return False


def _wait(server: ssl.SSLSocket, event: int) -> None:
    with selectors.DefaultSelector() as ready:
        ready.register(server, event)
        if not ready.select(SILENT_SECONDS_MAX):
            raise TimeoutError("the server takes nothing any more")
