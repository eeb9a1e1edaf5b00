"""pg_dump and its kin: which build fits a server, and running one with its password on no command line and no disk.

An archive is read by the release that wrote it, or a later one, and a server is dumped by its own release, or a later
one: the build of the server's own major is taken where there is one with these programs, else the next later.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Final

from tenantry.errors import OperatorError, TenantryError, Unavailable
from tenantry.postgres.dsn import Dsn
from tenantry.postgres.engines import bin_directories

CHUNK_BYTES: Final = 256 * 1024
SECONDS_MAX: Final = 24 * 3600.0
"""What runs longer is ended."""
VERSION_SECONDS_MAX: Final = 20.0
END_SECONDS_MAX: Final = 30.0
"""What a program has, once it was told to end, before it is killed."""
LINES_KEPT: Final = 40
LINE_CHARACTERS_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class Client:
    """The client programs of one build."""

    bin_dir: Path
    major: int
    version: str

    @property
    def minor(self) -> int:
        return int(self.version.split(".")[1])

    def program(self, name: str) -> str:
        return str(self.bin_dir / name)


@cache
def clients() -> tuple[Client, ...]:
    """Builds of this machine that have these programs, the oldest first. Looked for once."""
    found: list[Client] = []
    for bin_dir in bin_directories():
        if not all((bin_dir / name).exists() for name in ("pg_dump", "pg_restore", "psql")):
            continue
        version = _version(bin_dir / "pg_dump")
        if version is not None:
            found.append(Client(bin_dir, int(version.split(".")[0]), version))
    return tuple(sorted(found, key=lambda client: (client.major, -client.minor)))


def _version(program: Path) -> str | None:
    """None for one that does not run here."""
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, timeout=VERSION_SECONDS_MAX,
            stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"}, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\d+\.\d+", done.stdout)
    return None if found is None else found[0]


def fitting(known: Sequence[Client], major: int) -> Client:
    """The one to use with a server, or an archive, of this major. Raises OperatorError. Pure."""
    for client in known:
        if client.major >= major:
            return client
    have = ", ".join(str(each.major) for each in known) or "none"
    raise OperatorError(
        f"there is no pg_dump for Postgres {major} here (have: {have}); it is of the server's release, or a later one",
        next_step=f"install the client programs of Postgres {major} or later (Debian: postgresql-{major})",
        major=major,
    )


class Program:
    """One that runs. Its errors are kept, as far as they are short; nothing secret is in them."""

    def __init__(self, process: subprocess.Popen[bytes], name: str) -> None:
        self.process = process
        self.name = name
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._listening = threading.Thread(target=self._listen, name=f"{name}-errors", daemon=True)
        self._listening.start()
        self._clock = threading.Timer(SECONDS_MAX, process.kill)
        self._clock.daemon = True
        self._clock.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with contextlib.suppress(ValueError):  # closed under our hands, when it is killed
            for line in self.process.stderr:
                self._lines.append(line.decode(errors="replace").strip()[:LINE_CHARACTERS_MAX])

    @property
    def said(self) -> list[str]:
        """The last lines of its errors."""
        return list(self._lines)

    @property
    def output(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def input(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def chunks(self) -> Iterator[bytes]:
        """What it writes, to its end. Raises what ``ended`` raises."""
        descriptor = self.output.fileno()
        while chunk := os.read(descriptor, CHUNK_BYTES):
            yield chunk
        self.ended()

    def ended(self) -> None:
        """Waits for its end. Raises Unavailable when its server went away, OperatorError for any other failure."""
        status = self.process.wait(SECONDS_MAX)
        self._listening.join(END_SECONDS_MAX)
        if status != 0:
            raise self._failure(status)

    def _failure(self, status: int) -> TenantryError:
        lines = [line for line in self.said if "error" in line.lower() or "fatal" in line.lower()] or self.said
        reason = lines[0].removeprefix(f"{self.name}: ") if lines else "it said nothing"
        how = f"was killed by signal {-status}" if status < 0 else f"failed ({status})"
        message = f"{self.name} {how}: {reason}"
        gone = ("server closed the connection", "connection to server", "terminating connection", "could not connect")
        if status < 0 or any(word in reason for word in gone):
            return Unavailable(message, next_step="see that the tenant answers (`tenantry psql`), then try again")
        return OperatorError(message, next_step="mend the cause in this tenant, then try again")

    def stop(self) -> None:
        """Ends it, whatever it is at. Safe twice."""
        self._clock.cancel()
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_SECONDS_MAX)
        self._listening.join(END_SECONDS_MAX)
        if self.process.stderr is not None:
            self.process.stderr.close()


@contextmanager
def running(
    client: Client, name: str, arguments: Sequence[str], dsn: Dsn | None, *, reads: bool = False, writes: bool = True
) -> Generator[Program]:
    """The program, connected by the variables of libpq; killed when the block is left before its end.

    It has an input where it ``reads`` and an output where it ``writes``.
    """
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/nonexistent", "PGAPPNAME": "tenantry backup"}
    descriptor: int | None = None
    if dsn is not None:
        environment |= _variables(dsn)
        descriptor = _password_file(dsn)
        environment["PGPASSFILE"] = f"/proc/self/fd/{descriptor}"
    try:
        process = subprocess.Popen(
            [client.program(name), *arguments],
            stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
            stdout=subprocess.PIPE if writes else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            cwd="/",
            pass_fds=() if descriptor is None else (descriptor,),
            process_group=0,  # a terminal's Ctrl-C is for this program, which lets what is under way end
        )
    except OSError as error:
        raise OperatorError(
            f"{client.program(name)} cannot be run: {error.strerror}", next_step="install Postgres's client programs"
        ) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)
    program = Program(process, name)
    try:
        yield program
    finally:
        program.stop()


_VARIABLES: Final = {"sslmode": "PGSSLMODE", "options": "PGOPTIONS", "hostaddr": "PGHOSTADDR"}
"""Of a connection string's parameters those that reach the program; TLS is the forwarder's."""


def _variables(dsn: Dsn) -> dict[str, str]:
    said = {"PGHOST": dsn.host, "PGPORT": str(dsn.port), "PGDATABASE": dsn.database, "PGUSER": dsn.role}
    known = {_VARIABLES[name]: value for name, value in dsn.parameters.items() if name in _VARIABLES}
    return said | known | {"PGCONNECT_TIMEOUT": "30"}


def _password_file(dsn: Dsn) -> int:
    """A file in memory that this process and the program alone can open."""
    descriptor = os.memfd_create("pgpass")
    os.fchmod(descriptor, 0o600)
    password = (dsn.password or "").replace("\\", "\\\\").replace(":", "\\:")
    os.write(descriptor, f"*:*:*:*:{password}\n".encode())
    return descriptor
