"""A small fleet: databases of one real server as tenants of a real catalog."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import psycopg
import pytest

from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Run
from tenantry.fleet.migrated import MigratedTenants
from tenantry.fleet.migrations.events import Event, TenantFinished
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import Plan, make_plan
from tenantry.fleet.migrations.results import TenantResult, exit_code, run_document
from tenantry.fleet.migrations.run import Begun, RunOptions, begin_run
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug
from tenantry.fleet.migrations.work import Work, folder_of_run

if TYPE_CHECKING:
    from ...forks import Born, Nurseries

_RUNNER = Path(__file__).with_name("runner.py")


def no_provider(_tenant: object) -> Any:
    raise AssertionError("no provider is asked")


class Fleet(MigratedTenants):
    """Tenants of a catalog whose DSNs are known here. ``asked`` has each whose DSN somebody wanted, in order."""

    GATE = "select pg_advisory_xact_lock(5);"
    """What a migration waits at in tenants that are shut. Its lock timeout must be long."""

    def __init__(self, catalog: Catalog) -> None:
        super().__init__(catalog, no_provider)
        self.catalog = catalog
        self.dsns: dict[str, str] = {}
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def add(self, slug: str, dsn: str, **customer: str) -> None:
        with self.catalog.transaction() as connection:
            tenant, _ = queries.intend_tenant(
                connection, slug=slug, name=slug, email=None, plan=customer.get("plan", "launch"), region=None,
                pg_version=None,
            )  # fmt: skip
            queries.mark_ready(
                connection, tenant.id, project_id=f"project-{slug}", region=customer.get("region", "here"),
                pg_version=18, database_name="d", role_name="r",
            )  # fmt: skip
            if "window" in customer:
                connection.exec_driver_sql(
                    "UPDATE customer SET maintenance_window = %s WHERE slug = %s", (customer["window"], slug)
                )
        self.dsns[slug] = dsn

    def select(self, slugs: Sequence[str] | None = None, **narrowed: Any) -> Iterable[TenantRef]:
        return super().select(slugs, **narrowed)

    def dsn(self, slug: TenantSlug) -> str:
        with self._lock:
            self.asked.append(slug)
        return self.dsns[slug]

    @property
    def known(self) -> dict[str, SchemaState]:
        """What the catalog knows of their schemas."""
        return {tenant.slug: tenant.known for tenant in self.select(None) if tenant.known is not None}

    def know(self, slug: str, state: SchemaState) -> None:
        self.record(TenantSlug(slug), state)

    def forget(self) -> None:
        """The catalog has never looked into any ledger."""
        with self.catalog.transaction() as connection:
            connection.exec_driver_sql(
                "UPDATE project SET schema_version = NULL, schema_format = NULL, schema_fingerprint = NULL,"
                " schema_seen_at = NULL"
            )

    def sql(self, slug: str, statement: str) -> list[tuple[object, ...]]:
        """Runs one statement in a tenant, as its application would."""
        with psycopg.connect(self.dsns[slug], autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def shut(self, *slugs: str) -> Iterator[Callable[[], None]]:
        """These tenants are, until what is given is called, which may be twice."""
        with ExitStack() as sessions:
            for slug in slugs:
                session = sessions.enter_context(psycopg.connect(self.dsns[slug], autocommit=True))
                session.execute("select pg_advisory_lock(5)")
            yield sessions.close

    def let_end(self, slug: str) -> None:
        """Waits for runners that have gone: a server notices the end of a session, and frees its locks, in a while."""
        self.sql(slug, "select pg_advisory_xact_lock(x'74656E616E747279'::bigint)")

    # -- runs --------------------------------------------------------------------------------------------------

    def plan(self, directory: Path, slugs: Sequence[str] | None = None, **planning: Any) -> Plan:
        through = planning.pop("through", None)
        return make_plan(open_folder(directory, through=through), self.select(slugs), **planning)

    def begin(
        self,
        directory: Path,
        slugs: Sequence[str] | None = None,
        *,
        options: RunOptions | None = None,
        through: str | None = None,
        trust_catalog: bool = True,
    ) -> Begun:
        folder = open_folder(directory, through=through)
        return begin_run(
            self.catalog,
            folder,
            lambda: self.select(slugs),
            options=options or RunOptions(),
            trust_catalog=trust_catalog,
        )

    def work(self, run: Run, on_event: Callable[[Event], None] = lambda _: None, **more: Any) -> Run:
        with folder_of_run(self.catalog, run) as folder:
            return Work(self.catalog, self, run, folder, on_event=on_event, **more).execute()

    def roll_out(
        self,
        directory: Path,
        slugs: Sequence[str] | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
        **beginning: Any,
    ) -> RolledOut:
        """Plans, begins and carries out a run, and looks at what it told."""
        listed = [tenant.slug for tenant in self.select(slugs)]
        begun = self.begin(directory, slugs, **beginning)
        results: dict[str, TenantResult] = {}

        def listen(event: Event) -> None:
            if isinstance(event, TenantFinished):
                assert event.result.slug not in results or results[event.result.slug].outcome == "not_started"
                results[event.result.slug] = event.result
            on_event(event)

        run = self.work(begun.run, listen)
        other: Any = "skipped" if run.state == "finished" else "not_started"
        every = (results.get(slug) or TenantResult(slug=slug, outcome=other) for slug in listed)
        return RolledOut(run, begun, tuple(every))


@dataclass(frozen=True)
class RolledOut:
    run: Run
    begun: Begun
    results: tuple[TenantResult, ...]
    """Of each that was selected, in order."""

    @property
    def failed(self) -> tuple[TenantResult, ...]:
        return tuple(result for result in self.results if result.outcome == "failed")

    @property
    def outcomes(self) -> dict[str, str]:
        """``skipped`` those that were not visited although the run ended."""
        return {result.slug: result.outcome for result in self.results}

    @property
    def exit_code(self) -> int:
        return exit_code(self.run)

    def as_dict(self) -> dict[str, object]:
        return run_document(self.run) | {"tenants": [each.as_dict() for each in self.results]}


@pytest.fixture
def new_fleet(new_database: Callable[[], str], catalog: Catalog) -> Callable[[int], Fleet]:
    """Makes a fleet of empty tenants ``t0``, ``t1`` and so on."""

    def make(size: int) -> Fleet:
        fleet = Fleet(catalog)
        for number in range(size):
            fleet.add(f"t{number}", new_database())
        return fleet

    return make


class Runner:
    """``runner.py`` in a process of its own."""

    def __init__(self, born: Born, stdout: TextIO, errors: Path) -> None:
        self._born = born
        self._errors = errors
        self.pid = born.pid
        self.stdout = stdout
        """A pipe: what it says is there at once, and ends with it."""
        self.wait = born.wait
        self.poll = born.poll
        self.kill = born.kill
        self.send_signal = born.send_signal

    def end(self) -> int:
        """Waits for it, and returns how it ended; what it said and nobody read is shown when the test fails."""
        print(self.stdout.read())
        code = self.wait(60)
        print(self._errors.read_text())
        return code


StartRunner = Callable[..., AbstractContextManager[Runner]]


@pytest.fixture
def start_runner(nurseries: Nurseries, workdir: Path) -> StartRunner:
    """A runner of a run on tenants whose DSNs, and the catalog's, are files of one directory."""

    @contextmanager
    def start(run: str, fleet: Path, failpoints: str = "") -> Iterator[Runner]:
        name = secrets.token_hex(4)
        pipe, errors = workdir / f"{name}.out", workdir / f"{name}.err"
        os.mkfifo(pipe)
        born = nurseries.give_birth(
            [str(fleet), str(fleet / "catalog"), run],
            {**os.environ, "TENANTRY_FAILPOINTS": failpoints},
            out=pipe, err=errors, directory=workdir, script=_RUNNER,
        )  # fmt: skip
        with pipe.open() as stdout:
            try:
                yield Runner(born, stdout, errors)
            finally:
                born.kill()
                born.wait(60)

    return start


def tenant_refs(known: Sequence[SchemaState | None]) -> list[TenantRef]:
    return [TenantRef(TenantSlug(f"t{number}"), state) for number, state in enumerate(known)]


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


@pytest.fixture(name="write_drizzle")
def write_drizzle_fixture() -> Callable[..., Path]:
    return write_drizzle_folder


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
