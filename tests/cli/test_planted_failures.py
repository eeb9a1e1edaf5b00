"""A rollout in which some tenants cannot be migrated: all others are, these are named with their reason, and once they
are mended the run is gone on with to the last tenant. Nothing is applied twice.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil
import psycopg
import pytest

from tenantry.fleet.main import Fleet, open_fleet
from tenantry.neon.ids import BranchId, EndpointId, ProjectId

if TYPE_CHECKING:
    from conftest import Operator

FIRST = "CREATE TABLE users (id int PRIMARY KEY, email text);\nCREATE TABLE audit (version text);\n"
SECOND = (
    "ALTER TABLE users ADD COLUMN phone text;\n"
    "CREATE UNIQUE INDEX users_email ON users (email);\n"
    "INSERT INTO audit VALUES ('0002');\n"
)
WAIT_SECONDS_MAX = 60.0


def test_all_but_the_broken_are_migrated_and_the_mended_follow(tenants: Tenants, chance: random.Random) -> None:
    prove(tenants(12), chance, of_each=1, options=["--failures", "50"])


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_of_200_tenants_5_percent_are_broken(tenants: Tenants, chance: random.Random) -> None:
    prove(tenants(200), chance, of_each=2, options=["--failures", "50"])


def prove(rollout: Rollout, chance: random.Random, *, of_each: int, options: Sequence[str] = ()) -> None:
    """Migrates while ``of_each`` tenants are broken in each way, and again once they are mended."""
    first = rollout.run()
    assert first["counts"]["applied"] == len(rollout.slugs)
    (rollout.folder / "0002_phone.sql").write_text(SECOND)
    # A canary that fails stops the run, as it should; that is another test's.
    others = [slug for slug, wave in rollout.waves().items() if wave != "canary"]
    chosen = chance.sample(others, of_each * len(FAILURES))
    broken = {slug: FAILURES[index % len(FAILURES)](rollout, slug) for index, slug in enumerate(chosen)}
    print("broken:", {slug: type(failure).__name__ for slug, failure in broken.items()})

    with ExitStack() as stack:
        for failure in broken.values():
            failure.plant()
            stack.callback(failure.mend)
        began = time.monotonic()
        second = rollout.run("--lock-timeout", "0.5", *options, code=3)
        print(f"{second['counts']} in {time.monotonic() - began:.1f} s")
        told = {each["tenant"]: each for each in second["tenants"]}
        assert {slug for slug, each in told.items() if each["outcome"] == "failed"} == broken.keys()
        for slug, failure in broken.items():
            print(f"{slug}: {told[slug]['failure']['message']}")
            failure.check(told[slug]["failure"])
        whole = [slug for slug in rollout.slugs if slug not in broken]
        assert {told[slug]["outcome"] for slug in whole} == {"applied"}
        assert rollout.states(whole) == {("0001,0002", "0002", True)}
        status = rollout.operator.json("migrate", "status", "--dir", str(rollout.folder))
        assert {each["tenant"] for each in status["last_failures"]} == broken.keys()

    # Rolled back without a trace, and no worse for it.
    assert rollout.states(list(broken)) == {("0001", None, False)}
    resumed = rollout.operator.json("migrate", "resume", second["run_id"])
    assert (resumed["state"], resumed["counts"]["failed"]) == ("finished", 0), resumed["tenants"]
    assert {each["tenant"]: each["outcome"] for each in resumed["tenants"]} == dict.fromkeys(rollout.slugs, "applied")
    attempts = {each["tenant"]: each["attempts"] for each in resumed["tenants"]}
    assert attempts == {slug: 2 if slug in broken else 1 for slug in rollout.slugs}
    assert rollout.states(rollout.slugs) == {("0001,0002", "0002", True)}
    assert rollout.run()["counts"]["skipped"] == len(rollout.slugs)


class Rollout:
    """Tenants of the cell, and one folder of migrations for them."""

    def __init__(self, operator: Operator, fleet: Fleet, folder: Path, projects: dict[str, ProjectId]) -> None:
        self.operator = operator
        self.fleet = fleet
        self.folder = folder
        self.projects = projects
        self.slugs = sorted(projects)

    def run(self, *options: str, code: int = 0) -> dict[str, Any]:
        return self._migrate("run", *options, code=code)

    def waves(self) -> dict[str, str]:
        return {each["tenant"]: each["wave"] for each in self._migrate("plan")["tenants"]}

    def _migrate(self, verb: str, *options: str, code: int = 0) -> dict[str, Any]:
        where = ("--dir", str(self.folder), "--tenants", ",".join(self.slugs))
        return json.loads(self.operator.do("migrate", verb, *where, *options, "--json", code=code).stdout)

    def connect(self, slug: str) -> psycopg.Connection[Any]:
        return psycopg.connect(self.fleet.url(slug), autocommit=True)

    def states(self, slugs: Sequence[str]) -> set[tuple[str | None, str | None, bool]]:
        """What these have, each kind once: the ledger, what the migrations wrote themselves, and the new column."""

        def state(slug: str) -> tuple[str | None, str | None, bool]:
            with self.connect(slug) as connection:
                found = connection.execute(
                    "SELECT (SELECT string_agg(version, ',' ORDER BY version) FROM tenantry.migrations),"
                    " (SELECT string_agg(version, ',') FROM audit), EXISTS (SELECT FROM information_schema.columns"
                    " WHERE table_name = 'users' AND column_name = 'phone')"
                ).fetchone()
            assert found is not None
            return found

        with ThreadPoolExecutor(4) as pool:
            return set(pool.map(state, slugs))

    def data_directory(self, slug: str) -> Path:
        (head,) = (self.operator.cell.data / "projects" / self.projects[slug]).iterdir()
        return head / "data"


Tenants = Callable[[int], Rollout]


@pytest.fixture
def tenants(operator: Operator, name: str, workdir: Path) -> Iterator[Tenants]:
    """Makes so many tenants; they leave with the test."""
    target = operator.cell.target
    (workdir / "0001_users.sql").write_text(FIRST)
    made: dict[str, ProjectId] = {}
    with open_fleet(target.api_url, target.api_key, target.catalog_url, at_a_time=4) as fleet:

        def make(count: int) -> Rollout:
            with ThreadPoolExecutor(4) as pool:
                for created in pool.map(fleet.create, [f"{name} {number}" for number in range(count)]):
                    assert created.tenant.project_id is not None
                    made[created.tenant.slug] = ProjectId(created.tenant.project_id)
            return Rollout(operator, fleet, workdir, made)

        yield make
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(partial(fleet.delete, grace=timedelta()), made))


# -- what can be wrong with a tenant -------------------------------------------------------------------------


class Failure(Protocol):
    """Something that keeps one tenant from being migrated."""

    def plant(self) -> None: ...

    def check(self, told: dict[str, Any]) -> None:
        """Asserts that the run says what it was."""
        ...

    def mend(self) -> None: ...


class LockHeld:
    """A session of the application has forgotten to end its transaction."""

    def __init__(self, rollout: Rollout, slug: str) -> None:
        self._rollout, self._slug = rollout, slug

    def plant(self) -> None:
        self._connection = self._rollout.connect(self._slug)
        self._connection.execute("BEGIN; SELECT * FROM users")

    def check(self, told: dict[str, Any]) -> None:
        assert (told["sqlstate"], told["file"], told["statement"]) == ("55P03", "0002_phone.sql", 1)
        assert "idle in transaction" in told["held_by"]

    def mend(self) -> None:
        self._connection.close()


class BadData:
    """What the new index wants to be unique is not."""

    def __init__(self, rollout: Rollout, slug: str) -> None:
        self._rollout, self._slug = rollout, slug

    def plant(self) -> None:
        self._run("INSERT INTO users VALUES (1, 'a@example.com'), (2, 'a@example.com')")

    def check(self, told: dict[str, Any]) -> None:
        assert (told["sqlstate"], told["file"], told["statement"]) == ("23505", "0002_phone.sql", 2)

    def mend(self) -> None:
        self._run("DELETE FROM users WHERE id = 2")

    def _run(self, statement: str) -> None:
        with self._rollout.connect(self._slug) as connection:
            connection.execute(statement.encode())


class DiskFull:
    """A file of the tenant's cannot grow: it lies on the one device that is always full."""

    def __init__(self, rollout: Rollout, slug: str) -> None:
        self._rollout, self._slug = rollout, slug

    def plant(self) -> None:
        with self._rollout.connect(self._slug) as connection:
            (path,) = connection.execute("SELECT pg_relation_filepath('audit')").fetchone() or ("",)
        self._rollout.fleet.suspend(self._slug)
        self._file = self._rollout.data_directory(self._slug) / path
        assert self._file.stat().st_size == 0
        self._aside = self._file.rename(self._file.with_name("aside"))
        self._file.symlink_to("/dev/full")

    def check(self, told: dict[str, Any]) -> None:
        assert (told["sqlstate"], told["file"], told["statement"]) == ("53100", "0002_phone.sql", 3)

    def mend(self) -> None:
        self._rollout.fleet.suspend(self._slug)
        self._file.unlink()
        self._aside.rename(self._file)


