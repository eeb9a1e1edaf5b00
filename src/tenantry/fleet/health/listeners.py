"""Examines whether a cell runs on a data directory, where it listens, and what its door shows.

Asks for no row and logs in nowhere: it connects, looks at a certificate, and hangs up. Wakes nobody.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from tenantry.errors import OperatorError, Unavailable
from tenantry.fleet.config import READY_FILE, Target, read_ready_file
from tenantry.postgres.wire import ssl_request
from tenantry.runtime.findings import Finding

ANSWER_SECONDS_MAX: Final = 5.0
CERTIFICATE_DAYS_MIN: Final = 14
_LISTENING: Final = "0A"


def examine(data: Path, *, now: datetime | None = None) -> list[Finding]:
    """What is found of the cell that runs on ``data``. Blocking, bounded by ANSWER_SECONDS_MAX for each listener."""
    name, data = "cell", data.absolute()
    try:
        target = read_ready_file(data)
    except Unavailable as error:
        if not (data / READY_FILE).exists():
            return [Finding(name, "note", f"none runs on {data}", error.next_step)]
        # Its instances and sessions live on, and nobody puts them to sleep or keeps their history.
        return [Finding(name, "wrong", f"{error.message}; it was killed", error.next_step)]
    except OperatorError as error:
        return [Finding(name, "wrong", error.message, error.next_step)]
    return [Finding(name, "ok", f"runs as process {target.pid}", facts={"pid": target.pid}), *_listeners(target, now)]


def _listeners(target: Target, now: datetime | None) -> list[Finding]:
    at = now or datetime.now(UTC)
    api = urlsplit(target.api_url)
    tls = api.scheme == "https"
    port = api.port or (443 if tls else 80)
    found = [_listener("API", api.hostname or "", port, _tls_at_once if tls else None, at, target.api_url)]
    if target.postgres_host is not None and target.postgres_port is not None:
        found.append(_listener("Postgres", target.postgres_host, target.postgres_port, _tls_when_asked, at))
    return found


def _listener(
    name: str, host: str, port: int, hand_shake: Callable[[socket.socket], bytes | None] | None, now: datetime,
    shown: str = "",
) -> Finding:  # fmt: skip
    bound = bound_to(port)
    facts: dict[str, object] = {"host": host, "port": port, "listening_on": bound, "tls": False}
    where = shown or f"{host}:{port}"
    if bound and not host_alone(bound):
        where += f" (listening on {', '.join(bound)})"
    try:
        with socket.create_connection((host, port), timeout=ANSWER_SECONDS_MAX) as connection:
            certificate = None if hand_shake is None else hand_shake(connection)
    except OSError as error:
        return Finding(
            name, "wrong", f"{where} does not answer: {error.strerror or error}", "look into the log of `tenantry up`",
            facts,
        )  # fmt: skip
    if certificate is None:
        if bound and not host_alone(bound):
            return Finding(
                name, "wrong", f"{where} answers without TLS, and not only this machine", "start it without --insecure",
                facts,
            )  # fmt: skip
        return Finding(name, "ok", f"{where} answers, without TLS", facts=facts)
    until = x509.load_der_x509_certificate(certificate).not_valid_after_utc
    facts |= {"tls": True, "certificate_until": until}
    found = f"{where} answers, TLS with a certificate until {until:%Y-%m-%d}"
    renew = "restart `tenantry up`, or bring a new one if it was given with --tls-cert"
    if until <= now:
        return Finding(name, "wrong", f"{found}, which is over", renew, facts)
    if until - now < timedelta(days=CERTIFICATE_DAYS_MIN):
        return Finding(name, "note", found, renew, facts)
    return Finding(name, "ok", found, facts=facts)


def _tls_when_asked(connection: socket.socket) -> bytes | None:
    """As a Postgres client asks: the certificate that is shown then, None where TLS is refused."""
    connection.sendall(ssl_request())
    return _tls_at_once(connection) if connection.recv(1) == b"S" else None


def _tls_at_once(connection: socket.socket) -> bytes | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # It is looked at, not believed.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(connection, do_handshake_on_connect=True) as secured:
        return secured.getpeercert(binary_form=True)


# ------------------------------------------------------------------------------------------- where it listens


def bound_to(port: int) -> list[str]:
    """The addresses of this machine on which somebody listens at ``port``; empty where that cannot be told."""
    found: set[str] = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            found |= listening(Path(f"/proc/net/{table}").read_text(), port)
    return sorted(found)


def listening(table: str, port: int) -> set[str]:
    """The same by the text of ``/proc/net/tcp`` or ``tcp6``: addresses in hexadecimal words of the machine. Pure."""
    addresses: set[str] = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != _LISTENING:
            continue
        address, _, local_port = fields[1].partition(":")
        if int(local_port, 16) == port:
            words = bytes.fromhex(address)
            packed = b"".join(words[place : place + 4][::-1] for place in range(0, len(words), 4))
            addresses.add(str(ipaddress.ip_address(packed)))
    return addresses


def host_alone(addresses: list[str]) -> bool:
    """Whether all of them can only be reached from this machine. Pure."""
    return all(ipaddress.ip_address(each).is_loopback for each in addresses)
