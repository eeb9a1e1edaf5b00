"""Real workers on a real catalog: what they do, what they leave to others, and what they refuse."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.fleet.catalog import jobs as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.jobs.worker import offer_after

if TYPE_CHECKING:
    from conftest import Workshop


def subjects(count: int, **given: object) -> dict[str, dict[str, object]]:
    return {f"t{number:03}": dict(given) for number in range(count)}


def attempts(workshop: Workshop) -> int:
    return workshop.ledger("SELECT count(*) FROM attempt")[0][0]


def test_a_job_is_done_by_several_workers_each_item_once(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(10))
    assert workshop.job(job_id).state == "waiting"
    for _ in range(2):
        workshop.begin()
    job = workshop.wait_finished(job_id)
    assert (job.state, job.done, job.failed, job.waiting) == ("done", 10, 0, 0)
    assert {item.attempts for item in workshop.items(job_id).values()} == {1}
    assert workshop.ledger("SELECT count(*) FROM done") == [(10,)]
    # The queue keeps nothing of what is over.
    entries = "SELECT count(*) FROM procrastinate.procrastinate_jobs"
    workshop.until(lambda: _scalar(workshop, entries) == 0, "the queue is empty")


def test_a_stopped_workers_batch_is_taken_over_and_its_late_result_refused(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(1, gate="late"))
    stalled = workshop.begin()
    workshop.until(lambda: attempts(workshop) == 1, "the first worker has begun")
    workshop.signal(stalled, signal.SIGSTOP)

    second = workshop.heir()
    workshop.until(lambda: workshop.job(job_id).workers == (second,), "the second has claimed the batch")
    workshop.until(lambda: attempts(workshop) == 2, "the second has begun")

    workshop.open_gate("late", stalled)
    workshop.signal(stalled, signal.SIGCONT)
    workshop.until(lambda: "a late result was refused" in workshop.log(stalled), "the first was refused")
    assert workshop.ledger("SELECT worker FROM done") == [(stalled,)]
    assert (workshop.job(job_id).workers, workshop.job(job_id).waiting) == ((second,), 1)

    workshop.open_gate("late", second)
    assert workshop.wait_finished(job_id).state == "done"
    assert workshop.items(job_id)["t000"].result == {"worker": second, "first": False}

    # It is a worker like any other again.
    workshop.kill(second)
    later = workshop.start(subjects(3), job="later")
    assert workshop.wait_finished(later).state == "done"
    assert [(item.result or {})["worker"] for item in workshop.items(later).values()] == [stalled] * 3


def test_a_worker_that_was_silent_for_long_does_not_begin_its_own_work_once_more(workshop: Workshop) -> None:
    """As after a machine that slept: it may look for silent workers before it has said that it lives."""
    job_id = workshop.start(subjects(1, gate="end"))
    workshop.begin(stalled_seconds=10)
    workshop.until(lambda: attempts(workshop) == 1, "it has begun")
    queued = "SELECT last_value FROM procrastinate.procrastinate_jobs_id_seq"
    before = _scalar(workshop, queued)

    def was_put_back_and_followed() -> bool:
        """A look puts nothing back that is in the queue, so there are two once the first was followed."""
        with workshop.catalog.transaction() as connection:
            connection.exec_driver_sql("UPDATE job_batch SET claimed_at = now() - interval '1 hour'")
        return _scalar(workshop, queued) >= before + 2

    workshop.until(was_put_back_and_followed, "its batch was taken for a silent worker's")
    workshop.open_gate("end")
    assert workshop.wait_finished(job_id).state == "done"
    assert [item.attempts for item in workshop.items(job_id).values()] == [attempts(workshop)] == [1]


def test_parts_that_are_meant_for_different_workers_are_not_taken_by_one(
    catalog: Catalog, catalog_url: str, new_workshop: Callable[..., Workshop]
) -> None:
    del catalog
    workshop = new_workshop(catalog_url, batch_items=1, apart=True)
    job_id = workshop.start(subjects(3, gate="end"))
    first = workshop.begin()
    workshop.until(lambda: attempts(workshop) == 1, "the first worker has begun one")
    second = workshop.begin()
    workshop.until(lambda: attempts(workshop) == 2, "the second has begun another")
    assert set(workshop.ledger("SELECT worker FROM attempt")) == {(first,), (second,)}
    workshop.open_gate("end")
    job = workshop.wait_finished(job_id)
    assert (job.state, job.done) == ("done", 3), "the third is done by whoever is free"
    assert {item.attempts for item in workshop.items(job_id).values()} == {1}


def test_a_worker_that_is_alone_leaves_parts_that_are_meant_for_others_alone(
    catalog: Catalog, catalog_url: str, new_workshop: Callable[..., Workshop]
) -> None:
    """It is offered them now and then, claims none, and does them one after the other where nobody else comes."""
    del catalog
    workshop = new_workshop(catalog_url, batch_items=1, apart=True)
    job_id = workshop.start(subjects(4, gate="end"))
    alone = workshop.begin(look_seconds=3600.0)  # it offers them by itself
    workshop.until(lambda: attempts(workshop) == 1, "it has begun one")
    offered = "SELECT last_value FROM procrastinate.procrastinate_jobs_id_seq"
    before = _scalar(workshop, offered)
    workshop.until(lambda: _scalar(workshop, offered) >= before + 6, "the others were offered twice")
    # Two may have been claimed when the first was, and were given back.
    assert _scalar(workshop, "SELECT sum(fence) FROM job_batch") <= 1 + 2
    assert workshop.job(job_id).workers == (alone,)
    workshop.open_gate("end")
    job = workshop.wait_finished(job_id)
    assert (job.state, job.done) == ("done", 4)
    assert {item.attempts for item in workshop.items(job_id).values()} == {1}


def test_parts_for_others_are_offered_less_and_less_often_and_then_by_the_looks_alone() -> None:
    pauses = [offer_after(times, 10.0) for times in range(6)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, None, None]


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_worker_claims_no_batch_of_which_it_cannot_begin_an_item(workshop: Workshop, concurrency: int) -> None:
    jobs = [workshop.start(subjects(1, gate="end"), job=f"j{number}") for number in range(3)]
    busy = workshop.begin(concurrency=concurrency)
    workshop.until(lambda: attempts(workshop) == concurrency, "it has as many items in hand as it may")
    free = workshop.begin(concurrency=3 - concurrency)
    workshop.until(lambda: attempts(workshop) == 3, "the other has begun the rest")
    counted = dict(workshop.ledger("SELECT worker, count(*) FROM attempt GROUP BY worker"))
    assert counted == {busy: concurrency, free: 3 - concurrency}
    workshop.open_gate("end")
    for job_id in jobs:
        assert workshop.wait_finished(job_id).state == "done"


def test_what_is_done_is_not_done_again_by_whoever_takes_over(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(2) | {"t002": {"gate": "held"}})
    first = workshop.begin()
    workshop.until(
        lambda: workshop.job(job_id).done == 2 and attempts(workshop) == 3, "two are done, the third is under way"
    )
    workshop.kill(first)
    second = workshop.heir()
    workshop.open_gate("held")
    assert workshop.wait_finished(job_id).state == "done"
    by = {subject: item.result and item.result["worker"] for subject, item in workshop.items(job_id).items()}
    assert by == {"t000": first, "t001": first, "t002": second}
    assert attempts(workshop) == 4


def test_sigterm_ends_what_is_under_way_and_leaves_the_rest_to_others_at_once(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(4, gate="slow"))
    first = workshop.begin(concurrency=1)
    workshop.until(lambda: attempts(workshop) == 1, "it has begun")
    workshop.signal(first, signal.SIGTERM)
    workshop.until(lambda: "Stop requested" in workshop.log(first), "it has heard of it")
    workshop.open_gate("slow")
    workshop.wait_ended(first)
    assert (workshop.job(job_id).done, workshop.job(job_id).waiting) == (1, 3)
    workshop.begin()  # it takes over from nobody: what is left was released
    assert workshop.wait_finished(job_id).state == "done"
    assert attempts(workshop) == 4


def test_a_second_sigterm_waits_for_nothing(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(1, gate="never"))
    first = workshop.begin()
    workshop.until(lambda: attempts(workshop) == 1, "it has begun")
    workshop.signal(first, signal.SIGTERM)
    workshop.until(lambda: "Stop requested" in workshop.log(first), "it has heard of it")
    workshop.signal(first, signal.SIGTERM)
    workshop.wait_ended(first)
    assert workshop.job(job_id).workers == (first,), "what may still be done is not for anybody to begin"


def test_a_cancelled_job_begins_nothing_more_and_can_be_taken_up_again(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(8, gate="slow"))
    workshop.begin(concurrency=1)
    workshop.until(lambda: attempts(workshop) == 1, "it has begun")
    with workshop.catalog.transaction() as connection:
        rows.cancel_job(connection, job_id)
    assert workshop.job(job_id).state == "cancelling"
    workshop.open_gate("slow")
    job = workshop.wait_finished(job_id)
    assert (job.state, job.done, job.waiting) == ("cancelled", 1, 7)

    with workshop.catalog.transaction() as connection:
        assert rows.retry_job(connection, job_id, queues={"write": "tenants"}) == 7
    assert workshop.wait_finished(job_id).state == "done"
    assert attempts(workshop) == 8


def test_what_fails_says_why_and_only_that_is_retried(workshop: Workshop) -> None:
    job_id = workshop.start(
        {"ok": {}, "refuses": {"refuses": True}, "breaks": {"breaks": True}, "mended": {"unavailable_until": 3}}
    )
    name = workshop.begin()
    assert workshop.wait_finished(job_id).state == "failed"
    items = workshop.items(job_id)
    assert {subject: (item.state, item.attempts) for subject, item in items.items()} == {
        "ok": ("done", 1),
        "refuses": ("failed", 1),
        "breaks": ("failed", 1),
        "mended": ("done", 3),
    }
    assert items["refuses"].error == "it never can be; give up"
    assert items["breaks"].error == "internal error: ZeroDivisionError; the worker's log has the traceback"
    assert "ZeroDivisionError" in workshop.log(name)
    assert "secret" not in workshop.log(name)

    with workshop.catalog.transaction() as connection:
        assert rows.retry_job(connection, job_id, queues={"write": "tenants"}) == 2
    assert workshop.wait_finished(job_id).state == "failed"
    assert workshop.ledger("SELECT subject, count(*) FROM attempt GROUP BY 1 ORDER BY 1") == [
        ("breaks", 2), ("mended", 3), ("ok", 1), ("refuses", 2),
    ]  # fmt: skip


def test_what_kills_its_workers_is_given_up(workshop: Workshop) -> None:
    job_id = workshop.start({"poison": {"kills": True}})
    for _ in range(3):
        workshop.wait_ended(workshop.begin(stalled_seconds=0.5))
    workshop.begin(stalled_seconds=0.5)
    assert workshop.wait_finished(job_id).state == "failed"
    assert "its worker died each time" in (workshop.items(job_id)["poison"].error or "")
    assert attempts(workshop) == 3


def test_what_takes_too_long_has_failed_and_holds_nobody_up(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(2, gate="never"), kind="brief")
    other = workshop.start(subjects(2), job="other")
    workshop.begin(concurrency=1)
    assert workshop.wait_finished(job_id).failed == 2
    assert {item.error for item in workshop.items(job_id).values()} == {"it took longer than 0.5 s"}
    assert workshop.wait_finished(other).state == "done"


def test_a_worker_whose_threads_hang_gives_itself_up(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(8, gate="never"), kind="brief")
    hung = workshop.begin()
    workshop.wait_ended(hung)
    assert "their threads hang" in workshop.log(hung)
    workshop.begin()  # it may have given itself up before it had said that the last batch has ended
    assert workshop.wait_finished(job_id).failed == 8


def test_an_entry_that_the_queue_lost_is_put_back(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(2))
    with workshop.catalog.transaction() as connection:
        connection.exec_driver_sql("TRUNCATE procrastinate.procrastinate_jobs CASCADE")
    workshop.begin()
    assert workshop.wait_finished(job_id).state == "done"


def test_a_worker_survives_its_connections(workshop: Workshop) -> None:
    """All of them at once, in the middle of the work, as when a pooler or a network goes."""
    job_id = workshop.start(subjects(4, gate="open"))
    name = workshop.begin()
    workshop.until(lambda: attempts(workshop) == 4, "all are under way")
    with workshop.catalog.transaction() as connection:
        ended = connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).all()
    assert len(ended) >= 3
    workshop.open_gate("open")
    assert workshop.wait_finished(job_id).state == "done"
    assert attempts(workshop) == 4
    later = workshop.start(subjects(2), job="later")
    assert workshop.wait_finished(later).state == "done"
    assert workshop.workers[name].is_running()


def test_a_worker_keeps_to_its_budget_of_connections(workshop: Workshop) -> None:
    from tenantry.fleet.jobs.worker import CATALOG_CONNECTIONS_MAX  # noqa: PLC0415

    connected = (
        "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'tenantry%%'"
    )
    others = _scalar(workshop, connected)
    workshop.start(subjects(12, gate="open"))
    workshop.begin(concurrency=12)
    workshop.until(lambda: attempts(workshop) == 12, "all are under way")
    its = set(_scalar(workshop, connected)) - set(others)
    assert 0 < len(its) <= CATALOG_CONNECTIONS_MAX
    workshop.open_gate("open")


@pytest.mark.parametrize("queues", [["tenants"], ["passes"]])
def test_a_worker_takes_work_from_its_queues_only(workshop: Workshop, queues: list[str]) -> None:
    job_id = workshop.start(subjects(1))
    workshop.begin(queues=queues)
    if queues == ["tenants"]:
        assert workshop.wait_finished(job_id).state == "done"
    else:
        other = workshop.begin()
        assert workshop.wait_finished(job_id).state == "done"
        assert workshop.items(job_id)["t000"].result == {"worker": other, "first": True}


def test_a_pass_runs_in_time_by_one_worker_at_a_time(workshop: Workshop) -> None:
    for _ in range(3):
        workshop.begin(tidy="* * * * * *")  # with a field for seconds in front

    def runs() -> list[Any]:
        with workshop.catalog.transaction() as connection:
            return [job for job in rows.jobs_page(connection, limit=100) if job.finished_at is not None]

    workshop.until(lambda: len(runs()) >= 4, "it has run four times")
    assert {(job.kind, job.state, job.created_by, job.total) for job in runs()} == {("tidy", "done", "schedule", 1)}
    result = workshop.items(runs()[0].id)["tidy"].result
    assert result is not None
    assert result["said"] in [[f"w{number} was here"] for number in (1, 2, 3)]


def test_a_run_of_a_pass_is_finished_by_another_when_its_worker_dies(workshop: Workshop) -> None:
    first = workshop.begin(tidy="* * * * * *")
    workshop.until(lambda: attempts(workshop) > 0, "it runs")
    workshop.kill(first)
    ran = attempts(workshop)
    workshop.heir(tidy="* * * * * *")
    workshop.until(lambda: attempts(workshop) > ran, "it runs again")


def test_a_look_that_fails_unexpectedly_is_not_the_last(workshop: Workshop) -> None:
    worker = workshop.begin(tidy="* * * * * *")
    workshop.until(lambda: attempts(workshop) > 0, "it runs")
    alter = "ALTER FUNCTION procrastinate.{} RENAME TO {}"
    with workshop.catalog.transaction() as connection:
        connection.exec_driver_sql(alter.format("procrastinate_defer_jobs_v1", "away"))
    workshop.until(lambda: "procrastinate_defer_jobs_v1" in workshop.log(worker), "a look has failed")
    with workshop.catalog.transaction() as connection:
        connection.exec_driver_sql(alter.format("away", "procrastinate_defer_jobs_v1"))
    ran = attempts(workshop)
    workshop.until(lambda: attempts(workshop) > ran, "it runs again")


def _scalar(workshop: Workshop, statement: str) -> Any:
    with workshop.catalog.transaction() as connection:
        return connection.exec_driver_sql(statement).scalar()
