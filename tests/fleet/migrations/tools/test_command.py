"""Commands: what they are told, what their exit status means, how they are ended, and what is remembered of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.events import Event, TenantFinished
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import make_plan
from tenantry.fleet.migrations.run import RunOptions
from tenantry.fleet.migrations.work import Work, folder_of_run

ENDED_SECONDS_MAX = 60.0


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """A directory with a tenantry.toml that says this command."""

    def make(command: str, more: str = 'files = ["migrations/*"]') -> Path:
        (tmp_path / "migrations").mkdir(exist_ok=True)
        (tmp_path / "migrations/0001_users.sql").write_text("create table users (id int)")
        (tmp_path / "tenantry.toml").write_text(f"[migrations]\ncommand = '''{command}'''\n{more}\n")
        return tmp_path

    return make


PSQL = 'psql "$DATABASE_URL" -q -v ON_ERROR_STOP=1 -f migrations/0001_users.sql'
PYTHON = """python3 -c 'import os; print(*map(os.environ.get, ["PGDATABASE", "TENANTRY_TENANT", "PGPASSWORD"]))'"""


def test_a_command_has_the_tenant_in_its_environment_and_is_remembered(
    project: Callable[..., Path], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any], engine_directory: Path
) -> None:
    psql = engine_directory / "bin/psql"
    command = PSQL if not psql.exists() else PSQL.replace("psql", str(psql), 1)
    directory, fleet = project(command), new_fleet(2)
    result = roll_out(fleet, directory)
    assert [each.outcome for each in result.results] == ["applied"] * 2, result
    version = result.results[0].applied[0]
    assert version.startswith("0001_users@")
    assert fleet.sql("t0", "select version from tenantry.migrations_by_command") == [(version,)]
    assert fleet.sql("t1", "select count(*) from users") == [(0,)]
    fleet.asked.clear()
    assert list(roll_out(fleet, directory).outcomes.values()) == ["skipped"] * 2
    assert fleet.asked == []


def test_a_changed_file_is_a_new_version_and_an_older_checkout_is_held_back(
    project: Callable[..., Path], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    directory, fleet = project("true"), new_fleet(1)
    first = roll_out(fleet, directory).results[0].applied
    added = directory / "migrations/0002_notes.sql"
    added.write_text("")
    folder = open_folder(directory)
    assert [(each.standing, each.pending) for each in make_plan(folder, fleet.select()).tenants] == [
        ("behind", (folder.migrations[-1].version,))
    ]
    second = roll_out(fleet, directory).results[0].applied
    assert second[0].startswith("0002_notes@")
    added.unlink()
    failure = roll_out(fleet, directory).results[0].failure
    assert failure.kind == "ahead"
    assert second[0] in failure.message
    assert fleet.sql("t0", "select version from tenantry.migrations_by_command order by id") == [first, second]


def test_a_failing_command_leaves_no_row_and_its_output_has_no_password(
    project: Callable[..., Path], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any]
) -> None:
    directory, fleet = project(f"{PYTHON}; env; seq 100000; echo it is broken; exit 7", "version = '1.0'"), new_fleet(1)
    (only,) = roll_out(fleet, directory).results
    password = str(psycopg.conninfo.conninfo_to_dict(fleet.dsns["t0"])["password"])
    failure = only.failure
    assert failure.message == "the command ended with status 7: it is broken"
    assert (failure.kind, failure.migration) == ("tool", "1.0")
    assert len(failure.output) <= 16 * 1024
    assert failure.output.endswith("99999\n100000\nit is broken\n")
    assert password not in str(only)
    (only,) = roll_out(fleet, project(f"{PYTHON}; exit 7", "version = '1.0'")).results
    database = psycopg.conninfo.conninfo_to_dict(fleet.dsns["t0"])["dbname"]
    assert only.failure.output == f"{database} t0 ***\n"
    assert fleet.sql("t0", "select to_regclass('tenantry.migrations_by_command') is null") == [(True,)]


def test_a_command_that_hangs_is_ended_with_all_that_it_started(
    project: Callable[..., Path], new_fleet: Callable[[int], Any], roll_out: Callable[..., Any], tmp_path: Path
) -> None:
    directory, fleet = project("(sleep 1000 & echo $! > grandchild; wait)", "version = '1'"), new_fleet(1)
    for seconds in (1, 5, 25):
        (only,) = roll_out(fleet, directory, tool_seconds=float(seconds)).results
        assert (only.outcome, only.failure.kind) == ("failed", "tool")
        assert f"after {seconds} s" in only.failure.message
        if said := _read(tmp_path / "grandchild"):  # on a slow machine it may not have come to that
            break
    deadline = time.monotonic() + ENDED_SECONDS_MAX
    while _lives(said.strip()):
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)


def test_the_operator_cancels_a_command_and_its_statement_at_the_server(
    project: Callable[..., Path], new_fleet: Callable[[int], Any], postgres_server: str, engine_directory: Path
) -> None:
    psql = engine_directory / "bin/psql"
    said = "select pg_sleep(1001)"
    directory = project(f'{psql if psql.exists() else "psql"} "$DATABASE_URL" -c "{said}"', "version = '1'")
    fleet = new_fleet(1)
    run = fleet.begin(directory, options=RunOptions(bounds=Bounds(lock_seconds=2))).run
    results: list[Any] = []

    def listen(event: Event) -> None:
        if isinstance(event, TenantFinished):
            results.append(event.result)

    at_work = f"select count(*) from pg_stat_activity where query = '{said}'"
    with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as connection:

        def cancel() -> None:
            while connection.execute(at_work).fetchone() != (1,):
                pass
            work.interrupt()
            work.interrupt()

        with folder_of_run(fleet.catalog, run) as folder:
            work = Work(fleet.catalog, fleet, run, folder, on_event=listen)
            watching = threading.Thread(target=cancel)
            watching.start()
            work.execute()
            watching.join()
        (only,) = results
        assert only.failure.kind == "cancelled"
        assert connection.execute(at_work).fetchone() == (0,)


def test_a_command_without_a_version_is_refused(project: Callable[..., Path]) -> None:
    with pytest.raises(InvalidInput, match="nothing says which version"):
        open_folder(project("true", ""))
    with pytest.raises(InvalidInput, match="newest version only"):
        open_folder(project("true"), through="0001")
    assert open_folder(project("true") / "migrations").name == "sql", "the command is meant for its own directory"


def _lives(pid: str) -> bool:
    stat = _read(Path(f"/proc/{pid}/stat"))
    return bool(stat) and stat.rpartition(")")[2].split()[0] not in "ZX"


def _read(path: Path) -> str:
    """Nothing where there is none, or no longer."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
