"""Migrations that no transaction can hold: killed, refused or held up at any step, they go on exactly there."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tenantry.fleet.migrations import stepwise
from tenantry.fleet.migrations.apply import Bounds, Halt, Migrator
from tenantry.fleet.migrations.events import Event, TenantFinished, TenantStarted
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.plan import states_of
from tenantry.fleet.migrations.results import Failure, TenantResult
from tenantry.fleet.migrations.run import RunOptions
from tenantry.fleet.migrations.tenant import TenantSlug
from tenantry.fleet.migrations.work import Work, folder_of_run

if TYPE_CHECKING:
    from conftest import StartRunner

MIXED = """\
set search_path = app;
insert into counted values ('before');
create table made (x int);
create index concurrently i on t (x);
insert into counted values ('between'); insert into t values (3);
drop index concurrently old;
reindex table concurrently t;
alter table parted detach partition part concurrently;
vacuum t;
insert into counted values ('after');
"""
"""Every kind of statement that is run alone, and some that count how often they ran. The names need the first line."""
PREPARED = """\
create schema app;
create table app.counted (what text);
create table app.t (x int);
insert into app.t values (1), (2);
create index old on app.t (x);
create table app.parted (x int) partition by list (x);
create table app.part partition of app.parted for values in (1);
"""
LEDGER = "select version from tenantry.migrations order by version"
INDEXES = "select indexrelid::regclass::text, indisvalid from pg_index where indrelid = 'app.t'::regclass order by 1"


def write_mixed(sql_folder: Callable[..., Path]) -> Path:
    return sql_folder(_0001_a=PREPARED, _0002_b=MIXED, _0003_c="insert into app.counted values ('last');")


def run(fleet: Any, directory: Path, *, lock_seconds: float = 5) -> Any:
    fleet.let_end("t0")
    return fleet.roll_out(directory, options=RunOptions(bounds=Bounds(lock_seconds=lock_seconds)))


def only(result: Any) -> TenantResult:
    (each,) = result.results
    return each


def failure_of(result: Any) -> Failure:
    failure = only(result).failure
    assert failure is not None, result.results
    return failure


def all_is_done_once(fleet: Any, slug: str = "t0") -> None:
    assert fleet.sql(slug, LEDGER) == [("0001",), ("0002",), ("0003",)]
    assert [what for (what,) in fleet.sql(slug, "select what from app.counted")] == [
        "before",
        "between",
        "after",
        "last",
    ]
    assert fleet.sql(slug, INDEXES) == [("app.i", True)]
    assert fleet.sql(slug, "select count(*) from app.t") == [(3,)]
    assert fleet.sql(slug, "select count(*) from pg_inherits") == [(0,)]
    assert fleet.sql(slug, "select count(*) from tenantry.migration_progress") == [(0,)]


@contextmanager
def open_transaction(dsn: str, *statements: str) -> Iterator[psycopg.Connection]:
    """An application's transaction that stays open meanwhile."""
    with psycopg.connect(dsn, application_name="nightly report") as connection:
        for statement in statements:
            connection.execute(statement.encode())
        yield connection
        connection.rollback()


