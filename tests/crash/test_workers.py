"""A whole installation with workers: each of its processes may die, and what was asked for is done once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tenantry.fleet.main import Fleet, open_fleet
from tenantry.testing.throwaway import ThrowawayCell

if TYPE_CHECKING:
    from conftest import CellMaker

    from ..forks import Born, Nurseries

Until = Callable[..., None]
TENANTS = 24


@pytest.fixture
def until() -> Until:
    """Waits for a condition of other processes."""
    import threading  # noqa: PLC0415
    import time  # noqa: PLC0415

    def wait(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
        pause, deadline = threading.Event(), time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"in {seconds:g} s it did not come to: {what}"
            pause.wait(0.05)

    return wait


@pytest.fixture
def installation(make_cell: CellMaker) -> ThrowawayCell:
    """With a fleet; not started."""
    cell = make_cell("d", "--spares", "4")
    cell.options.remove("--no-fleet")
    return cell


@pytest.fixture
def new_worker(installation: ThrowawayCell, workdir: Path, nurseries: Nurseries) -> Iterator[Callable[[], Born]]:
    """Starts ``tenantry worker`` for the installation, as on another machine."""
    made: list[Born] = []

    def begin() -> Born:
        log = workdir / "workers.log"
        log.touch()  # read before the new process has opened it
        made.append(
            nurseries.give_birth(
                ["worker", "--data", str(installation.data)], os.environ, out=log, err=log, directory=workdir,
                script=Path(__file__).with_name("hurried_worker.py"),
            )
        )  # fmt: skip
        return made[-1]

    yield begin
    for process in made:
        process.kill()
        process.wait()


def workers_of(cell: ThrowawayCell) -> list[psutil.Process]:
    """The living workers that `up` has started."""
    found: list[psutil.Process] = []
    for process in psutil.Process(cell.process.pid).children():
        try:
            if "--with-parent" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def fleet_of(cell: ThrowawayCell) -> Fleet:
    target = cell.target
    return open_fleet(target.api_url, target.api_key, target.catalog_url)


def test_up_outlives_its_worker_and_its_worker_does_not_outlive_up(installation: ThrowawayCell, until: Until) -> None:
    def ready(count: int) -> bool:
        return installation.log.read_text().count("the worker is ready") >= count

    installation.start()
    until(lambda: ready(1), "a worker is ready")
    (first,) = workers_of(installation)
    first.kill()
    until(lambda: first not in workers_of(installation) and workers_of(installation), "another one has begun")
    (second,) = workers_of(installation)
    assert installation.process.poll() is None
    until(lambda: ready(2), "it is ready")

    installation.kill()
    second.wait(timeout=60)
    assert "the worker has stopped" in installation.log.read_text()

    installation.start()
    until(lambda: workers_of(installation), "it has begun with the next")
    (third,) = workers_of(installation)
    assert installation.stop() == 0
    assert not third.is_running()


def test_tenants_are_created_once_whoever_dies_meanwhile(
    installation: ThrowawayCell, new_worker: Callable[[], Born], until: Until
) -> None:
    """Two workers and the control process are killed -9 in the middle of creating tenants."""
    other = new_worker()  # before there is a fleet: it waits for one
    installation.options.append("--no-worker")
    installation.start()
    assert not workers_of(installation)
    with fleet_of(installation) as fleet:
        wanted = {f"customer-{number:02}": {"name": f"Customer {number:02}"} for number in range(TENANTS)}
        job = str(fleet.jobs.start("create", wanted))
        until(lambda: fleet.jobs.find(job).done >= 2, "some are there")
    other.kill()
    new_worker()
    installation.kill()
    installation.start()
    with fleet_of(installation) as fleet:
        new_worker()
        until(lambda: fleet.jobs.find(job).finished_at, "all are there", 100.0)
        shown = fleet.jobs.show(job, everything=True)
        assert (shown.job.state, shown.job.done) == ("done", TENANTS), shown.items
        tenants = {tenant.slug: tenant.project_id for tenant in fleet.list()}
        assert sorted(tenants) == sorted(wanted)
        assert {item.subject: item.result and item.result["project_id"] for item in shown.items} == tenants
        projects = [project.id for project in fleet.client.projects(search="Customer ")]
        assert sorted(projects) == sorted(str(project) for project in tenants.values())


def test_a_worker_ends_cleanly_also_where_there_is_no_fleet(
    new_worker: Callable[[], Born], workdir: Path, until: Until
) -> None:
    worker = new_worker()
    until(lambda: b"the fleet cannot be reached" in (workdir / "workers.log").read_bytes(), "it waits")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
