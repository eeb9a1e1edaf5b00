"""Workers killed -9 every few seconds, and the catalog once: the ledger shows that everything was done exactly once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import psycopg
import pytest

from tenantry.errors import Unavailable
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.upgrade import upgrade_catalog

if TYPE_CHECKING:
    from conftest import Workshop


class Mortal(Protocol):
    """The server of the fixture ``mortal_server``."""

    dsn: str

    def kill(self) -> None: ...
    def start(self) -> None: ...


pytestmark = pytest.mark.crash

SUBJECTS = 4
"""Of each job, in two batches."""


@pytest.fixture
def mortal_workshop(mortal_server: Mortal, new_workshop: Callable[..., Workshop]) -> Workshop:
    """Workers on a catalog that a test may kill; the ledger is on another server."""
    with psycopg.connect(mortal_server.dsn, dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE catalog")
    url = f"{mortal_server.dsn} dbname=catalog"
    catalog = Catalog(url)
    upgrade_catalog(catalog)
    catalog.close()
    return new_workshop(url, batch_items=2)


def unfinished(workshop: Workshop) -> int:
    """How many jobs have not ended; -1 while the catalog is away."""
    try:
        with workshop.catalog.transaction() as connection:
            return connection.exec_driver_sql("SELECT count(*) FROM job WHERE finished_at IS NULL").scalar_one()
    except Unavailable:
        return -1


@pytest.mark.parametrize(
    ("jobs", "kill_seconds", "item_seconds"),
    [
        pytest.param(60, 1.5, 0.1, id="60"),
        pytest.param(300, 5.0, 0.25, id="300", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_every_tenants_work_is_done_exactly_once(
    mortal_workshop: Workshop, mortal_server: Mortal, jobs: int, kill_seconds: float, item_seconds: float
) -> None:
    workshop, choice = mortal_workshop, random.Random(7)
    ids = [
        workshop.start({f"t{number}": {"seconds": item_seconds} for number in range(SUBJECTS)}, job=f"j{job}")
        for job in range(jobs)
    ]
    for _ in range(3):
        workshop.begin()
    pause, killed, outages = threading.Event(), 0, 0
    while (left := unfinished(workshop)) != 0:
        pause.wait(kill_seconds)
        workshop.kill(choice.choice(sorted(workshop.workers)))
        killed += 1
        if not outages and 0 < left < jobs:
            mortal_server.kill()
            outages += 1
            workshop.begin()
            pause.wait(kill_seconds / 3)
            mortal_server.start()
        else:
            workshop.begin()
        assert killed < jobs, f"{left} jobs are left after {killed} kills"

    assert outages == 1 and killed > 1
    assert {workshop.job(job_id).state for job_id in ids} == {"done"}
    done = workshop.ledger("SELECT job, count(*), count(DISTINCT subject) FROM done GROUP BY job")
    assert sorted(done) == sorted((f"j{job}", SUBJECTS, SUBJECTS) for job in range(jobs))
    ((attempts, first),) = workshop.ledger("SELECT count(*), count(DISTINCT (job, subject)) FROM attempt")
    assert first == jobs * SUBJECTS
    counted = sum(item.attempts for job_id in ids for item in workshop.items(job_id).values())
    assert attempts <= counted, "an item was worked on that nobody had begun"
    print(f"{jobs} jobs, {first} items, {killed} kills, {attempts - first} attempts more than items")