def test_statements_run_in_order_with_what_is_before_and_after(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, directory = new_fleet(1), write_mixed(sql_folder)
    result = only(run(fleet, directory))
    assert (result.outcome, result.applied, result.failure) == ("applied", ("0001", "0002", "0003"), None)
    all_is_done_once(fleet)
    assert fleet.known["t0"] == states_of(open_folder(directory))[-1]
    assert run(fleet, directory).outcomes == {"t0": "skipped"}


POINTS = ["migrate.step_begun", "migrate.step_ran", "migrate.step_done", "migrate.applied"]


@pytest.mark.crash
@pytest.mark.parametrize("point", POINTS)
def test_kill_9_at_each_step_goes_on_there(
    new_fleet: Callable[[int], Any],
    sql_folder: Callable[..., Path],
    tmp_path: Path,
    start_runner: StartRunner,
    point: str,
) -> None:
    """Kills at the first passage of the point, goes on and kills at the next, until nothing is left to kill."""
    fleet, directory, home = new_fleet(1), write_mixed(sql_folder), tmp_path / "fleet"
    home.mkdir()
    (home / "t0.dsn").write_text(fleet.dsns["t0"])
    (home / "catalog").write_text(fleet.catalog.url)
    run_id = fleet.begin(directory).run.id
    kills = 0
    while killed(start_runner, run_id, home, f"{point}=kill:{1 if kills == 0 else 2}"):
        kills += 1
        assert kills < 20
        fleet.let_end("t0")
    assert kills >= 2
    all_is_done_once(fleet)


def killed(start_runner: StartRunner, run_id: str, home: Path, failpoints: str) -> bool:
    """Whether the runner was killed; otherwise it is done."""
    with start_runner(run_id, home, failpoints) as runner:
        code = runner.end()
    assert code in {0, -signal.SIGKILL}
    return code != 0


INDEX_ONLY = "create table t (x int); insert into t values (1), (2);"
OLD_SNAPSHOT = ("set transaction isolation level repeatable read", "select 1")
"""Holds up an index at its end, and holds no lock that mending would wait for."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepwise, "PAUSE_SECONDS_FIRST", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_transaction_that_holds_up_an_index_is_named_and_leaves_no_invalid_index(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, directory = new_fleet(1), write_mixed(sql_folder)
    with open_transaction(fleet.dsns["t0"], *OLD_SNAPSHOT) as blocker:
        failure = failure_of(result := run(fleet, directory, lock_seconds=0.3))
        pid = blocker.info.backend_pid
    assert (failure.sqlstate, failure.file, failure.statement, failure.line) == ("55P03", "0002_b.sql", 4, 4)
    assert failure.held_by is not None
    assert re.search(rf"session {pid} \(nightly report, idle in transaction\) for \d+ s", failure.held_by)
    assert failure.statements_kept == 3
    assert "the 3 statement(s) before it stay; running again goes on from there" in failure.next_step
    assert (only(result).applied, fleet.known["t0"]) == (("0001",), states_of(open_folder(directory))[1])
    assert fleet.sql("t0", INDEXES) == [("app.old", True)]
    assert only(run(fleet, directory)).applied == ("0002", "0003")
    all_is_done_once(fleet)


def test_the_next_attempt_succeeds_when_the_transaction_has_ended(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, directory = new_fleet(1), write_mixed(sql_folder)
    attempts: list[int] = []
    with open_transaction(fleet.dsns["t0"], *OLD_SNAPSHOT) as blocker:

        def end_it(_: object, attempt: int) -> bool:
            attempts.append(attempt)
            blocker.rollback()
            return True

        monkeypatch.setattr(stepwise.Stepwise, "_pause", end_it)
        assert only(run(fleet, directory, lock_seconds=0.3)).outcome == "applied"
    assert attempts == [1]
    all_is_done_once(fleet)


WAITS_FOR_SNAPSHOTS = "select pid from pg_stat_progress_create_index where phase = 'waiting for old snapshots'"
INVALID = "select indexrelid::regclass::text from pg_index where not indisvalid"


@pytest.mark.usefixtures("quick")
def test_an_index_that_cannot_even_be_dropped_is_mended_by_the_next_run(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    fleet.sql("t0", INDEX_ONLY)
    directory = sql_folder(_0001_b="create index concurrently i on t (x)")
    with open_transaction(fleet.dsns["t0"], "insert into t values (3)"):
        failure = failure_of(run(fleet, directory, lock_seconds=0.2))
    assert (failure.sqlstate, failure.statements_kept) == ("55P03", 0)
    assert failure.message.endswith("(an invalid index is left until the next run)")
    assert fleet.sql("t0", INVALID) == [("i",)]
    assert only(run(fleet, directory)).outcome == "applied"
    assert fleet.sql("t0", INVALID) == []


@pytest.mark.usefixtures("quick")
def test_what_a_held_up_reindex_and_detach_leave_is_mended(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    fleet.sql("t0", f"{INDEX_ONLY} create index i on t (x)")
    fleet.sql("t0", "create table p (x int) partition by list (x); create table p1 partition of p for values in (1)")
    directory = sql_folder(
        _0001_a="reindex index concurrently i", _0002_b="alter table p detach partition p1 concurrently"
    )
    with open_transaction(fleet.dsns["t0"], "insert into t values (3)"):
        assert failure_of(run(fleet, directory, lock_seconds=0.2)).sqlstate == "55P03"
    assert fleet.sql("t0", "select count(*) > 0 from pg_class where relname like 'i\\_ccnew%'") == [(True,)]
    with open_transaction(fleet.dsns["t0"], "select * from p"):
        failure = failure_of(result := run(fleet, directory, lock_seconds=0.2))
    assert (only(result).applied, failure.sqlstate, failure.migration) == (("0001",), "55P03", "0002")
    assert fleet.sql("t0", INVALID) == []
    assert fleet.sql("t0", "select inhdetachpending from pg_inherits") == [(True,)]
    assert only(run(fleet, directory)).applied == ("0002",)
    assert fleet.sql("t0", "select count(*) from pg_inherits") == [(0,)]


def test_a_unique_index_that_fails_leaves_nothing_and_is_built_when_the_rows_are_mended(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    fleet.sql("t0", f"{INDEX_ONLY} insert into t values (1)")
    directory = sql_folder(_0001_a="select 1; create unique index concurrently i on t (x)")
    failure = failure_of(run(fleet, directory))
    assert (failure.sqlstate, failure.statement, failure.statements_kept) == ("23505", 2, 1)
    assert fleet.sql("t0", INVALID) == []
    fleet.sql("t0", "delete from t where x = 1")
    assert only(run(fleet, directory)).outcome == "applied"


@contextmanager
def building(fleet: Any, directory: Path) -> Iterator[tuple[psycopg.Connection, Callable[[], Any], int]]:
    """A run whose index waits for a transaction: that transaction, the way to wait for the run, the session's pid."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run(fleet, directory, lock_seconds=60)))
    with open_transaction(fleet.dsns["t0"], *OLD_SNAPSHOT) as blocker:
        thread.start()
        while not (found := fleet.sql("t0", WAITS_FOR_SNAPSHOTS)):
            assert thread.is_alive(), results

        def end() -> Any:
            blocker.rollback()
            thread.join(60)
            return results[0]

        yield blocker, end, int(str(found[0][0]))
        end()


def test_another_runner_is_kept_out_all_the_time_and_deadlocks_nobody(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, directory = new_fleet(1), write_mixed(sql_folder)
    folder = open_folder(directory)

    def other(lock_seconds: float) -> TenantResult:
        """A runner that knows nothing of the catalog's claims."""
        migrator = Migrator(
            folder=folder, dsn=fleet.dsn, bounds=Bounds(lock_seconds=lock_seconds), accept_edited=False, halt=Halt()
        )
        return migrator.migrate(TenantSlug("t0"))

    with building(fleet, directory) as (_, end, _pid):
        failure = other(0.3).failure
        assert failure is not None
        assert (failure.kind, failure.message) == ("locked", "another runner is migrating this tenant")
        # It waits longer than Postgres waits before it looks for deadlocks.
        waiting = threading.Thread(target=lambda: other(60))
        waiting.start()
        fleet.sql("t0", "select pg_sleep(1.5)")
        assert only(end()).outcome == "applied"
        waiting.join(60)
    all_is_done_once(fleet)


def test_a_server_killed_within_an_index_leaves_it_invalid_and_the_next_run_builds_it(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, directory = new_fleet(1), write_mixed(sql_folder)
    with building(fleet, directory) as (_, end, pid):
        fleet.sql("t0", f"select pg_terminate_backend({pid})")
        failure = failure_of(result := end())
    assert (failure.kind, failure.statements_kept, only(result).applied) == ("connection_lost", 3, ("0001",))
    assert failure.next_step == "what was done stays; running again looks, and goes on from there"
    assert fleet.sql("t0", INVALID) == [("app.i",)]
    assert only(run(fleet, directory)).applied == ("0002", "0003")
    all_is_done_once(fleet)


@pytest.mark.crash
def test_kill_9_within_an_index_lets_the_server_end_it_and_it_is_not_built_again(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], tmp_path: Path, start_runner: StartRunner
) -> None:
    fleet, home = new_fleet(1), tmp_path / "fleet"
    directory = sql_folder(_0001_a=INDEX_ONLY, _0002_b="create index concurrently i on t (x); insert into t values (3)")
    home.mkdir()
    (home / "t0.dsn").write_text(fleet.dsns["t0"])
    (home / "catalog").write_text(fleet.catalog.url)
    run_id = fleet.begin(directory, options=RunOptions(bounds=Bounds(lock_seconds=60))).run.id
    with open_transaction(fleet.dsns["t0"], *OLD_SNAPSHOT):
        with start_runner(run_id, home) as runner:
            while not fleet.sql("t0", WAITS_FOR_SNAPSHOTS):
                assert runner.poll() is None
            runner.kill()
        assert fleet.sql("t0", INVALID) == [("i",)]
    with psycopg.connect(fleet.dsns["t0"]) as connection:
        # Behind the lock of the session that the runner has left at the server.
        connection.execute("select pg_advisory_xact_lock(x'74656E616E747279'::bigint)")
        assert connection.execute(INVALID.encode()).fetchall() == []
        made = connection.execute("select 'i'::regclass::oid").fetchone()
    assert not killed(start_runner, run_id, home, "")
    assert fleet.sql("t0", "select count(*) from t") == [(3,)]
    assert fleet.sql("t0", "select 'i'::regclass::oid") == [made]


def test_an_index_that_somebody_else_is_building_is_left_alone(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    fleet.sql("t0", INDEX_ONLY)
    building = threading.Thread(target=lambda: fleet.sql("t0", "create index concurrently i on t (x)"))
    with open_transaction(fleet.dsns["t0"], *OLD_SNAPSHOT) as blocker:
        building.start()
        while not fleet.sql("t0", WAITS_FOR_SNAPSHOTS):
            pass
        directory = sql_folder(_0001_a="create index concurrently i on t (x)")
        failure = failure_of(run(fleet, directory))
        assert failure.message == "the index i is being built by another session"
        blocker.rollback()
        building.join(20)
    assert only(run(fleet, directory)).outcome == "applied"


def test_a_second_interrupt_cancels_the_index_and_leaves_none(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, directory = new_fleet(1), write_mixed(sql_folder)
    begun = fleet.begin(directory, options=RunOptions(bounds=Bounds(lock_seconds=60))).run
    results: list[TenantResult] = []

    def interrupt_twice() -> None:
        while not fleet.sql("t0", WAITS_FOR_SNAPSHOTS):
            pass
        work.interrupt()
        work.interrupt()

    def on_event(event: Event) -> None:
        if isinstance(event, TenantStarted):
            threading.Thread(target=interrupt_twice).start()
        elif isinstance(event, TenantFinished):
            results.append(event.result)

    with open_transaction(fleet.dsns["t0"], *OLD_SNAPSHOT), folder_of_run(fleet.catalog, begun) as folder:
        work = Work(fleet.catalog, fleet, begun, folder, on_event=on_event)
        work.execute()
    failure = results[0].failure
    assert failure is not None
    assert (failure.kind, failure.statements_kept) == ("cancelled", 3)
    assert fleet.sql("t0", INVALID) == []
    assert only(run(fleet, directory)).outcome == "applied"
    all_is_done_once(fleet)


def test_an_interrupt_ends_the_migration_and_begins_no_other(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet, folder, halt = new_fleet(1), open_folder(write_mixed(sql_folder)), Halt()
    migrator = Migrator(
        folder=folder, dsn=fleet.dsn, bounds=Bounds(lock_seconds=60), accept_edited=False, halt=halt
    )  # fmt: skip

    def interrupt(blocker: psycopg.Connection) -> None:
        while not fleet.sql("t0", WAITS_FOR_SNAPSHOTS):
            pass
        halt.stopping = True
        blocker.rollback()

    with open_transaction(fleet.dsns["t0"], *OLD_SNAPSHOT) as blocker:
        interrupting = threading.Thread(target=interrupt, args=(blocker,))
        interrupting.start()
        result = migrator.migrate(TenantSlug("t0"))
        interrupting.join(10)
    assert result.failure is not None
    assert (result.failure.kind, result.failure.message) == (
        "cancelled",
        "stopped by the operator between two migrations",
    )
    assert (result.applied, result.state) == (("0001", "0002"), states_of(folder)[2])


def test_what_follows_may_be_edited_and_what_was_applied_may_not(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    head = "create table t (x int); vacuum t;"
    assert failure_of(run(fleet, sql_folder(_0001_a=f"{head} insert into t values ('one')"))).statements_kept == 2
    directory = sql_folder(_0001_a=head.replace("x int", "x bigint"))
    failure = failure_of(run(fleet, directory))
    assert (failure.kind, failure.statement) == ("edited", 1)
    failure = failure_of(run(fleet, sql_folder(_0001_a="create table t (x int)")))
    assert (failure.kind, failure.statement) == ("edited", 2)
    # Without the statement that no transaction holds it is gone on with all the same, and nothing is made twice.
    assert only(run(fleet, sql_folder(_0001_a=f"{head} insert into t values (1)"))).outcome == "applied"
    assert fleet.sql("t0", "select * from t") == [(1,)]


def test_a_folder_that_lacks_a_half_applied_migration_is_refused(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    directory = sql_folder(_0002_a="create table t (x int); vacuum t; select 1 / 0")
    assert failure_of(run(fleet, directory)).sqlstate == "22012"
    (directory / "0002_a.sql").unlink()
    failure = failure_of(run(fleet, sql_folder(_0001_b="create table b ()")))
    assert (failure.kind, failure.migration) == ("ahead", "0002")
    assert fleet.sql("t0", "select to_regclass('b')") == [(None,)]


@pytest.mark.parametrize(
    ("before", "statement", "outcome"),
    [
        ("create index i on t (x)", "create index concurrently i on t (x)", "applied"),
        ("create index i on t using btree (x)", 'create index concurrently "i" on public."t" ("x")', "applied"),
        ("create index i on t (x desc)", "create index concurrently i on t (x)", "42P07"),
        ("create unique index i on t (x)", "create index concurrently i on t (x)", "42P07"),
        ("create index i on t (x desc)", "create index concurrently if not exists i on t (x)", "applied"),
        ("create table i ()", "create index concurrently i on t (x)", "42P07"),
        ("", "drop index concurrently i", "42704"),
        ("", "drop index concurrently if exists i", "applied"),
    ],
)
def test_what_was_there_before(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], before: str, statement: str, outcome: str
) -> None:
    fleet = new_fleet(1)
    fleet.sql("t0", f"{INDEX_ONLY} {before}")
    result = only(run(fleet, sql_folder(_0001_a=statement)))
    assert (result.failure.sqlstate if result.failure else result.outcome) == outcome


def test_an_invalid_index_of_somebody_else_is_not_taken_for_a_valid_one(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    fleet.sql("t0", f"{INDEX_ONLY} insert into t values (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        fleet.sql("t0", "create unique index concurrently i on t (x)")
    fleet.sql("t0", "delete from t where x = 1")
    directory = sql_folder(_0001_a="create unique index concurrently if not exists i on t (x)")
    assert only(run(fleet, directory)).outcome == "applied"
    assert fleet.sql("t0", INVALID) == []


def test_databases_are_made_and_dropped(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(1)
    (row,) = fleet.sql("t0", "select current_database()")
    directory = sql_folder(_0001_a=f"create database {row[0]}_x", _0002_b=f"drop database {row[0]}_x")
    assert only(run(fleet, directory)).applied == ("0001", "0002")


def test_a_drizzle_folder_with_such_statements(
    new_fleet: Callable[[int], Any], drizzle_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    text = (
        'create table "t" ("x" int);--> statement-breakpoint\nCREATE INDEX CONCURRENTLY "i" ON "t" USING btree ("x");'
    )
    directory = drizzle_folder(("0000_a", 5, text), ("0001_b", 6, "insert into t values (1)"))
    assert only(run(fleet, directory)).applied == ("0000_a", "0001_b")
    assert fleet.sql("t0", "select created_at from drizzle.__drizzle_migrations order by 1") == [(5,), (6,)]
    assert fleet.sql("t0", "select count(*) from t") == [(1,)]
