"""The peer of the relay: Debian's pgbouncer in session mode, started here, in front of the same instance."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tenantry.runtime.files import Owner

HOW_TO_INSTALL: Final = "peer not installed: apt-get install pgbouncer"
_START_SECONDS_MAX: Final = 20.0
_CONFIGURATION: Final = """\
[databases]
{database} = host={socket_dir} port=5432 dbname={database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = session
default_pool_size = 80
max_client_conn = 200
client_tls_sslmode = allow
client_tls_cert_file = {certificate}
client_tls_key_file = {key}
"""


@dataclass(frozen=True, slots=True)
class PgBouncer:
    port: int
    process: psutil.Process


def program() -> str | None:
    # Debian puts it where daemons are, which is not on everybody's path.
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def running(
    directory: Path, *, socket_dir: Path, database: str, role: str, password: str, tls: tuple[Path, Path],
    owner: Owner | None,
) -> Generator[PgBouncer]:  # fmt: skip
    """In front of the instance that listens in ``socket_dir``; as ``owner``, who may enter that directory.

    ``tls`` is a certificate and its key: the front door's own, so that both do the same work.
    """
    path = program()
    assert path is not None
    directory.mkdir(mode=0o700)
    users, configuration, log = directory / "users.txt", directory / "pgbouncer.ini", directory / "log"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    users.write_text(f'"{role}" "{password}"\n')
    certificate, key = directory / "server.crt", directory / "server.key"
    for source, copy in zip(tls, (certificate, key), strict=True):
        copy.write_bytes(source.read_bytes())
        copy.chmod(0o600)
    configuration.write_text(
        _CONFIGURATION.format(
            database=database, socket_dir=socket_dir, port=port, users=users, certificate=certificate, key=key
        )
    )
    if owner is not None:
        for each in (directory, users, configuration, certificate, key):
            os.chown(each, *owner)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [path, str(configuration)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", umask=0o077,
            user=owner[0] if owner else None, group=owner[1] if owner else None, extra_groups=[] if owner else None,
        )  # fmt: skip
    try:
        _wait(process, port, log)
        yield PgBouncer(port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(_START_SECONDS_MAX)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"pgbouncer did not start: {log.read_text()[-500:]}") from None
            time.sleep(0.01)
