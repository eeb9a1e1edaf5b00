"""A small fleet: databases of one real server as tenants, and a catalog in memory that remembers what it is told."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tenantry.errors import NotFound
from tenantry.fleet.migrations.results import RunRecord, TenantResult
from tenantry.fleet.migrations.tenant import RunId, SchemaState, TenantRef, TenantSlug


@dataclass
class Fleet:
    """Tenants and RunLog in memory. ``asked`` has the slug of each tenant whose DSN somebody wanted, in order."""

    dsns: dict[TenantSlug, str]
    known: dict[TenantSlug, SchemaState] = field(default_factory=dict)
    asked: list[TenantSlug] = field(default_factory=list)
    runs: list[RunRecord] = field(default_factory=list)
    failures: list[TenantResult] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def select(self, slugs: Sequence[str] | None = None) -> list[TenantRef]:
        wanted = list(self.dsns) if slugs is None else [TenantSlug(slug) for slug in slugs]
        if missing := [slug for slug in wanted if slug not in self.dsns]:
            raise NotFound(f"no tenant {missing[0]}")
        return [TenantRef(slug, self.known.get(slug)) for slug in wanted]

    def dsn(self, slug: TenantSlug) -> str:
        with self.lock:
            self.asked.append(slug)
        return self.dsns[slug]

    def record(self, slug: TenantSlug, state: SchemaState) -> None:
        with self.lock:
            self.known[slug] = state

    def began(self, run: RunRecord) -> None:
        self.runs.append(run)
        self.failures = []

    def tenant_finished(self, run_id: RunId, result: TenantResult) -> None:
        assert run_id == self.runs[-1].run_id
        if result.outcome == "failed":
            self.failures.append(result)

    def ended(self, run: RunRecord) -> None:
        self.runs[-1] = run

    def latest(self) -> tuple[RunRecord, tuple[TenantResult, ...]] | None:
        return (self.runs[-1], tuple(self.failures)) if self.runs else None

    def sql(self, slug: str, statement: str) -> list[tuple[object, ...]]:
        """Runs one statement in a tenant, as its application would."""
        with psycopg.connect(self.dsns[TenantSlug(slug)], autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def new_fleet(new_database: Callable[[], str]) -> Callable[[int], Fleet]:
    """Makes a fleet of empty tenants ``t0``, ``t1`` and so on."""
    return lambda size: Fleet({TenantSlug(f"t{number}"): new_database() for number in range(size)})


def write_sql_folder(directory: Path, **files: str) -> Path:
    """A plain SQL folder: ``_0001_users="create table ..."`` is the file ``0001_users.sql``."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name.removeprefix('_')}.sql").write_text(text)
    return directory


def write_drizzle_folder(directory: Path, *migrations: tuple[str, int, str]) -> Path:
    """A Drizzle folder of migrations: tag, ``when`` and text."""
    (directory / "meta").mkdir(parents=True, exist_ok=True)
    entries = [
        {"idx": index, "version": "7", "when": when, "tag": tag, "breakpoints": True}
        for index, (tag, when, _) in enumerate(migrations)
    ]
    journal = {"version": "7", "dialect": "postgresql", "entries": entries}
    (directory / "meta/_journal.json").write_text(json.dumps(journal))
    for tag, _, text in migrations:
        (directory / f"{tag}.sql").write_text(text)
    return directory


@pytest.fixture
def sql_folder(tmp_path: Path) -> Callable[..., Path]:
    return lambda **files: write_sql_folder(tmp_path / "migrations", **files)


@pytest.fixture
def drizzle_folder(tmp_path: Path) -> Callable[..., Path]:
    return lambda *migrations: write_drizzle_folder(tmp_path / "drizzle", *migrations)


@pytest.fixture(scope="session")
def example_folder() -> Path:
    """The example project's folder, as drizzle-kit made it."""
    return Path(__file__).parents[3] / "examples/tasks/drizzle"


@dataclass(frozen=True)
class DrizzleKit:
    """One installed version of the real drizzle-kit, with drizzle-orm and node-postgres beside it."""

    home: Path
    first: bool
    """Whether it is of the 1.x, which have folders of another form."""

    def migrate(self, folder: Path, dsn: str) -> None:
        """``drizzle-kit migrate`` of ``folder`` into the database."""
        fields = psycopg.conninfo.conninfo_to_dict(dsn)
        url = f"postgresql://{fields['user']}:{fields['password']}@localhost/{fields['dbname']}?host={fields['host']}"
        self._run("migrate", folder, {"url": url})

    def converted(self, folder: Path, copy: Path) -> Path:
        """``folder`` in the form of this version: for 1.x a copy that ``drizzle-kit up`` has been over."""
        if not self.first:
            return folder
        shutil.copytree(folder, copy)
        self._run("up", copy, {"url": "postgresql://localhost/unused"})
        return copy

    def _run(self, verb: str, folder: Path, credentials: dict[str, str]) -> None:
        document = json.dumps(
            {"dialect": "postgresql", "out": os.path.relpath(folder, self.home), "dbCredentials": credentials}
        )
        name = secrets.token_hex(4)
        config = self.home / (f"{name}.config.mjs" if self.first else f"{name}.config.json")
        config.write_text(f"export default {document}" if self.first else document)
        command = ["node_modules/.bin/drizzle-kit", verb, f"--config={config.name}"]
        try:
            done = subprocess.run(command, cwd=self.home, capture_output=True, text=True, timeout=60, check=False)
        finally:
            config.unlink()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "rror" not in done.stderr, done.stderr


DRIZZLE_KITS = [("0.28.1", "0.36.4"), ("0.31.11", "0.45.4"), ("1.0.0-rc.5", "1.0.0-rc.5")]
"""The guide's version, the newest, and the newest of the coming 1.0, each with the drizzle-orm of its time."""


@pytest.fixture(scope="session")
def npm_home(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Installs packages once for each checkout, and gives their directory; skips where that cannot be done."""

    def install(name: str, *packages: str) -> Path:
        if shutil.which("npm") is None:
            pytest.skip(f"node and npm are not installed: the exchange with the real {name} is not tested")
        home = request.config.cache.mkdir(name)
        with (home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ready = home / "ready"
            if not ready.exists():
                options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(home)]
                command = ["npm", "install", *options, *packages]
                done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
                if done.returncode != 0:
                    assert not os.environ.get("CI"), done.stderr
                    pytest.skip(f"npm could not install {name}: {done.stderr.strip().splitlines()[-1]}")
                ready.touch()
        return home

    return install


@pytest.fixture(scope="session", params=DRIZZLE_KITS, ids=lambda each: each[0])
def drizzle_kit(request: pytest.FixtureRequest, npm_home: Callable[..., Path]) -> DrizzleKit:
    kit, orm = request.param
    home = npm_home(f"drizzle-kit-{kit}", f"drizzle-kit@{kit}", f"drizzle-orm@{orm}", "pg@8.23.1")
    return DrizzleKit(home, kit.startswith("1."))
