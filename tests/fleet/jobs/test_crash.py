"""Workers killed -9 one after another, and the catalog once: the ledger shows that everything was done exactly once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import psycopg
import pytest

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
AWAY_SECONDS = 0.5
"""How long the catalog is away at least."""


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


def done(workshop: Workshop) -> int:
    return workshop.ledger("SELECT count(*) FROM done")[0][0]


@pytest.mark.parametrize(
    ("jobs", "kills", "item_seconds"),
    [
        pytest.param(60, 6, 0.1, id="60"),
        pytest.param(300, 24, 0.25, id="300", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_every_tenants_work_is_done_exactly_once(
    mortal_workshop: Workshop, mortal_server: Mortal, jobs: int, kills: int, item_seconds: float
) -> None:
    workshop, choice = mortal_workshop, random.Random(7)
    # The last job ends when nobody is killed any more: there is work left at each kill.
    given = [{"seconds": item_seconds}] * (jobs - 1) + [{"gate": "end"}]
    ids = [
        workshop.start({f"t{number}": each for number in range(SUBJECTS)}, job=f"j{job}")
        for job, each in enumerate(given)
    ]

    def begin() -> None:
        workshop.heir(attempts_max=kills + 1)  # chance may kill whoever has one of them in hand each time

    for _ in range(3):
        begin()
    for kill in range(kills):
        enough = (jobs - 1) * SUBJECTS * (kill + 1) // (kills + 1)
        workshop.until(lambda enough=enough: done(workshop) >= enough, f"{enough} are done")
        workshop.kill(choice.choice(sorted(workshop.workers)))
        if kill == kills // 2:
            mortal_server.kill()
            begin()
            threading.Event().wait(AWAY_SECONDS)
            mortal_server.start()
        else:
            begin()
    workshop.open_gate("end")
    assert {workshop.wait_finished(job_id).state for job_id in ids} == {"done"}

    by_job = workshop.ledger("SELECT job, count(*), count(DISTINCT subject) FROM done GROUP BY job")
    assert sorted(by_job) == sorted((f"j{job}", SUBJECTS, SUBJECTS) for job in range(jobs))
    ((attempts, first),) = workshop.ledger("SELECT count(*), count(DISTINCT (job, subject)) FROM attempt")
    assert first == jobs * SUBJECTS
    counted = sum(item.attempts for job_id in ids for item in workshop.items(job_id).values())
    assert attempts <= counted, "an item was worked on that nobody had begun"
    print(f"{jobs} jobs, {first} items, {kills} kills, {attempts - first} attempts more than items")
