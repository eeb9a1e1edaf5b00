"""Real workers on a real catalog: what they do, what they leave to others, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from conftest import Workshop


def subjects(count: int, **given: object) -> dict[str, dict[str, object]]:
    return {f"t{number:03}": dict(given) for number in range(count)}


def test_a_job_is_done_by_several_workers(workshop: Workshop) -> None:
    job_id = workshop.start(subjects(10))
    assert workshop.job(job_id).state == "waiting"
    for _ in range(2):
        workshop.begin()
    job = workshop.wait_finished(job_id)
    assert (job.state, job.done, job.failed, job.waiting) == ("done", 10, 0, 0)
    assert {item.attempts for item in workshop.items(job_id).values()} == {1}
    assert workshop.ledger("SELECT count(*) FROM done") == [(10,)]
    with workshop.catalog.transaction() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM procrastinate.procrastinate_jobs").scalar() == 0
