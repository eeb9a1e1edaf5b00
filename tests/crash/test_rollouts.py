"""Runs of migrations in a whole installation whose processes die at random: its workers, whoever runs the command, the
control process, servers of tenants, the catalog's, or all at once. However it went, ledgers and schemas agree, the
catalog knows it, and nothing is applied twice.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

from tenantry.errors import Conflict, Unavailable
from tenantry.fleet.catalog import runs
from tenantry.fleet.catalog.records import Run
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.gates import Gates
from tenantry.fleet.migrations.run import RunOptions, is_alive, resume_run
from tenantry.fleet.migrations.selection import Selection
from tenantry.runtime import child
from tenantry.testing.throwaway import ThrowawayCell

from ..ports import reserved

if TYPE_CHECKING:
    from conftest import CellMaker

WORKER = Path(__file__).with_name("hurried_worker.py")
ROUND_SECONDS_MAX = 120.0
WORK_SECONDS_MAX = 20.0
OPTIONS = RunOptions(jobs=3, golden=True, gates=Gates(failures_percent=100))
PLAIN = """\
ALTER TABLE t ADD COLUMN c_{number} int;
INSERT INTO applied VALUES ('{version}');
SELECT pg_sleep(0.2);
"""
STEPWISE = """\
ALTER TABLE t ADD COLUMN c_{number} int;
INSERT INTO applied VALUES ('{version}');
CREATE INDEX CONCURRENTLY i_{number} ON t (c_{number});
SELECT pg_sleep(0.2);
"""


pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("rounds", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(5_400)])])
def test_random_kills_during_runs_apply_everything_once(
    installation: Installation, chance: random.Random, rounds: int
) -> None:
    installation.begin(tenants=8)
    for number in range(1, rounds + 1):
        for said in installation.one_round(number, chance):
            print(f"round {number}: {said}")
        installation.agrees(number)


def test_of_two_workers_one_is_killed_and_the_other_does_the_rest(installation: Installation) -> None:
    """``migrate run --workers 2``, as the operator types it."""
    installation.begin(tenants=8)
    installation.write(1, PLAIN)
    options = ["--workers", "2", "--jobs", "2", "--lock-timeout", str(ROUND_SECONDS_MAX), "--json"]
    victim = installation.workers[0]

    def both() -> bool:
        carriers = installation.carriers()
        return len(carriers) == 2 and any(f"/{victim.pid}/" in carrier for carrier in carriers)

    # No tenant is done before both were seen, however slow or quick they are.
    with installation.held():
        command = installation.command("run", "--dir", str(installation.folder), *options)
        installation.until(both, "both are at work")
        victim.kill()
        victim.wait()
    assert command.wait(ROUND_SECONDS_MAX) == 0, installation.said(command)
    (run,) = [json.loads(installation.said(command))]
    assert (run["state"], run["counts"]["applied"] + run["counts"]["current"]) == ("finished", 8)
    assert sum(tenant["attempts"] > 1 for tenant in run["tenants"]) <= 2, "only what it had in hand was taken anew"
    installation.agrees(1)


# -- an installation and its processes -----------------------------------------------------------------------


@dataclass
class Installation:
    """A cell with a fleet, its workers, and tenants whose migrations count themselves."""

    cell: ThrowawayCell
    folder: Path
    born: Callable[..., Any]
    workers: list[Any] = field(default_factory=list[Any])
    commands: list[Any] = field(default_factory=list[Any])
    slugs: list[str] = field(default_factory=list[str])

    def begin(self, *, tenants: int) -> None:
        """Starts it with two workers."""
        self.cell.start()
        self.workers = [self.new_worker(), self.new_worker()]
        self.write(0, "CREATE TABLE t ();\nCREATE TABLE applied (version text);\n")
        with self.fleet() as fleet, ThreadPoolExecutor(4) as pool:
            made = pool.map(fleet.create, [f"Customer {number}" for number in range(tenants)])
            self.slugs = sorted(each.tenant.slug for each in made)
            fleet.migrate(self.folder, options=OPTIONS)

    def fleet(self) -> Fleet:
        target = self.cell.target
        return open_fleet(target.api_url, target.api_key, target.catalog_url)

    def write(self, number: int, text: str) -> None:
        version = f"{number:04}"
        (self.folder / f"{version}_m.sql").write_text(text.format(number=number, version=version))

    def new_worker(self) -> Any:
        options = ["--data", str(self.cell.data), "--queues", "tenants"]
        return self.born("workers", ["worker", *options], WORKER)

    def command(self, *arguments: str) -> Any:
        """``tenantry migrate`` in a process of its own."""
        self.commands.append(
            self.born(f"command-{len(self.commands)}", ["migrate", *arguments, "--data", str(self.cell.data)])
        )
        return self.commands[-1]

    def said(self, command: Any) -> str:
        return (self.folder.parent / f"command-{self.commands.index(command)}.out").read_text()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What alters the table ``t`` of a tenant waits."""
        with self.fleet() as fleet, ExitStack() as opened:
            for slug in self.slugs:
                opened.enter_context(psycopg.connect(fleet.url(slug))).execute("SELECT FROM t")
            yield

    def carriers(self) -> list[str]:
        """Who has tenants of the open run in hand."""
        with self.fleet() as fleet, fleet.catalog.transaction() as connection:
            return [
                worker for run in runs.open_runs(connection)
                for worker in runs.workers_of(connection, run.id, stalled_seconds=45)
            ]  # fmt: skip

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + ROUND_SECONDS_MAX
        while not condition():
            assert time.monotonic() < deadline, f"in {ROUND_SECONDS_MAX:g} s it did not come to: {what}"
            time.sleep(0.05)

    # -- a round -----------------------------------------------------------------------------------------------

    def one_round(self, number: int, chance: random.Random) -> Iterator[str]:
        """One more migration, in a run during which something dies; says what it does."""
        self.write(number, STEPWISE if chance.random() < 0.3 else PLAIN)
        with self.fleet() as fleet:
            run = fleet.begin_run(open_folder(self.folder), Selection(), OPTIONS).run
        by_workers = chance.random() < 0.5
        yield f"{run.id} by {'workers' if by_workers else 'the command'}"
        runner = None if by_workers else self.command("resume", run.id)
        if by_workers:
            with self.fleet() as fleet:
                fleet.hand_out(run, 2)
        for _ in range(chance.randint(1, 3)):
            if chance.random() < 0.8:
                self._until_at_work(run, runner)
            time.sleep(chance.random() * 1.2)
            yield self.strike(chance, runner)
        yield from self._until_finished(run, runner)

    def _until_at_work(self, run: Run, runner: Any | None) -> None:
        """Until tenants are in hand: earlier a kill proves little. Returns also where nobody is left to come to it."""
        deadline = time.monotonic() + WORK_SECONDS_MAX
        while time.monotonic() < deadline and (runner is None or runner.poll() is None):
            try:
                with self.fleet() as fleet, fleet.catalog.transaction() as connection:
                    in_hand = any(wave.in_hand for wave in runs.waves(connection, run.id, stalled_seconds=45))
                if in_hand and any(map(is_alive, self.carriers())):
                    return
            except Unavailable:
                pass
            if (now := self._state(run)) is not None and now.state != "running":
                return
            time.sleep(0.02)

    def strike(self, chance: random.Random, runner: Any | None) -> str:
        """Kills one thing, and lets it be started again as whoever watches over it would."""
        what = chance.choice(["worker" if runner is None else "command", "cell", "postgres", "catalog", "everything"])
        if what == "command" and runner is not None:
            runner.kill()
        elif what == "worker":
            self._kill_worker(chance.randrange(2))
        elif what == "cell":
            self.cell.kill()
            self.cell.start()
        elif what == "everything":
            self.cell.kill()
            for process in self.cell.leftovers():
                child.kill(process, signal.SIGKILL)
            for number in range(2):
                self._kill_worker(number)
            if runner is not None:
                runner.kill()
            self.cell.start()
        else:
            catalog = str(json.loads((self.cell.data / "fleet.json").read_text())["catalog_project_id"])
            servers = [pid for pid, project in self._servers() if (project == catalog) == (what == "catalog")]
            if not servers:
                return f"no server of {what} to kill"
            try:
                os.kill(chance.choice(sorted(servers)), signal.SIGKILL)
            except ProcessLookupError:
                return f"a server of {what} had ended by itself"
        return f"killed {what}"

    def _kill_worker(self, number: int) -> None:
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self.new_worker()

    def _servers(self) -> Iterator[tuple[int, str]]:
        """Postmasters, with their projects."""
        for process in self.cell.leftovers():
            try:
                found = psutil.Process(process.pid)
                if "-D" in found.cmdline() and found.name() == "postgres":
                    yield process.pid, Path(found.cwd()).relative_to(self.cell.data / "projects").parts[0]
            except (psutil.NoSuchProcess, ValueError):
                continue

    def _until_finished(self, run: Run, runner: Any | None) -> Iterator[str]:
        """Goes on with it as an operator would, until no tenant is left."""
        deadline = time.monotonic() + ROUND_SECONDS_MAX
        while True:
            ended = None if runner is None else runner.poll()
            now = self._state(run)
            if now is not None and now.state == "finished" and not now.counts.get("failed"):
                break
            assert time.monotonic() < deadline, f"{run.id} is {now}"
            if ended is not None:
                yield f"the command ended with {ended}: resumed"
                runner = self.command("resume", run.id)
            if runner is None and now is not None and now.state != "running":
                yield f"it is {now.state} ({now.reason}, {now.counts}): resumed"
                self._hand_out_again(now)
            time.sleep(0.1)
        if runner is not None:
            # 1 where the catalog was away when it ended, so that it was resumed once too often.
            assert runner.wait(ROUND_SECONDS_MAX) in (0, 1, -signal.SIGKILL), self.said(runner)

    def _state(self, run: Run) -> Run | None:
        """None while the catalog is away."""
        try:
            with self.fleet() as fleet, fleet.catalog.transaction() as connection:
                return runs.run_by_id(connection, run.id)
        except Unavailable:
            return None

    def _hand_out_again(self, run: Run) -> None:
        try:
            with self.fleet() as fleet:
                fleet.hand_out(resume_run(fleet.catalog, run), 2)
        except (Unavailable, Conflict):
            return  # the next look tries again

    # -- what must be true ---------------------------------------------------------------------------------------

    def agrees(self, newest: int) -> None:
        versions = [f"{number:04}" for number in range(newest + 1)]
        with self.fleet() as fleet:
            for slug in self.slugs:
                tenant = fleet.show(slug).tenant
                assert tenant.schema_version == versions[-1], f"the catalog does not know it of {slug}"
                with psycopg.connect(fleet.url(slug), autocommit=True) as connection:
                    state = _state_of(connection)
                assert state == {
                    "ledger": versions,
                    "applied": versions[1:],
                    "columns": sorted(f"c_{number}" for number in range(1, newest + 1)),
                    "half_applied": 0,
                    "invalid": [],
                }, slug
            with fleet.catalog.transaction() as connection:
                assert runs.open_runs(connection) == []


