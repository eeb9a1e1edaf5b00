"""Jobs in a real catalog, and worker processes that are killed: forks of one process that has imported everything."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from tenantry.fleet.catalog import jobs as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.jobs import Job, JobId
from tenantry.fleet.jobs.jobs import start_job
from tenantry.fleet.jobs.kinds import Kind

QUICK = {
    "concurrency": 4,
    "heartbeat_seconds": 0.3,
    "stalled_seconds": 3600.0,
    "look_seconds": 0.3,
    "poll_seconds": 0.5,
    "stop_seconds": 3600.0,
    "again_seconds": 0.05,
}
"""A worker's bounds in a hurry. Nobody takes over from another, or gives up what is under way, only because the machine
stood still: whoever is to do so is told by his test, which sees to it that nobody else can."""
SOON = 2.0
"""After so many seconds of silence takes over who is to take over soon."""
LEDGER = """
    CREATE TABLE done (job text, subject text, worker text NOT NULL, PRIMARY KEY (job, subject));
    CREATE TABLE attempt (job text, subject text, worker text NOT NULL, at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE gate (name text PRIMARY KEY);
"""


class Workshop:
    """Workers on one catalog and one ledger, which the ledger's own server keeps when the catalog's is killed."""

    def __init__(
        self,
        nursery: subprocess.Popen[str],
        catalog_url: str,
        ledger: str,
        directory: Path,
        batch_items: int,
        apart: bool,
    ) -> None:
        self.catalog = Catalog(catalog_url)
        self.directory = directory
        self.kinds = {name: Kind(name=name, work=lambda _: {}, batch_items=batch_items) for name in ("write", "brief")}
        self.bounds = dict(QUICK)
        self.workers: dict[str, psutil.Process] = {}
        self._order = {"catalog": catalog_url, "ledger": ledger, "batch_items": batch_items, "apart": apart}
        self._ledger = psycopg.connect(ledger, autocommit=True)
        self._ledger.execute(LEDGER.encode())
        self._number = 0
        self._nursery = nursery

    @staticmethod
    def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
        """Waits until it is true, and returns what it is then."""
        pause = threading.Event()
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"in {seconds:g} s it did not come to: {what}"
            pause.wait(0.02)
        return value

    def begin(
        self, *, attempts_max: int = 3, queues: list[str] | None = None, tidy: str | None = None, **bounds: float
    ) -> str:
        """One more worker; returns its name. ``tidy``: the schedule of the one pass that it knows."""
        self._number += 1
        name = f"w{self._number}"
        order = self._order | {
            "name": name,
            "log": str(self.directory / f"{name}.log"),
            "bounds": self.bounds | bounds,
            "attempts_max": attempts_max,
            "queues": queues,
            "tidy": tidy,
        }
        assert self._nursery.stdin is not None and self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self.workers[name] = psutil.Process(int(self._nursery.stdout.readline()))
        self._nursery.stdin.write("\n")
        return name

    def heir(self, **given: Any) -> str:
        """One more worker, who takes over from those who are silent."""
        return self.begin(stalled_seconds=SOON, **given)

    def signal(self, name: str, number: signal.Signals) -> None:
        self.workers[name].send_signal(number)

    def wait_ended(self, name: str) -> None:
        self.workers.pop(name).wait(timeout=60)

    def kill(self, name: str) -> None:
        self.signal(name, signal.SIGKILL)
        self.wait_ended(name)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def start(self, subjects: Mapping[str, Mapping[str, object]], job: str = "j", kind: str = "write") -> JobId:
        return start_job(self.catalog, self.kinds[kind], subjects, arguments={"job": job}, by="test")

    def job(self, job_id: JobId) -> Job:
        with self.catalog.transaction() as connection:
            job = rows.job_by_id(connection, job_id)
        assert job is not None
        return job

    def items(self, job_id: JobId) -> dict[str, rows.Item]:
        with self.catalog.transaction() as connection:
            found = rows.items_page(connection, job_id, states=["waiting", "done", "failed"], limit=10_000)
        return {item.subject: item for item in found}

    def wait_finished(self, job_id: JobId) -> Job:
        return self.until(lambda: (job := self.job(job_id)).finished_at and job, "the job has ended")

    def ledger(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        cursor = self._ledger.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []

    def open_gate(self, name: str, worker: str | None = None) -> None:
        """Lets this worker pass, or all."""
        self.ledger("INSERT INTO gate VALUES (%s)", f"{name} {worker}" if worker else name)

    def close(self) -> None:
        for process in self.workers.values():
            try:
                process.send_signal(signal.SIGKILL)
                process.send_signal(signal.SIGCONT)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(list(self.workers.values()), timeout=30)
        self._ledger.close()
        self.catalog.close()


@pytest.fixture(scope="session")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that workers are forked from."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("worker_process.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    yield process
    process.stdin.close()
    process.wait(30)
    process.stdout.close()


@pytest.fixture
def new_workshop(
    nursery: subprocess.Popen[str], new_database: Callable[[], str], workdir: Path
) -> Iterator[Callable[..., Workshop]]:
    """Makes one on a catalog, with a ledger of its own on the session's server; no worker of it has begun."""
    made: list[Workshop] = []

    def make(catalog_url: str, *, batch_items: int = 4, apart: bool = False) -> Workshop:
        made.append(Workshop(nursery, catalog_url, new_database(), workdir, batch_items, apart))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def workshop(catalog: Catalog, catalog_url: str, new_workshop: Callable[..., Workshop]) -> Workshop:
    """On the session's catalog, which is empty."""
    del catalog  # it is wanted for having been emptied
    return new_workshop(catalog_url)
