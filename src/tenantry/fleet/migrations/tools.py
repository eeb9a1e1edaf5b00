"""A tool in a process of its own: a long-lived child that is given one tenant after another, and as many as are needed.

Must never put what it is told on a command line, and never leave a child, or what it has started, alive: it ends by
itself when we are gone, and is killed with its process group when a tenant takes too long or the operator cancels.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from tenantry.errors import TenantryError
from tenantry.postgres.dsn import redact

INSIDE: Final = Path(__file__).parent / "inside"
OPEN_SECONDS_MAX: Final = 120.0
"""Loading a project: its models, its settings, its migrations."""
OUTPUT_BYTES_MAX: Final = 16 * 1024
"""Of what a tool prints for one tenant, the last bytes are kept."""
REPLY_BYTES_MAX: Final = 32 * 1024 * 1024
POLL_SECONDS: Final = 0.1
"""How soon a cancellation is noticed."""
PATIENCE_SECONDS: Final = 0.25
"""How long a tenant waits for a child that works for another one, before one more is started."""
_KEPT_FROM_TOOLS: Final = ("TENANTRY_API_KEY", "TENANTRY_CATALOG_URL")
"""Variables that are the operator's and no business of a tenant's migrations."""

APPLICATION_NAME: Final = "tenantry migrate tool"
"""What the connections of tools are called, so that those of a tool that died are found and ended."""
_OF_THE_PLACE: Final = frozenset(
    {"host", "hostaddr", "port", "dbname", "user", "password", "options", "sslmode", "sslrootcert", "sslcert", "sslkey",
     "sslcrl", "sslnegotiation", "channel_binding", "gssencmode", "target_session_attrs"}
)  # fmt: skip
"""What a tool's own driver may understand; the rest is between us and libpq."""


class ToolEnded(TenantryError):
    """The child is gone without an answer: it died, or was killed for ``why``."""

    blame = "tenant"

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why
        """``died``, ``cancelled`` or ``timeout``."""


class Child:
    """One process of a tool. One thread uses it at a time."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in _KEPT_FROM_TOOLS}
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._requests = self._process.stdin
        self._replies = self._process.stdout.fileno()
        self._prints = self._process.stderr.fileno()
        for descriptor in (self._replies, self._prints):
            os.set_blocking(descriptor, False)
        self._output = bytearray()
        self._usable = True

    @property
    def usable(self) -> bool:
        """Whether it waits for a request: it has answered the last one, and lives."""
        return self._usable and self._process.poll() is None

    @property
    def output(self) -> str:
        """The last of what it printed since it was asked."""
        return bytes(self._output[-OUTPUT_BYTES_MAX:]).decode("utf-8", "replace")

    def ask(
        self, request: Mapping[str, object], *, seconds_max: float, cancelled: Callable[[], bool]
    ) -> dict[str, Any]:
        """Its answer. Raises ToolEnded, after which the child and all that it started are gone."""
        deadline = time.monotonic() + seconds_max
        self._drain()
        self._output.clear()
        self._usable = False
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
            line = self._line(deadline, cancelled)
        except BrokenPipeError:
            line = None
        except BaseException:
            self.end()
            raise
        if line is None:
            status = self.end()
            killed = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            raise ToolEnded("died", f"the tool's process {killed} without an answer")
        self._drain()
        self._usable = True
        return cast("dict[str, Any]", json.loads(line))

    def _line(self, deadline: float, cancelled: Callable[[], bool]) -> bytes | None:
        """The next line of its replies, or None when there will be none."""
        found = bytearray()
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        poll.register(self._prints, select.POLLIN)
        while not found.endswith(b"\n"):
            if cancelled():
                raise ToolEnded("cancelled", "cancelled by the operator")
            if time.monotonic() > deadline:
                raise ToolEnded("timeout", "the tool took longer than it may")
            for descriptor, _ in poll.poll(POLL_SECONDS * 1000):
                part = _read(descriptor)
                if descriptor == self._prints:
                    self._keep(part or b"")
                    if part == b"":
                        poll.unregister(descriptor)
                elif part == b"" or len(found) > REPLY_BYTES_MAX:
                    return None
                else:
                    found += part or b""
        return bytes(found)

    def _drain(self) -> None:
        """Takes what it has printed so far; it flushes before it answers."""
        while part := _read(self._prints):
            self._keep(part)

    def _keep(self, part: bytes) -> None:
        self._output += part
        if len(self._output) > 4 * OUTPUT_BYTES_MAX:
            del self._output[:-OUTPUT_BYTES_MAX]

    def end(self) -> int:
        """Kills it with its process group and returns its status. Safe twice."""
        if self._process.returncode is None:
            # Not waited for yet, so the pid, and with it the group, is certainly its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._drain()
            with contextlib.suppress(BrokenPipeError):
                self._requests.close()
            assert self._process.stdout is not None
            assert self._process.stderr is not None
            self._process.stdout.close()
            self._process.stderr.close()
        return self._process.wait()


def _read(descriptor: int) -> bytes | None:
    """What is there now; empty at the end, None when there is nothing yet."""
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return None


class Children:
    """As many children of one project as its tenants need at once; they are kept for the next tenant.

    Loading a project costs as much as many a tenant, so another child is started only when none becomes free soon, and
    one after the other.
    """

    def __init__(self) -> None:
        self._idle: list[Child] = []
        self._working = 0
        self._starting = False
        self._changed = threading.Condition()
        self._finalizer = weakref.finalize(self, _end_all, self._idle)

    @contextmanager
    def one(self, start: Callable[[], Child]) -> Generator[Child]:
        """A child for one tenant, by ``start`` (which opens its project) where none is free.

        Afterwards it waits for the next tenant, or is ended when it cannot be used again.
        """
        # Not kept here: whoever has these children would be held by them, and they would outlive it.
        child = self._take() or self._start(start)
        try:
            yield child
        finally:
            usable = child.usable
            if not usable:
                child.end()
            with self._changed:
                self._working -= 1
                if usable:
                    self._idle.append(child)
                self._changed.notify()

    def _take(self) -> Child | None:
        """A child that is free, or None for whoever shall start one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._changed:
            while True:
                while self._idle:
                    child = self._idle.pop()
                    if child.usable:
                        self._working += 1
                        return child
                    child.end()
                left = deadline - time.monotonic()
                if not self._starting and (left <= 0 or not self._working):
                    self._starting = True
                    return None
                self._changed.wait(max(left, POLL_SECONDS))

    def _start(self, start: Callable[[], Child]) -> Child:
        try:
            child = start()
        finally:
            with self._changed:
                self._starting = False
                self._changed.notify_all()
        with self._changed:
            self._working += 1
        return child

    def keep(self, child: Child) -> None:
        """One that was started to look at the project."""
        with self._changed:
            self._idle.append(child)

    def close(self) -> None:
        """Ends the children that wait. Safe twice."""
        with self._changed:
            idle = list(self._idle)
            self._idle.clear()
        _end_all(idle)