def _state_of(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    def ask(query: str) -> Any:
        (row,) = connection.execute(query.encode()).fetchall()
        return row[0]

    progress = ask("SELECT to_regclass('tenantry.migration_progress') IS NOT NULL")
    return {
        "ledger": ask("SELECT array_agg(version ORDER BY version) FROM tenantry.migrations"),
        "applied": ask("SELECT coalesce(array_agg(version ORDER BY version), '{}') FROM applied"),
        "columns": ask(
            "SELECT coalesce(array_agg(attname::text ORDER BY attname::text), '{}') FROM pg_attribute"
            " WHERE attrelid = 't'::regclass AND attnum > 0"
        ),
        "half_applied": ask("SELECT count(*) FROM tenantry.migration_progress") if progress else 0,
        "invalid": ask(
            "SELECT coalesce(array_agg(indexrelid::regclass::text), '{}') FROM pg_index"
            " WHERE NOT indisvalid OR NOT indisready"
        ),
    }


@pytest.fixture
def installation(make_cell: CellMaker, workdir: Path, nurseries: Any) -> Iterator[Installation]:
    cell = make_cell("d", "--spares", "2", "--no-worker")
    cell.options.remove("--no-fleet")
    folder = workdir / "migrations"
    folder.mkdir()

    def born(name: str, arguments: list[str], script: Path | None = None) -> Any:
        out, err = workdir / f"{name}.out", workdir / f"{name}.err"
        environment = dict(os.environ)
        return nurseries.give_birth(arguments, environment, out=out, err=err, directory=workdir, script=script)

    made = Installation(cell, folder, born)
    with reserved(2) as ports:  # which it keeps while it is dead
        cell.http, cell.postgres = (f"127.0.0.1:{port}" for port in ports)
        yield made
        for process in made.workers:
            process.kill()
            process.wait()
        for command in made.commands:
            command.kill()
            command.wait()