class Killed:
    """Its server is killed -9 in the middle of the migration."""

    def __init__(self, rollout: Rollout, slug: str) -> None:
        self._rollout, self._slug = rollout, slug
        self.killed = False
        self._watcher = threading.Thread(target=self._watch)

    def plant(self) -> None:
        with self._rollout.connect(self._slug) as connection:
            connection.execute(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
                " 'BEGIN PERFORM pg_sleep(60); RETURN new; END';"
                "CREATE TRIGGER slow BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION slow()"
            )
        self._watcher.start()

    def _watch(self) -> None:
        asleep = "SELECT FROM pg_stat_activity WHERE application_name = 'tenantry migrate' AND wait_event = 'PgSleep'"
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        with self._rollout.connect(self._slug) as connection:
            while not connection.execute(asleep).fetchall():
                assert time.monotonic() < deadline, "the migration was not seen"
                time.sleep(0.05)
        pidfile = self._rollout.data_directory(self._slug) / "postmaster.pid"
        postmaster = psutil.Process(int(pidfile.read_text().splitlines()[0]))
        assert postmaster.name() == "postgres"
        os.kill(postmaster.pid, signal.SIGKILL)
        self.killed = True

    def check(self, told: dict[str, Any]) -> None:
        self._watcher.join(WAIT_SECONDS_MAX)
        assert self.killed
        assert (told["kind"], told["next_step"]) == ("connection_lost", "nothing of this run was kept; run again")

    def mend(self) -> None:
        if self._watcher.is_alive():
            self._watcher.join(WAIT_SECONDS_MAX)
        with self._rollout.connect(self._slug) as connection:
            connection.execute("DROP FUNCTION IF EXISTS slow CASCADE")


class Gone:
    """Somebody has deleted its endpoint at the provider, where the fleet does not see it."""

    def __init__(self, rollout: Rollout, slug: str) -> None:
        self._client, self._project = rollout.fleet.client, rollout.projects[slug]

    def plant(self) -> None:
        (endpoint,) = self._client.list_endpoints(self._project)
        self._branch = BranchId(endpoint.branch_id)
        self._client.delete_endpoint(self._project, EndpointId(endpoint.id))

    def check(self, told: dict[str, Any]) -> None:
        assert told["kind"] == "connect"
        assert "endpoint" in told["message"]

    def mend(self) -> None:
        self._client.create_endpoint(self._project, self._branch)


FAILURES: list[Callable[[Rollout, str], Failure]] = [LockHeld, BadData, DiskFull, Killed, Gone]
