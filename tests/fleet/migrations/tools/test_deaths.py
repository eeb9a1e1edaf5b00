"""The tool, the runner or both are killed, hang or lie: every tenant has everything once, or is told of; no secrets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest

from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.run import RunOptions
from tenantry.fleet.migrations.tenant_sql import ADVISORY_LOCK_KEY

if TYPE_CHECKING:
    from conftest import AlembicHome, DjangoHome

    from ..conftest import StartRunner

pytestmark = pytest.mark.timeout(400)  # a dozen starts of a process, on machines with other things to do

RUNNER = Path(__file__).parents[1] / "runner.py"
WAIT_SECONDS_MAX = 60
ASLEEP = "select count(*) from pg_stat_activity where query like '%pg_sleep(1002)%' and pid <> pg_backend_pid()"
SLEEPS = 'op.execute("create table half (x int)")\nop.execute("select pg_sleep(1002)")'
QUICK = 'op.execute("create table half (x int)")'


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


@pytest.fixture
def watching(postgres_server: str) -> Iterator[Callable[[str], Any]]:
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as connection:

        def ask(sql: str) -> Any:
            row = connection.execute(sql.encode()).fetchone()
            assert row is not None
            return row[0]

        yield ask


@pytest.fixture
def fleet_directory(new_fleet: Callable[[int], Any], tmp_path: Path) -> Callable[[int], tuple[Any, Path]]:
    """A fleet, and the same as files for a runner in a process of its own."""

    def make(size: int) -> tuple[Any, Path]:
        fleet, directory = new_fleet(size), tmp_path / "fleet"
        directory.mkdir()
        (directory / "catalog").write_text(fleet.catalog.url)
        for slug, dsn in fleet.dsns.items():
            (directory / f"{slug}.dsn").write_text(dsn)
        return fleet, directory

    return make


def children_of(pid: int) -> list[psutil.Process]:
    """The tools at work below it. Others of its children may end while we look."""
    found: list[psutil.Process] = []
    for each in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "inside" in " ".join(each.cmdline()):
                found.append(each)
    return found


def in_thread(run: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run()))
    thread.start()
    return thread, results


@pytest.mark.crash
def test_kill_9_of_the_tool_in_a_migration_rolls_it_back_and_the_others_go_on(
    new_alembic: Callable[..., AlembicHome],
    new_fleet: Callable[[int], Any],
    roll_out: Callable[..., Any],
    watching: Callable[[str], Any],
) -> None:
    project, fleet = new_alembic(), new_fleet(2)
    fleet.sql("t0", "create table slow ()")
    wait = "if op.get_bind().exec_driver_sql(\"select to_regclass('slow') is not null\").scalar():\n"
    r3 = project.revise("r3", f'{QUICK}\n{wait}    op.execute("select pg_sleep(1002)")', after="r2")
    before = {each.pid for each in children_of(os.getpid())}
    thread, results = in_thread(lambda: roll_out(fleet, project.directory))
    wait_for(lambda: watching(ASLEEP) == 1)
    working = [each for each in children_of(os.getpid()) if each.pid not in before]
    assert working
    with psycopg.connect(fleet.dsns["t0"]) as connection:
        free = connection.execute("select pg_try_advisory_lock(%s)", [ADVISORY_LOCK_KEY]).fetchone()
        assert free == (False,), "somebody else could migrate it now"
    wait_for(lambda: fleet.known.get("t1") is not None)
    for each in working:
        with suppress(psutil.NoSuchProcess):  # the other tenant's has done its work
            each.send_signal(signal.SIGKILL)
    thread.join(WAIT_SECONDS_MAX)
    killed, done = results[0].results
    assert done.applied == ("r1", "r2", "r3")
    assert (killed.outcome, killed.failure.kind) == ("failed", "tool")
    assert "killed by signal 9" in killed.failure.message
    # Its statement would have gone on at the server.
    assert watching(ASLEEP) == 0
    assert killed.applied == ()
    assert fleet.sql("t0", "select to_regclass('half') is null") == [(True,)]
    project.revise("r3", QUICK, after="r2")
    assert r3.exists()
    first, _ = roll_out(fleet, project.directory).results
    assert first.applied == ("r1", "r2", "r3")


@pytest.mark.crash
def test_kill_9_of_the_runner_takes_the_tool_with_it_and_the_next_run_ends_what_it_left_at_the_server(
    new_alembic: Callable[..., AlembicHome],
    fleet_directory: Callable[[int], tuple[Any, Path]],
    roll_out: Callable[..., Any],
    watching: Callable[[str], Any],
    start_runner: StartRunner,
) -> None:
    project = new_alembic()
    fleet, directory = fleet_directory(1)
    project.revise("r3", SLEEPS, after="r2")
    with start_runner(fleet.begin(project.directory).run.id, directory) as process:
        wait_for(lambda: watching(ASLEEP) == 1)
        tools = children_of(process.pid)
        assert tools
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_SECONDS_MAX)
        _, alive = psutil.wait_procs(tools, timeout=WAIT_SECONDS_MAX)
        assert not alive, "a tool works on without its runner"
    project.revise("r3", QUICK, after="r2")
    (only,) = roll_out(fleet, project.directory).results
    assert only.applied == ("r1", "r2", "r3"), only
    assert watching(ASLEEP) == 0


@pytest.mark.crash
@pytest.mark.parametrize("point", ["migrate.judged", "migrate.applied", "migrate.committed", "migrate.recorded"])
def test_kill_9_of_the_runner_at_each_step_then_rerun_applies_everything_once(
    point: str,
    django: DjangoHome,
    fleet_directory: Callable[[int], tuple[Any, Path]],
    start_runner: StartRunner,
) -> None:
    fleet, directory = fleet_directory(2)
    django.add("0003_once", "migrations.RunSQL('create table once (x int)')", after="0002_user_note")
    run = fleet.begin(django.directory, options=RunOptions(jobs=2)).run
    count = 1 if point == "migrate.recorded" else 2  # results are written together
    with start_runner(run.id, directory, f"{point}=kill:{count}") as process:
        assert process.end() == -signal.SIGKILL
    with start_runner(run.id, directory) as process:
        assert process.end() == 0
    for slug in fleet.dsns:
        assert fleet.sql(slug, "select count(*) from django_migrations where name = '0003_once'") == [(1,)]
        assert fleet.known[slug].version == "tasks.0003_once"


def test_two_runners_at_once_apply_everything_once(
    new_alembic: Callable[..., AlembicHome],
    fleet_directory: Callable[[int], tuple[Any, Path]],
    start_runner: StartRunner,
) -> None:
    project = new_alembic()
    fleet, directory = fleet_directory(4)
    project.revise("r3", 'op.execute("create table once (x int)")', after="r2")
    run = fleet.begin(project.directory).run
    with start_runner(run.id, directory) as first, start_runner(run.id, directory) as second:
        events = [json.loads(line) for each in (first, second) for line in each.stdout]
    finished = [each for each in events if each["event"] == "tenant_finished"]
    # Each takes what the other has not in hand.
    assert sorted((each["tenant"], each["outcome"]) for each in finished) == [(slug, "applied") for slug in fleet.dsns]


def test_a_tool_that_says_it_is_done_is_not_believed_and_one_that_died_after_its_work_is(
    new_alembic: Callable[..., AlembicHome], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    project, fleet = new_alembic(), new_fleet(1)
    env = project.directory / "migrations/env.py"
    kept = env.read_text()
    env.write_text("# nothing is run here\n")
    (only,) = roll_out(fleet, project.directory).results
    assert (only.outcome, only.failure.kind) == ("failed", "tool")
    assert only.failure.message == "the tool says that it is done, and r1 is not in the tenant's ledger"
    env.write_text(f"{kept}\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    (only,) = roll_out(fleet, project.directory).results
    assert (only.outcome, only.applied) == ("applied", ("r1", "r2"))
    assert "the ledger has everything" in only.notes[0]


def test_a_tool_that_hangs_is_ended_and_so_is_one_that_waits_for_a_lock(
    new_alembic: Callable[..., AlembicHome],
    new_fleet: Callable[[int], Any],
    roll_out: Callable[..., Any],
    watching: Callable[[str], Any],
) -> None:
    project, fleet = new_alembic(), new_fleet(1)
    roll_out(fleet, project.directory)
    project.revise("r3", SLEEPS, after="r2")
    (only,) = roll_out(fleet, project.directory, tool_seconds=3.0).results
    assert "after 3 s" in only.failure.message
    assert watching(ASLEEP) == 0
    (only,) = roll_out(fleet, project.directory, statement_seconds=0.5).results
    assert (only.failure.kind, only.failure.sqlstate) == ("sql", "57014")
    project.revise("r3", 'op.add_column("users", sa.Column("age", sa.Integer))', after="r2")
    with psycopg.connect(fleet.dsns["t0"]) as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", [ADVISORY_LOCK_KEY])
        (only,) = roll_out(fleet, project.directory, lock_seconds=0.5).results
        assert only.failure.kind == "locked"
        connection.rollback()
        connection.execute("lock table users")
        (only,) = roll_out(fleet, project.directory, lock_seconds=0.5).results
    assert (only.failure.kind, only.failure.sqlstate) == ("sql", "55P03")
    assert roll_out(fleet, project.directory).results[0].applied == ("r3",)


def test_the_password_is_in_no_command_line_and_in_no_output(
    new_alembic: Callable[..., AlembicHome],
    fleet_directory: Callable[[int], tuple[Any, Path]],
    watching: Callable[[str], Any],
) -> None:
    project = new_alembic()
    fleet, directory = fleet_directory(1)
    password = str(psycopg.conninfo.conninfo_to_dict(fleet.dsns["t0"])["password"])
    url = 'context.config.get_main_option("sqlalchemy.url")'
    tells = f"print({url})\nraise RuntimeError({url})"
    project.revise("r3", f'from alembic import context\nop.execute("{fleet.GATE}")\n{tells}', after="r2")
    at_the_gate = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and wait_event = 'advisory'"
    # Not a fork: those have the command line of what they were forked from.
    command = [sys.executable, str(RUNNER), str(directory), str(directory / "catalog")]
    run = fleet.begin(project.directory, options=RunOptions(bounds=Bounds(lock_seconds=WAIT_SECONDS_MAX))).run
    with (
        fleet.shut("t0") as open_it,
        subprocess.Popen([*command, run.id], stdout=subprocess.PIPE, text=True) as process,
    ):
        wait_for(lambda: watching(at_the_gate) == 1)
        lines = [each.cmdline() for each in [psutil.Process(process.pid), *children_of(process.pid)]]
        open_it()
        output, _ = process.communicate(timeout=WAIT_SECONDS_MAX)
    assert len(lines) > 1
    assert password not in str(lines)
    assert "RuntimeError: postgresql" in output
    assert "***" in output
    assert password not in output
