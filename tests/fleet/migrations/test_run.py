"""Runs on real tenants: what is applied, what is left alone, what is named when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations import work
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.events import Event, Stopping, TenantFinished, TenantStarted
from tenantry.fleet.migrations.formats.folders import open_folder
from tenantry.fleet.migrations.gates import Gates
from tenantry.fleet.migrations.plan import make_plan
from tenantry.fleet.migrations.results import exit_code
from tenantry.fleet.migrations.run import RunOptions, resume_run, tenants_of
from tenantry.fleet.migrations.work import Work, folder_of_run

QUICK = RunOptions(jobs=4, bounds=Bounds(lock_seconds=0.2, connect_deadline_seconds=0.5))


def roll_out(fleet: Any, directory: Path, options: RunOptions = QUICK, **planning: Any) -> Any:
    accept_edited = planning.pop("accept_edited", False)
    return fleet.roll_out(directory, options=replace(options, accept_edited=accept_edited), **planning)


def outcomes(result: Any) -> dict[str, str]:
    return result.outcomes


def test_the_example_is_rolled_out_and_the_second_time_nobody_is_woken(
    new_fleet: Callable[[int], Any], example_folder: Path
) -> None:
    fleet = new_fleet(3)
    first = roll_out(fleet, example_folder, through="0000_create_users_projects_tasks")
    assert outcomes(first) == {"t0": "applied", "t1": "applied", "t2": "applied"}
    fleet.asked.clear()
    again = roll_out(fleet, example_folder, through="0000_create_users_projects_tasks")
    assert (outcomes(again), fleet.asked) == ({"t0": "skipped", "t1": "skipped", "t2": "skipped"}, [])
    assert again.exit_code == 0

    for title in ("one", "two"):
        fleet.sql("t1", f"insert into users (email, name) values ('{title}@example.com', 'x')")
        fleet.sql("t1", "insert into projects (owner_id, name) select min(id), 'p' from users")
    fleet.sql("t1", "insert into tasks (project_id, title) values (1, 'same'), (1, 'same')")
    second = roll_out(fleet, example_folder)
    assert outcomes(second) == {"t0": "applied", "t1": "failed", "t2": "applied"}
    assert second.exit_code == 3
    (failed,) = second.failed
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.sqlstate) == ("sql", "23505")
    assert failed.failure.migration == "0001_one_title_per_project"
    assert (failed.failure.statement, failed.failure.line) == (3, 3)
    assert "same" in (failed.failure.detail or "")
    # Nothing of the failed migration is left: neither the column nor the ledger row.
    assert fleet.sql("t1", "select count(*) from drizzle.__drizzle_migrations") == [(1,)]
    assert fleet.sql("t1", "select 1 from pg_attribute where attname = 'due_at'") == []
    failures = tenants_of(fleet.catalog, second.run, outcomes=["failed"])
    assert [(each.slug, each.failure and each.failure["sqlstate"]) for each in failures] == [("t1", "23505")]

    fleet.sql("t1", "delete from tasks where id = 2")
    resumed = roll_out(fleet, example_folder)
    assert outcomes(resumed) == {"t0": "skipped", "t1": "applied", "t2": "skipped"}
    assert {state.version for state in fleet.known.values()} == {"0001_one_title_per_project"}


def test_what_was_claimed_ahead_is_kept_while_a_migration_takes_longer_than_a_silence_may(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "STALLED_SECONDS", 0.5)
    monkeypatch.setattr(work, "HEARTBEAT_SECONDS", 0.1)
    fleet = new_fleet(3)
    directory = sql_folder(_0001_slow="create table a (x int); select pg_sleep(1.2);")
    result = roll_out(fleet, directory, options=replace(QUICK, jobs=1))
    assert outcomes(result) == {"t0": "applied", "t1": "applied", "t2": "applied"}
    rows = list(tenants_of(fleet.catalog, result.run))
    assert [(each.slug, each.attempts, each.applied) for each in rows] == [
        (slug, 1, ("0001",)) for slug in ("t0", "t1", "t2")
    ]


def test_one_of_ten_fails_and_nine_are_done(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(10)
    fleet.sql("t4", "create table b (x int)")
    directory = sql_folder(
        _0001_a="create table a (x int);",
        _0002_b="-- a comment;\ninsert into a values (1);\n\n  create table b (x int);\nselect 1;\n",
    )
    result = roll_out(fleet, directory)
    assert [slug for slug, outcome in outcomes(result).items() if outcome != "applied"] == ["t4"]
    (failed,) = result.failed
    assert failed.failure is not None
    assert (failed.failure.sqlstate, failed.failure.file) == ("42P07", "0002_b.sql")
    assert (failed.failure.statement, failed.failure.line) == (2, 4)
    assert fleet.sql("t4", "select to_regclass('a'), to_regclass('tenantry.migrations')") == [(None, None)]
    assert result.run.counts == {"applied": 9, "failed": 1}
    rows = fleet.sql("t5", "select version, name, length(checksum) from tenantry.migrations order by version")
    assert rows == [("0001", "a", 64), ("0002", "b", 64)]


@pytest.mark.parametrize(
    ("text", "sqlstate", "statement", "line", "column"),
    [
        ("select 1;\nselect 'ä', nowhere();\nselect 2;", "42883", 2, 2, 13),
        ("select 1;\n\n selec 2;", "42601", 2, 3, 2),
        ("create table x (a int);\ndo $$ begin raise exception using errcode = 'ZZ001'; end $$;", "ZZ001", 2, 2, None),
        ("create table x (a int);\ncreate unique index on x (b)", "42703", 2, 2, None),
    ],
)
def test_the_place_of_an_error(
    new_fleet: Callable[[int], Any],
    drizzle_folder: Callable[..., Path],
    text: str,
    sqlstate: str,
    statement: int,
    line: int,
    column: int | None,
) -> None:
    """Also behind a breakpoint: statements and lines are those of the file."""
    head = "select 'head';\n--> statement-breakpoint\n"
    result = roll_out(new_fleet(1), drizzle_folder(("0000_x", 5, head + text)))
    (failed,) = result.failed
    assert failed.failure is not None
    place = (failed.failure.sqlstate, failed.failure.statement, failed.failure.line, failed.failure.column)
    assert place == (sqlstate, statement + 1, line + 2, column)


def test_a_held_lock_is_named_and_waited_for_no_longer_than_told(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)
    for slug in fleet.dsns:
        fleet.sql(slug, "create table a (x int)")
    directory = sql_folder(_0001_b="alter table a add column y int;")
    with psycopg.connect(fleet.dsns["t0"]) as holder:
        holder.execute("lock table a in access share mode")
        pid = holder.info.backend_pid
        result = roll_out(fleet, directory)
    assert outcomes(result) == {"t0": "failed", "t1": "applied"}
    failure = result.failed[0].failure
    assert failure is not None
    assert (failure.kind, failure.sqlstate, failure.migration) == ("sql", "55P03", "0001")
    assert "lock" in failure.next_step
    assert f"open since before the wait: session {pid} (" in str(failure)
    assert outcomes(roll_out(fleet, directory)) == {"t0": "applied", "t1": "skipped"}


def test_a_statement_timeout(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    options = RunOptions(bounds=Bounds(statement_seconds=0.1))
    result = roll_out(new_fleet(1), sql_folder(_0001_slow="select pg_sleep(30);"), options)
    failure = result.failed[0].failure
    assert failure is not None
    assert (failure.kind, failure.sqlstate) == ("sql", "57014")


def test_two_runners_apply_once(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(4)
    directory = sql_folder(_0001_a="create table a (x int); insert into a values (1); select pg_sleep(0.05);")
    options = RunOptions(jobs=4, bounds=Bounds(lock_seconds=10))
    run = fleet.begin(directory, options=options).run
    told: list[Event] = []
    runners = [threading.Thread(target=lambda: fleet.work(run, told.append)) for _ in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    finished = [event.result for event in told if isinstance(event, TenantFinished)]
    assert sorted(each.slug for each in finished) == ["t0", "t1", "t2", "t3"]
    for slug in fleet.dsns:
        assert fleet.sql(slug, "select count(*) from a") == [(1,)]


def test_another_runner_that_does_not_finish_is_named(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    with psycopg.connect(fleet.dsns["t0"]) as other:
        other.execute("select pg_advisory_xact_lock(x'74656E616E747279'::bigint)")
        result = roll_out(fleet, sql_folder(_0001_a="create table a (x int);"))
    failure = result.failed[0].failure
    assert failure is not None
    assert (failure.kind, failure.sqlstate) == ("locked", "55P03")


def test_an_edited_migration_is_objected_to_by_plan_and_run(
    new_fleet: Callable[[int], Any], drizzle_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    roll_out(fleet, drizzle_folder(("0000_a", 5, "create table a (x int)")))
    edited = drizzle_folder(("0000_a", 5, "create table a (x bigint)"), ("0001_b", 6, "create table b (x int)"))
    assert [each.standing for each in make_plan(open_folder(edited), fleet.select()).tenants] == ["edited"]
    result = roll_out(fleet, edited)
    failure = result.failed[0].failure
    assert failure is not None
    assert (failure.kind, failure.migration) == ("edited", "0000_a")
    assert fleet.sql("t0", "select to_regclass('b')") == [(None,)]

    accepted = roll_out(fleet, edited, accept_edited=True)
    assert accepted.results[0].applied == ("0001_b",)
    assert "0000_a.sql was edited" in accepted.results[0].notes[0]
    plan = make_plan(open_folder(edited), fleet.select(), accept_edited=True)
    assert [each.standing for each in plan.tenants] == ["current"]


def test_a_ledger_ahead_of_the_folder_is_not_called_done(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    directory = sql_folder(_0001_a="select 1;", _0002_b="select 2;")
    roll_out(fleet, directory)
    (directory / "0002_b.sql").unlink()
    assert make_plan(open_folder(directory), fleet.select()).tenants[0].standing == "ahead"
    failure = roll_out(fleet, directory).failed[0].failure
    assert failure is not None
    assert (failure.kind, failure.migration) == ("ahead", "0002")


def test_the_ledger_is_the_truth_and_the_catalog_learns_it(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    """As after a kill between commit and catalog: the rerun applies nothing and mends the cache."""
    fleet = new_fleet(2)
    directory = sql_folder(_0001_a="create table a (x int);")
    roll_out(fleet, directory)
    known = fleet.known
    fleet.forget()
    assert set(outcomes(roll_out(fleet, directory)).values()) == {"current"}
    assert fleet.known == known
    # Without trust in the catalog everybody is asked.
    fleet.asked.clear()
    assert set(outcomes(roll_out(fleet, directory, trust_catalog=False)).values()) == {"current"}
    assert sorted(fleet.asked) == ["t0", "t1"]


@pytest.mark.parametrize(
    "text",
    [
        "create index concurrently on a (x);",
        "commit;",
        "alter system reset all;",
        "copy a from stdin;",
        "\\i other.sql\n",
        "discard all",
        'reindex table concurrently U&"\\0061"',
        "create temporary table b (x int); vacuum a",
    ],
)
def test_what_is_never_run_is_refused_before_anybody_is_woken(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], text: str
) -> None:
    fleet = new_fleet(1)
    directory = sql_folder(_0001_a="create table a (x int);", _0002_b=f"-- first\nselect 1;\n{text}")
    with pytest.raises(InvalidInput, match=r"0002_b.sql, statement 2, line 3"):
        roll_out(fleet, directory)
    assert fleet.asked == []


def test_a_tenant_that_cannot_be_reached_is_named_without_its_password(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)
    fleet.add("gone", "postgresql://me:hunter2@/nowhere?host=/nonexistent")
    fleet.add("odd", "hunter2 is not = a connection string")
    fleet.add("wrong", fleet.dsns["t0"].replace("postgres:", "postgres:hunter2", 1))
    options = replace(QUICK, gates=Gates(failures_percent=100))
    result = roll_out(fleet, sql_folder(_0001_a="create table a (x int);"), options)
    assert outcomes(result) == {"t0": "applied", "t1": "applied", "gone": "failed", "odd": "failed", "wrong": "failed"}
    kinds = {each.slug: each.failure.kind for each in result.failed if each.failure}
    assert kinds == {"gone": "connect", "odd": "defect", "wrong": "connect"}
    assert "hunter2" not in str(result.as_dict())


def test_a_server_that_breaks_the_connection_fails_that_tenant_only(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)
    fleet.sql("t0", "create table victim ()")
    directory = sql_folder(
        _0001_a="create table a (x int);",
        _0002_b="do $$ begin if to_regclass('victim') is not null then perform pg_terminate_backend(pg_backend_pid());"
        " perform pg_sleep(5); end if; end $$;",
    )
    result = roll_out(fleet, directory)
    assert outcomes(result) == {"t0": "failed", "t1": "applied"}
    failure = result.failed[0].failure
    assert failure is not None
    assert (failure.kind, failure.sqlstate, failure.migration) == ("connection_lost", "57P01", "0002")
    assert fleet.sql("t0", "select to_regclass('a')") == [(None,)]


def test_a_deferred_constraint_fails_the_commit(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    directory = sql_folder(
        _0001_a="create table a (i int primary key, u int references a initially deferred); insert into a values (1, 2)"
    )
    failure = roll_out(fleet, directory).failed[0].failure
    assert failure is not None
    assert (failure.kind, failure.sqlstate, failure.message[:17]) == ("sql", "23503", "the commit failed")
    assert fleet.sql("t0", "select to_regclass('a')") == [(None,)]


def test_a_defect_at_one_tenant_stops_nobody_else(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = new_fleet(3)
    dsn = fleet.dsn
    monkeypatch.setattr(fleet, "dsn", lambda slug: 1 / 0 if slug == "t1" else dsn(slug))
    result = roll_out(fleet, sql_folder(_0001_a="create table a (x int);"))
    assert outcomes(result) == {"t0": "applied", "t1": "failed", "t2": "applied"}
    assert result.failed[0].failure is not None
    assert result.failed[0].failure.kind == "defect"


def test_an_interrupt_ends_what_is_under_way_and_begins_nothing(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(4)
    directory = sql_folder(_0001_a=f"create table a (x int); {fleet.GATE}")
    events: list[Event] = []
    run = fleet.begin(directory, options=RunOptions(jobs=2, bounds=Bounds(lock_seconds=60))).run

    def on_event(event: Event) -> None:
        events.append(event)
        if isinstance(event, TenantStarted) and event.slug == "t1":
            work.interrupt()
            open_both()

    with folder_of_run(fleet.catalog, run) as folder, fleet.shut("t0", "t1") as open_both:
        work = Work(fleet.catalog, fleet, run, folder, on_event=on_event)
        ended = work.execute()
    assert (ended.state, exit_code(ended)) == ("paused", 1)
    assert "interrupted by" in str(ended.reason)
    assert Stopping(cancelling=False) in events
    by_outcome = {each.slug: each.outcome for each in tenants_of(fleet.catalog, ended)}
    assert (by_outcome["t2"], by_outcome["t3"]) == (None, None)
    for slug, outcome in by_outcome.items():
        assert (fleet.sql(slug, "select to_regclass('a') is not null") == [(True,)]) == (outcome == "applied")
    resumed = fleet.work(resume_run(fleet.catalog, ended))
    assert (resumed.state, resumed.counts) == ("finished", {"applied": 4})


def test_a_second_interrupt_cancels_and_rolls_back(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], postgres_server: str
) -> None:
    fleet = new_fleet(1)
    run = fleet.begin(sql_folder(_0001_a="create table a (x int);", _0002_b="select pg_sleep(60);")).run
    results: list[Any] = []

    def on_event(event: Event) -> None:
        if isinstance(event, TenantStarted):
            threading.Thread(target=interrupt_twice).start()
        elif isinstance(event, TenantFinished):
            results.append(event.result)

    def interrupt_twice() -> None:
        asleep = "select 1 from pg_stat_activity where query like '%pg_sleep(60)%' and pid <> pg_backend_pid()"
        with psycopg.connect(postgres_server, dbname="postgres", autocommit=True) as connection:
            while connection.execute(asleep).fetchone() is None:
                pass
        work.interrupt()
        work.interrupt()

    with folder_of_run(fleet.catalog, run) as folder:
        work = Work(fleet.catalog, fleet, run, folder, on_event=on_event)
        assert work.execute().state == "paused"
    assert [result.failure.kind for result in results] == ["cancelled"]
    assert fleet.sql("t0", "select to_regclass('a')") == [(None,)]


def test_a_listener_that_fails_leaves_no_thread_behind(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)
    run = fleet.begin(sql_folder(_0001_a="create table a (x int);")).run

    def on_event(event: Event) -> None:
        if isinstance(event, TenantFinished):
            raise ZeroDivisionError

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        fleet.work(run, on_event)
    assert set(threading.enumerate()) <= before


def test_options_that_make_no_sense(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(0)
    directory = sql_folder(_0001_a="select 1")
    for options in (RunOptions(jobs=0), RunOptions(bounds=Bounds(lock_seconds=0))):
        with pytest.raises(InvalidInput):
            fleet.begin(directory, options=options)
    assert roll_out(fleet, directory).exit_code == 0