def _end_all(children: list[Child]) -> None:
    for child in children:
        child.end()


# ---------------------------------------------------------------------------------------------- where the tenant is


def place_of(found: Mapping[str, str], *, lock_seconds: float, statement_seconds: float) -> dict[str, str]:
    """The libpq keywords for a tool's connections, from those of ours: with the timeouts, and our name for tools.

    ``options`` holds the endpoint's name where a cell has no domain, so ours are put behind.
    """
    timeouts = f"-c lock_timeout={round(lock_seconds * 1000)} -c statement_timeout={round(statement_seconds * 1000)}"
    kept = {name: value for name, value in found.items() if name in _OF_THE_PLACE}
    options = f"{found.get('options', '')} {timeouts}".strip()
    return {**kept, "options": options, "application_name": APPLICATION_NAME}


def timeouts_in(place: Mapping[str, str]) -> str:
    """The part of ``options`` that sets the timeouts."""
    return place["options"][place["options"].rindex("-c lock_timeout") :]


def uri_of(place: Mapping[str, str]) -> str:
    """The same place as a URI. A socket's directory stands behind the ``?``, where every driver looks for it."""
    rest = {name: value for name, value in place.items() if name not in {"user", "password", "dbname"}}
    host, port = rest.pop("host", ""), rest.pop("port", "")
    if host.startswith("/"):
        rest, host = {"host": host, **({"port": port} if port else {}), **rest}, ""
    where = (f"[{host}]" if ":" in host else host) + (f":{port}" if host and port else "")
    secret = f":{_encoded(place['password'])}" if place.get("password") else ""
    query = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in rest.items())
    return f"postgresql://{_encoded(place['user'])}{secret}@{where}/{_encoded(place['dbname'])}?{query}"


_PG: Final = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER",
    "password": "PGPASSWORD", "options": "PGOPTIONS", "application_name": "PGAPPNAME", "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "channel_binding": "PGCHANNELBINDING",
}  # fmt: skip


def libpq_variables(place: Mapping[str, str]) -> dict[str, str]:
    """The environment in which libpq, and what imitates it, goes there without being told more."""
    return {_PG[name]: value for name, value in place.items() if name in _PG}


def without_secrets(text: str, place: Mapping[str, str]) -> str:
    """``text`` without the tenant's password, however it got there."""
    password = place.get("password", "")
    for form in filter(None, (password, _encoded(password))):
        text = text.replace(form, "***")
    return redact(text)


def _encoded(text: str) -> str:
    return quote(text, safe="")
