"""What the catalog lets through: claims, fences, ends and the queue, one statement at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from procrastinate import sql
from procrastinate.jobs import Job as QueueEntry
from procrastinate.manager import JobManager
from psycopg.rows import dict_row
from sqlalchemy import Connection

from tenantry.errors import InvalidInput
from tenantry.fleet.catalog import jobs as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.jobs import Claim, JobId
from tenantry.fleet.jobs.jobs import start_job
from tenantry.fleet.jobs.kinds import Kind

KIND = Kind(name="write", work=lambda _: {}, batch_items=2)
QUEUES = {"write": "tenants"}
LONG_AGO = -1.0
"""With this for the seconds that a worker may be silent, everybody has been silent for too long."""


@pytest.fixture
def within(catalog: Catalog) -> Callable[..., Any]:
    """Calls one of the functions in a transaction of its own."""

    def call(function: Callable[..., Any], *given: object, **named: object) -> Any:
        with catalog.transaction() as connection:
            return function(connection, *given, **named)

    return call


def start(catalog: Catalog, *subjects: str) -> JobId:
    return start_job(catalog, KIND, {subject: {} for subject in subjects}, arguments={"a": 1}, by="somebody")


def ask(connection: Connection, statement: str) -> int:
    """How many rows it gives, or changes."""
    return connection.exec_driver_sql(statement).rowcount


def entries(connection: Connection) -> list[tuple[str, str, dict[str, Any], int]]:
    found = connection.exec_driver_sql(
        "SELECT queue_name, status::text, args, priority FROM procrastinate.procrastinate_jobs ORDER BY id"
    )
    return [(row[0], row[1], row[2], row[3]) for row in found]


def claim(within: Callable[..., Any], job_id: JobId, number: int = 0, stalled: float = 3600.0) -> Claim:
    claimed = within(rows.claim_batch, job_id, number, worker="w", stalled_seconds=stalled)
    assert claimed is not None
    return claimed


def test_a_job_its_batches_and_their_places_in_the_queue_are_one_transaction(
    catalog: Catalog, within: Callable[..., Any]
) -> None:
    with pytest.raises(RuntimeError), catalog.transaction() as connection:
        rows.add_job(
            connection, kind="write", arguments={}, created_by="x", items=[("a", {})], batch_items=2, queue="tenants"
        )
        assert len(entries(connection)) == 1
        raise RuntimeError
    assert within(entries) == []
    assert within(rows.jobs_page, limit=10) == []

    job_id = start(catalog, "a", "b", "c")
    assert within(entries) == [
        ("tenants", "todo", {"job_id": str(job_id), "number": 0}, 0),
        ("tenants", "todo", {"job_id": str(job_id), "number": 1}, 0),
    ]
    (job,) = within(rows.jobs_page, limit=10)
    assert (job.id, job.kind, job.state, job.total, job.created_by) == (job_id, "write", "waiting", 3, "somebody")


def test_the_queue_is_asked_as_procrastinate_asks_it(catalog: Catalog, catalog_url: str) -> None:
    """Our entries are made by its own function; a release of it that calls another one is noticed here."""
    assert "procrastinate_defer_jobs_v1(" in sql.queries["defer_jobs"]
    job_id = start(catalog, "a")
    options = "-c search_path=procrastinate"
    with (
        psycopg.connect(catalog_url, options=options) as session,
        session.cursor(row_factory=dict_row) as connection,
    ):
        (ours,) = connection.execute("SELECT * FROM procrastinate_jobs").fetchall()
        query = JobManager(None)._defer_jobs_query_kwargs(  # pyright: ignore[reportPrivateUsage, reportArgumentType]
            jobs=[
                QueueEntry(
                    id=None,
                    queue="tenants",
                    lock=None,
                    queueing_lock="theirs",
                    task_name=rows.TASK,
                    task_kwargs={"job_id": str(job_id), "number": 0},
                )
            ]
        )
        jobs = [entry._replace(args=json.dumps(entry.args)) for entry in query["jobs"]]
        connection.execute(query["query"], {"jobs": jobs})
        theirs = connection.execute("SELECT * FROM procrastinate_jobs WHERE queueing_lock = 'theirs'").fetchone()
    assert theirs is not None
    differing = {name for name, value in ours.items() if theirs[name] != value}
    assert differing == {"id", "queueing_lock"}


def test_a_claimed_batch_is_nobody_elses_until_its_worker_is_silent(
    catalog: Catalog, within: Callable[..., Any]
) -> None:
    job_id = start(catalog, "a")
    first = claim(within, job_id)
    assert (first.fence, first.kind, first.arguments) == (1, "write", {"a": 1})
    assert within(rows.claim_batch, job_id, 0, worker="x", stalled_seconds=3600.0) is None
    second = claim(within, job_id, stalled=LONG_AGO)
    assert second.fence == 2
    assert within(rows.keep_batches, [first]) == set()
    assert within(rows.keep_batches, [first, second]) == {(job_id, 0)}


def test_an_older_fence_begins_finishes_releases_and_ends_nothing(catalog: Catalog, within: Callable[..., Any]) -> None:
    job_id = start(catalog, "a")
    first = claim(within, job_id)
    assert within(rows.begin_item, first, "a").attempts == 1
    second = claim(within, job_id, stalled=LONG_AGO)
    assert within(rows.begin_item, first, "a") == rows.Begun(held=False, cancelled=False, attempts=None)
    assert within(rows.finish_item, first, "a", result={"by": 1}, error=None) is False
    assert within(rows.finish_batch, first) == "lost"
    assert within(rows.release_batch, first, queues=QUEUES) is False

    assert within(rows.begin_item, second, "a").attempts == 2
    assert within(rows.finish_item, second, "a", result={"by": 2}, error=None) is True
    (item,) = within(rows.items_page, job_id, states=["done"], limit=10)
    assert item.result == {"by": 2}
    assert within(rows.finish_batch, second) == "ended"
    assert within(rows.job_by_id, job_id).state == "done"


def test_a_write_under_way_and_a_claim_wait_for_each_other(catalog: Catalog, within: Callable[..., Any]) -> None:
    """A fence that was read must not be raised before what relies on it is committed."""
    job_id = start(catalog, "a")
    first = claim(within, job_id)
    claiming = threading.Event()

    def take_over() -> Claim:
        claiming.set()
        return claim(within, job_id, stalled=LONG_AGO)

    with ThreadPoolExecutor(1) as pool:
        with catalog.transaction() as connection:
            assert rows.finish_item(connection, first, "a", result={}, error=None) is True
            taken = pool.submit(take_over)
            assert claiming.wait(10)
            waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%%job_batch%%'"
            pause = threading.Event()
            while not within(ask, waiting):
                assert not taken.done(), "the claim did not wait"
                pause.wait(0.01)
        second = taken.result(10)
    assert within(rows.waiting_items, second) == []


def test_what_is_recorded_is_never_begun_or_recorded_again(catalog: Catalog, within: Callable[..., Any]) -> None:
    job_id = start(catalog, "a", "b")
    held = claim(within, job_id)
    for subject, error in (("a", None), ("b", "no")):
        within(rows.begin_item, held, subject)
        # Twice: a writer who did not hear the catalog's answer asks again.
        for result in ({"n": 1}, {"n": 2}):
            assert within(rows.finish_item, held, subject, result=result, error=error) is True
        assert within(rows.begin_item, held, subject).attempts is None
    done, failed = within(rows.items_page, job_id, states=["done", "failed"], limit=10)
    assert (done.state, done.result, done.attempts) == ("done", {"n": 1}, 1)
    assert (failed.state, failed.result, failed.error) == ("failed", {"n": 1}, "no")


def test_batches_that_end_at_once_end_their_job(catalog: Catalog, within: Callable[..., Any]) -> None:
    job_id = start(catalog, *"abcdefgh")
    claims = [claim(within, job_id, number) for number in range(4)]
    for held in claims:
        for item in within(rows.waiting_items, held):
            within(rows.finish_item, held, item.subject, result=None, error=None)
    gate = threading.Barrier(4)

    def end(held: Claim) -> str:
        gate.wait(10)
        return within(rows.finish_batch, held)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(end, claims)) == ["ended"] * 4
    assert within(rows.job_by_id, job_id).state == "done"


def test_what_is_retried_meanwhile_is_found_by_the_worker_that_has_the_batch(
    catalog: Catalog, within: Callable[..., Any]
) -> None:
    job_id = start(catalog, "a", "b", "c")
    held, other = claim(within, job_id), claim(within, job_id, 1)
    within(rows.finish_item, held, "a", result=None, error="no")
    within(rows.finish_item, held, "b", result=None, error=None)
    within(rows.finish_item, other, "c", result=None, error="no")
    assert within(rows.finish_batch, other) == "ended"
    queued = len(within(entries))
    assert within(rows.retry_job, job_id, queues=QUEUES) == 2
    assert within(rows.finish_batch, held) == "more"
    assert [item.subject for item in within(rows.waiting_items, held)] == ["a"]
    assert claim(within, job_id, 1).fence == 2
    assert len(within(entries)) == queued, "it was in the queue already"


def test_a_cancelled_job_ends_with_its_last_batch_in_hand(catalog: Catalog, within: Callable[..., Any]) -> None:
    job_id = start(catalog, "a", "b", "c")
    held = claim(within, job_id)
    within(rows.begin_item, held, "a")
    for _ in range(2):
        within(rows.cancel_job, job_id)
    assert within(rows.job_by_id, job_id).state == "cancelling"
    assert within(rows.claim_batch, job_id, 1, worker="x", stalled_seconds=LONG_AGO) is None
    assert within(rows.begin_item, held, "b") == rows.Begun(held=True, cancelled=True, attempts=None)
    assert within(rows.finish_item, held, "a", result=None, error=None) is True
    assert within(rows.finish_batch, held) == "ended"
    job = within(rows.job_by_id, job_id)
    assert (job.state, job.done, job.waiting) == ("cancelled", 1, 2)


def test_the_look_queues_what_nobody_works_on_once(catalog: Catalog, within: Callable[..., Any]) -> None:
    job_id = start(catalog, "a", "b", "c", "d", "e")
    claim(within, job_id)
    within(ask, "TRUNCATE procrastinate.procrastinate_jobs CASCADE")
    assert within(rows.queue_again, queues=QUEUES, stalled_seconds=3600.0) == 2
    assert within(rows.queue_again, queues=QUEUES, stalled_seconds=3600.0) == 0
    assert within(rows.queue_again, queues={"write": "passes"}, stalled_seconds=LONG_AGO) == 1
    assert [(queue, given["number"], priority) for queue, _, given, priority in within(entries)] == [
        ("tenants", 1, 0), ("tenants", 2, 0), ("passes", 0, 1),
    ]  # fmt: skip


def test_entries_of_workers_that_are_gone_are_forgotten(catalog: Catalog, within: Callable[..., Any]) -> None:
    start(catalog, "a", "b", "c")

    def take(connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL search_path = procrastinate")
        worker = connection.exec_driver_sql(
            "INSERT INTO procrastinate.procrastinate_workers DEFAULT VALUES RETURNING id"
        ).scalar_one()
        connection.exec_driver_sql(
            "UPDATE procrastinate.procrastinate_jobs SET status = 'doing', worker_id = %s"
            " WHERE id = (SELECT min(id) FROM procrastinate.procrastinate_jobs)",
            (worker,),
        )

    within(take)
    within(rows.queue_again, queues=QUEUES, stalled_seconds=3600.0)
    assert sorted(status for _, status, _, _ in within(entries)) == ["doing", "todo", "todo"]
    within(rows.queue_again, queues=QUEUES, stalled_seconds=LONG_AGO)
    assert sorted(status for _, status, _, _ in within(entries)) == ["todo", "todo"]


def test_nobody_is_stalled_before_the_catalog_was_up_for_long(catalog: Catalog, within: Callable[..., Any]) -> None:
    """Workers that live could not say so while it was away."""
    job_id = start(catalog, "a")
    claim(within, job_id)
    within(ask, "UPDATE job_batch SET claimed_at = now() - interval '10 years'")
    year = 365 * 86_400.0
    assert within(rows.claim_batch, job_id, 0, worker="x", stalled_seconds=year) is None
    assert within(rows.queue_again, queues=QUEUES, stalled_seconds=year) == 0


def test_ended_jobs_are_forgotten_in_time_and_of_passes_all_but_the_newest(
    catalog: Catalog, within: Callable[..., Any]
) -> None:
    def end(connection: Connection, job_id: JobId, days: int) -> None:
        connection.exec_driver_sql(
            "UPDATE job SET finished_at = now() - make_interval(days => %s) WHERE id = %s",
            (days, job_id),
        )
        connection.exec_driver_sql("UPDATE job SET created_at = finished_at WHERE id = %s", (job_id,))

    old, young, unfinished = start(catalog, "a"), start(catalog, "a"), start(catalog, "a")
    within(end, old, 31)
    within(end, young, 29)
    runs = [start_job(catalog, replace(KIND, name="tidy"), {"tidy": {}}, arguments={}, by="x") for _ in range(4)]
    for days, run in enumerate(runs):
        within(end, run, days)
    assert within(rows.prune_jobs, days=30, kinds=["tidy"], runs_kept=2) == 3
    assert {job.id for job in within(rows.jobs_page, limit=100)} == {young, unfinished, *runs[:2]}


@pytest.mark.parametrize("given", [{}, {"": {}}, {"x" * 201: {}}], ids=["none", "empty", "long"])
def test_subjects_that_cannot_be(catalog: Catalog, given: dict[str, dict[str, object]]) -> None:
    with pytest.raises(InvalidInput):
        start_job(catalog, KIND, given, arguments={}, by="x")
