"""Runs in waves on real tenants: gates stop them, people hold them, windows make them wait, workers share them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tenantry.errors import Conflict, NotFound, Unavailable
from tenantry.fleet.catalog import runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Done, Run
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.events import Event, TenantFinished, Waiting, WaveJudged, WaveStarted
from tenantry.fleet.migrations.gates import Gates
from tenantry.fleet.migrations.run import (
    RunOptions,
    abort_run,
    find_run,
    pause_run,
    resume_run,
    tenants_of,
    worker_name,
)
from tenantry.fleet.migrations.waves import Ring, Rules
from tenantry.fleet.migrations.work import Work, folder_of_run

SOON_SECONDS = 15.0
QUICK = Bounds(lock_seconds=0.2, connect_deadline_seconds=0.5)


def options(**given: Any) -> RunOptions:
    return RunOptions(**({"jobs": 2, "bounds": QUICK} | given))


def canaries_of(fleet: Any, directory: Path, number: int = 1) -> list[str]:
    plan = fleet.plan(directory, rules=Rules(canaries=number))
    return [each.tenant.slug for each in plan.to_visit if plan.wave_of(each) == "canary"]


def test_a_canary_that_fails_stops_the_run_before_anybody_else_is_touched(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(4)
    directory = sql_folder(_0001_a="create table a (x int);")
    (canary,) = canaries_of(fleet, directory)
    fleet.sql(canary, "create table a (y int)")
    told: list[Event] = []
    first = fleet.roll_out(directory, on_event=told.append, options=options(rules=Rules(canaries=1)))
    assert (first.run.state, first.exit_code) == ("stopped", 1)
    assert first.run.reason == "wave canary: 1 of 1 canaries failed"
    assert fleet.asked == [canary]
    assert [type(each) for each in told if isinstance(each, WaveStarted | WaveJudged)] == [WaveStarted, WaveJudged]

    # The cause is mended, and the run goes on where it was.
    fleet.sql(canary, "drop table a")
    again = fleet.work(resume_run(fleet.catalog, find_run(fleet.catalog, None)))
    assert (again.id, again.state, again.counts) == (first.run.id, "finished", {"applied": 4})
    with pytest.raises(Conflict, match="is over"):
        resume_run(fleet.catalog, again)
    with pytest.raises(NotFound, match="no run is open"):
        find_run(fleet.catalog, None)


def test_tenants_are_migrated_whose_claim_was_never_heard_of(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog goes away when it has committed the claim, and before it says so."""
    fleet = new_fleet(3)
    transaction, claim, committed = Catalog.transaction, runs.claim_tenants, [0]

    def claim_tenants(*arguments: Any, **named: Any) -> Any:
        committed[0] += 1
        return claim(*arguments, **named)

    @contextmanager
    def unheard(catalog: Catalog) -> Generator[Connection]:
        before = committed[0]
        with transaction(catalog) as connection:
            yield connection
        if (before, committed[0]) == (0, 1):
            raise Unavailable("the catalog does not answer")

    monkeypatch.setattr(runs, "claim_tenants", claim_tenants)
    monkeypatch.setattr(Catalog, "transaction", unheard)
    run = fleet.begin(sql_folder(_0001_a="create table a (x int);"), options=options(rules=Rules(canaries=0))).run
    ended: list[Run] = []
    with folder_of_run(fleet.catalog, run) as folder:
        work = Work(fleet.catalog, fleet, run, folder)
        thread = threading.Thread(target=lambda: ended.append(work.execute()))
        thread.start()
        thread.join(SOON_SECONDS)
        work.interrupt()
        thread.join()
    assert (ended[0].state, ended[0].counts) == ("finished", {"applied": 3})


