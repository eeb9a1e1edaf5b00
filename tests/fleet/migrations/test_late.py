"""Workers of a run that come late: what others have learnt, judged or taken over since is not undone by them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from tenantry.errors import Unavailable
from tenantry.fleet.catalog import queries, runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Done, Run
from tenantry.fleet.migrations import work
from tenantry.fleet.migrations.events import Event, TenantFinished
from tenantry.fleet.migrations.gates import Gates
from tenantry.fleet.migrations.run import RunOptions, abort_run
from tenantry.fleet.migrations.waves import Rules
from tenantry.fleet.migrations.work import Work, folder_of_run

SOON_SECONDS = 15.0
"""Much less than a worker may be silent."""

A = "create table a (x int);"
B = "create table b (x int);"


def until(condition: Callable[[], Any], what: str) -> None:
    pause, deadline = threading.Event(), time.monotonic() + SOON_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it did not come to: {what}"
        pause.wait(0.02)


def after(slug: str, act: Callable[[], object]) -> Callable[[Event], None]:
    """Acts once, when the tenant is done and the catalog has not heard of it."""
    left = [act]

    def on_event(event: Event) -> None:
        if left and isinstance(event, TenantFinished) and event.result.slug == slug:
            left.pop()()

    return on_event


@contextmanager
def meanwhile(fleet: Any, run: Run, ended: list[Run]) -> Iterator[Work]:
    """Carries the run out beside the block; interrupted at its end where it has not ended."""
    with folder_of_run(fleet.catalog, run) as folder:
        worker = Work(fleet.catalog, fleet, run, folder)
        thread = threading.Thread(target=lambda: ended.append(worker.execute()))
        thread.start()
        try:
            yield worker
        finally:
            thread.join(SOON_SECONDS)
            worker.interrupt()
            worker.interrupt()
            thread.join()


# -- what is known of schemas --------------------------------------------------------------------------------


def test_what_a_restore_has_made_the_catalog_forget_is_not_written_back(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(2)

    def restore() -> None:
        with fleet.catalog.transaction() as connection:
            tenant = queries.tenant_by_slug(connection, "t0")
            assert tenant is not None
            queries.forget_schema(connection, tenant.id)

    result = fleet.roll_out(sql_folder(_0001_a=A), on_event=after("t0", restore), options=RunOptions(jobs=1))
    assert result.run.counts == {"applied": 2}
    assert set(fleet.known) == {"t1"}, "the next run asks t0"


def test_a_worker_of_an_aborted_run_does_not_write_an_older_version_over_a_later_runs(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    fleet = new_fleet(1)
    first = fleet.begin(sql_folder(_0001_a=A)).run

    def overtake() -> None:
        abort_run(fleet.catalog, first)
        later = fleet.roll_out(sql_folder(_0001_a=A, _0002_b=B))
        assert later.run.counts == {"applied": 1}

    fleet.work(first, after("t0", overtake))
    assert fleet.known["t0"].version == "0002"


def test_a_failure_that_is_told_again_does_not_end_another_attempt(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path]
) -> None:
    """Whoever did not hear that his failure was written repeats it, and it was retried meanwhile."""
    fleet = new_fleet(1)
    run = fleet.begin(sql_folder(_0001_a="select 1;")).run
    with fleet.catalog.transaction() as connection:
        runs.set_wave(connection, run.id, 0, "running")
        (claimed,) = runs.claim_tenants(
            connection, run.id, 0, worker="w/1/x", limit=9, of_provider_max=9, stalled_seconds=45
        )
        failed = Done(tenant_id=claimed.tenant_id, fence=claimed.fence, outcome="failed")
        assert runs.record_done(connection, run.id, [failed]) == 0
        assert runs.retry_failed(connection, run.id) == 1
        assert runs.record_done(connection, run.id, [failed]) == 1, "refused"
        assert runs.counts(connection, run.id) == {"waiting": 1}


# -- waves that are judged -----------------------------------------------------------------------------------


def test_who_was_not_told_that_it_judges_a_wave_does_so_at_once(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalog goes away when it has committed that, and before it says so."""
    fleet = new_fleet(2)
    transaction, set_wave, judging = Catalog.transaction, runs.set_wave, [0]

    def counted(connection: Connection, run_id: str, number: int, state: Any, **named: Any) -> None:
        judging[0] += state == "judging"
        set_wave(connection, run_id, number, state, **named)

    @contextmanager
    def unheard(catalog: Catalog) -> Generator[Connection]:
        before = judging[0]
        with transaction(catalog) as connection:
            yield connection
        if (before, judging[0]) == (0, 1):
            raise Unavailable("the catalog does not answer")

    monkeypatch.setattr(runs, "set_wave", counted)
    monkeypatch.setattr(Catalog, "transaction", unheard)
    run = fleet.begin(sql_folder(_0001_a=A), options=RunOptions(rules=Rules(canaries=0))).run
    ended: list[Run] = []
    with meanwhile(fleet, run, ended):
        pass
    assert (ended[0].state, ended[0].counts) == ("finished", {"applied": 2})
    assert judging[0] == 2


def gate(tmp_path: Path) -> Gates:
    """Refuses, once the file ``go`` is there; ``asked`` says that it was asked."""
    waits = f"touch {tmp_path}/asked; for i in $(seq 1000); do test -e {tmp_path}/go && exit 1; sleep 0.02; done"
    return Gates(command=f'test "$TENANTRY_WAVE" != canary || {{ {waits}; }}')


def test_who_judges_for_long_lives(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "HEARTBEAT_SECONDS", 0.05)
    fleet = new_fleet(2)
    options = RunOptions(gates=gate(tmp_path), rules=Rules(canaries=1))
    run = fleet.begin(sql_folder(_0001_a=A), options=options).run

    def silent() -> bool:
        with fleet.catalog.transaction() as connection:
            return any(each.silent for each in runs.waves(connection, run.id, stalled_seconds=45))

    ended: list[Run] = []
    with meanwhile(fleet, run, ended):
        until((tmp_path / "asked").exists, "its gate is asked")
        with fleet.catalog.transaction() as connection:
            connection.exec_driver_sql(
                "UPDATE migration_wave SET claimed_at = now() - '1h'::interval WHERE worker IS NOT NULL"
            )
        until(lambda: not silent(), "it has said that it lives")
        (tmp_path / "go").touch()
    assert ended[0].state == "stopped"


def test_what_somebody_says_of_a_wave_that_another_has_taken_over_does_not_count(
    new_fleet: Callable[[int], Any], sql_folder: Callable[..., Path], tmp_path: Path
) -> None:
    fleet = new_fleet(2)
    options = RunOptions(gates=gate(tmp_path), rules=Rules(canaries=1))
    run = fleet.begin(sql_folder(_0001_a=A), options=options).run
    ended: list[Run] = []
    with meanwhile(fleet, run, ended):
        until((tmp_path / "asked").exists, "its gate is asked")
        with fleet.catalog.transaction() as connection:  # as the other does, whose gate said yes
            assert runs.hold_run(connection, run.id) is not None
            runs.set_wave(connection, run.id, 0, "passed", verdict={"objections": []})
        (tmp_path / "go").touch()
    assert (ended[0].state, ended[0].counts) == ("finished", {"applied": 2})