def test_a_wave_in_which_too_many_fail_is_not_gone_on_with(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(12)
    for slug in fleet.dsns:
        fleet.sql(slug, "create table a (y int)")
    result = fleet.roll_out(sql_folder(_0001_a="create table a (x int);"), options=options(rules=Rules(canaries=0)))
    assert result.run.state == "stopped"
    assert "tenants failed, and 2 may" in str(result.run.reason)
    # Two at a time, of which whoever failed waited until that was judged: the third failure found one more begun.
    assert len(fleet.asked) <= 4
    # (A tenant whose DSN was asked for when the run stopped is given back untried, so not all that were asked failed.)
    failed = {each.slug for each in tenants_of(fleet.catalog, result.run, outcomes=["failed"])}
    waiting = {each.slug for each in tenants_of(fleet.catalog, result.run, outcomes=["waiting"])}
    assert failed | waiting == set(fleet.dsns)
    assert len(failed) > 2
    assert failed <= set(fleet.asked)
    assert all(each.worker is None for each in tenants_of(fleet.catalog, result.run))


def test_rings_come_one_after_another_and_a_gate_of_the_operators_is_asked_between(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], tmp_path: Path
) -> None:
    fleet = new_fleet(3)
    rings = (Ring(name="second", tenants=("t1",)), Ring(name="third", tenants=("t2",)))
    allowed = tmp_path / "allowed"
    gates = Gates(command=f'test "$TENANTRY_WAVE" = second || test -e {allowed}')
    directory = sql_folder(_0001_a="create table a (x int);")
    first = fleet.roll_out(directory, options=options(rules=Rules(rings=rings), gates=gates))
    assert first.run.state == "stopped"
    assert "wave third: the gate" in str(first.run.reason)
    assert fleet.asked == ["t1", "t2"]
    allowed.touch()
    assert fleet.work(resume_run(fleet.catalog, first.run)).state == "finished"
    assert fleet.asked == ["t1", "t2", "t0"]


def test_a_url_of_the_operators_is_told_of_each_wave(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    told: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200 if len(told) == 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        gates = Gates(url=f"http://127.0.0.1:{server.server_port}/gate?token=secret")
        fleet = new_fleet(2)
        result = fleet.roll_out(sql_folder(_0001_a="select 1;"), options=options(rules=Rules(canaries=1), gates=gates))
        server.shutdown()
        thread.join()
    assert result.run.state == "stopped"
    assert "said 503" in str(result.run.reason)
    assert "secret" not in str(result.run.reason)
    assert b'"wave":"canary"' in told[0].replace(b" ", b"")


def test_a_run_that_is_paused_or_aborted_begins_nothing_more(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(4)
    directory = sql_folder(_0001_a=f"create table a (x int); {fleet.GATE}")
    begun = fleet.begin(directory, options=options(jobs=1, bounds=Bounds(lock_seconds=60)))

    def pause(event: Event) -> None:
        if isinstance(event, TenantFinished) and event.result.slug == "t0":
            pause_run(fleet.catalog, begun.run, reason="lunch")
            open_next()

    with fleet.shut("t1") as open_next:  # whoever is begun before the pause is heard of
        paused = fleet.work(begun.run, pause)
    assert (paused.state, paused.reason) == ("paused", "lunch")
    assert 1 <= len(fleet.asked) <= 2
    assert abort_run(fleet.catalog, paused).state == "aborted"
    with pytest.raises(Conflict, match="is over"):
        resume_run(fleet.catalog, paused)
    with pytest.raises(Conflict, match="is aborted"):
        pause_run(fleet.catalog, paused)


def test_a_new_run_takes_the_place_of_one_that_nobody_carries_out(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)
    directory = sql_folder(_0001_a="create table a (x int);")
    left = fleet.begin(directory).run
    with fleet.catalog.transaction() as connection:
        runs.set_wave(connection, left.id, 0, "running")
        runs.claim_tenants(connection, left.id, 0, worker=worker_name(), limit=1, of_provider_max=9, stalled_seconds=45)
    # This very process has one of its tenants in hand, and lives.
    with pytest.raises(Conflict, match=f"{left.id} is being carried out by") as raised:
        fleet.begin(directory)
    assert f"tenantry migrate abort {left.id}" in raised.value.next_step
    with fleet.catalog.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE migration_tenant SET worker = 'elsewhere/1/x', claimed_at = now() - '1h'::interval"
        )
    assert fleet.roll_out(directory).run.counts == {"applied": 2}
    with fleet.catalog.transaction() as connection:
        gone = runs.run_by_id(connection, left.id)
    assert gone is not None
    assert gone.state == "aborted"
    assert "took its place" in str(gone.reason)


def test_a_late_result_is_refused(new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]) -> None:
    fleet = new_fleet(1)
    run = fleet.begin(sql_folder(_0001_a="select 1;")).run
    with fleet.catalog.transaction() as connection:
        runs.set_wave(connection, run.id, 0, "running")

        def claim(stalled: float, worker: str) -> Any:
            (claimed,) = runs.claim_tenants(
                connection, run.id, 0, worker=worker, limit=9, of_provider_max=9, stalled_seconds=stalled
            )
            return claimed

        first = claim(45, "w/1/x")
        second = claim(-1, "w/2/y")  # as if the first had been silent for long
        late = Done(tenant_id=first.tenant_id, fence=first.fence, outcome="failed")
        assert runs.record_done(connection, run.id, [late]) == 1
        right = Done(tenant_id=second.tenant_id, fence=second.fence, outcome="applied")
        assert runs.record_done(connection, run.id, [right]) == 0
        assert runs.record_done(connection, run.id, [right]) == 1
        (tenant,) = runs.run_tenants(connection, run.id, limit=9)
    assert (tenant.outcome, tenant.attempts) == ("applied", 2)


def test_no_more_of_a_provider_are_in_hand_than_may_be(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(6)
    run = fleet.begin(sql_folder(_0001_a="select 1;")).run
    with fleet.catalog.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE migration_tenant SET provider_id = gen_random_uuid() WHERE slug IN ('t4', 't5')"
        )

        def claim(limit: int) -> list[str]:
            claimed = runs.claim_tenants(
                connection, run.id, 0, worker="w/1/x", limit=limit, of_provider_max=2, stalled_seconds=45
            )
            return sorted(each.slug for each in claimed)

        assert claim(1) == ["t0"]
        assert claim(9) == ["t1", "t4", "t5"]
        assert claim(9) == []


def test_a_tenant_is_left_alone_outside_of_its_window(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], new_database: Callable[[], str]
) -> None:
    fleet = new_fleet(1)
    now = datetime.now(UTC)
    day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(now + timedelta(days=2)).weekday()]
    fleet.add("shut", new_database(), window=f"{day} 00:00-24:00")
    fleet.add("open", new_database(), window="00:00-24:00")
    directory = sql_folder(_0001_a="create table a (x int);")
    told: list[Event] = []
    result = fleet.roll_out(directory, on_event=told.append, options=options())
    assert sorted(fleet.asked) == ["open", "t0"]
    (waiting,) = [event for event in told if isinstance(event, Waiting)]
    assert waiting.tenants == 1
    assert waiting.until is not None
    assert timedelta(days=1) < waiting.until - now < timedelta(days=2)
    assert (result.run.state, result.exit_code) == ("running", 1)

    # Its window has passed unused; the next one is found.
    with fleet.catalog.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE migration_tenant SET opens_at = now() - '2h'::interval, closes_at = now() - '1h'::interval"
            " WHERE outcome IS NULL"
        )
    assert fleet.work(find_run(fleet.catalog, None)).state == "running"
    assert sorted(fleet.asked) == ["open", "t0"]
    # It is opened, and the run ends.
    with fleet.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE migration_tenant SET opens_at = now() WHERE outcome IS NULL")
    assert fleet.work(find_run(fleet.catalog, None)).state == "finished"
    assert sorted(fleet.asked) == ["open", "shut", "t0"]

    later = sql_folder(_0001_a="create table a (x int);", _0002_b="create table b (x int);")
    assert fleet.roll_out(later, options=options(ignore_windows=True)).run.counts == {"applied": 3}


def test_who_is_created_while_a_run_runs_gets_a_wave_at_its_end(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], new_database: Callable[[], str]
) -> None:
    fleet = new_fleet(2)

    def be_born(event: Event) -> None:
        if isinstance(event, TenantFinished) and event.result.slug == "t0":
            fleet.add("young", new_database())

    result = fleet.roll_out(sql_folder(_0001_a="create table a (x int);"), on_event=be_born, options=options())
    assert result.run.counts == {"applied": 3}
    assert fleet.sql("young", "select to_regclass('a')::text") == [("a",)]


def test_who_is_deleted_meanwhile_is_gone_and_no_failure(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)
    run = fleet.begin(sql_folder(_0001_a="create table a (x int);"), options=options()).run
    with fleet.catalog.transaction() as connection:
        connection.exec_driver_sql(
            "UPDATE project SET state = 'deleting', deleting_at = now() WHERE provider_project_id = 'project-t1'"
        )
    ended = fleet.work(run)
    assert (ended.state, ended.counts) == ("finished", {"applied": 1, "gone": 1})
    assert fleet.asked == ["t0"]


def test_a_run_is_carried_out_as_it_was_planned_whatever_becomes_of_the_folder(
    new_fleet: Callable[[int], Any], drizzle_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    directory = drizzle_folder(("0000_a", 5, "create table a (x int)"))
    run = fleet.begin(directory).run
    drizzle_folder(("0000_a", 5, "create table wrong (x int)"), ("0001_b", 6, "create table wrong2 (x int)"))
    assert fleet.work(run).counts == {"applied": 1}
    assert fleet.sql(
        "t0", "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    ) == [("a",)]
