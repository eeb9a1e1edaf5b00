"""kill -9 of worker processes in the middle of verifications and backups that jobs and passes have begun: others take
over, nothing is verified that does not restore, and nothing that was half done stays.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tenantry.fleet.backups.verify import NAME
from tenantry.testing.throwaway import ThrowawayCell

from .conftest import Operator

if TYPE_CHECKING:
    from ..forks import Nurseries
    from .conftest import Query

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

PROGRAM = Path(__file__).with_name("hasty_worker.py")
WAIT_SECONDS_MAX = 120.0
LONG_AGO = "0 0 1 1 *"
"""A time that has come once this year: a tenant without a backup is due, and is not due again once it has one."""


class Workers:
    """Processes of PROGRAM on one cell."""

    def __init__(self, data: Path, directory: Path) -> None:
        self._data = data
        self._directory = directory
        self._all: list[subprocess.Popen[bytes]] = []

    def begin(self, passes: str = "", **environment: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"worker-{len(self._all)}.log").open("wb") as log:
            self._all.append(
                subprocess.Popen(
                    [sys.executable, str(PROGRAM), passes],
                    env=os.environ | {"TENANTRY_DATA": str(self._data)} | environment,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                )
            )  # fmt: skip
        return self._all[-1]

    def dies_at(self, point: str, passes: str = "") -> None:
        """One more, that kills itself there."""
        died = self.begin(passes, TENANTRY_FAILPOINTS=f"{point}=kill").wait(WAIT_SECONDS_MAX)
        assert died == -signal.SIGKILL

    def close(self) -> None:
        for each in self._all:
            each.kill()
            each.wait(30)


def until(condition: Callable[[], Any], what: str) -> Any:
    pause, deadline = threading.Event(), time.monotonic() + WAIT_SECONDS_MAX
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not come to: {what}"
        pause.wait(0.5)
    return value


@pytest.fixture(scope="module")
def operator(
    new_workdir: Callable[[str], Path], new_cell: Callable[..., ThrowawayCell], nurseries: Nurseries
) -> Iterator[Operator]:
    """Of a cell without a worker: all there are, a test has begun."""
    with new_cell(new_workdir("idle") / "data", options=["--spares", "1", "--no-worker"]) as cell:
        yield Operator(cell, nurseries)


@pytest.fixture
def workers(operator: Operator, vault: Path, workdir: Path) -> Iterator[Workers]:
    del vault  # its place is in the environment that workers inherit
    workers = Workers(operator.cell.data, workdir)
    yield workers
    workers.close()


def customers(operator: Operator, query: Query, name: str, count: int) -> list[str]:
    slugs: list[str] = []
    for number in range(count):
        slugs.append(operator.json("create", f"{name} {number}")["tenant"]["slug"])
        url = operator.do("url", slugs[-1]).stdout
        query(url, f"CREATE TABLE t AS SELECT i FROM generate_series(1, {100 + number}) AS i")
    return slugs


def newest(operator: Operator, slug: str) -> dict[str, Any]:
    return operator.json("backup", "list", slug)["backups"][0]


def nothing_is_left(operator: Operator) -> bool:
    """Of projects that hold a customer's data; those of the dead go once they have been silent for long enough."""
    return operator.projects(NAME) == []


def test_a_job_that_verifies_is_ended_by_other_workers(
    operator: Operator, query: Query, vault: Path, workers: Workers, name: str
) -> None:
    slugs = customers(operator, query, name, 5)
    operator.do("backup", "run", *slugs)
    spoiled = vault / newest(operator, slugs[0])["place"] / "database-0.dump"
    content = bytearray(spoiled.read_bytes())
    content[len(content) // 2] ^= 1
    spoiled.write_bytes(content)

    job = operator.json("jobs", "start", "verify", *slugs)["job"]["id"]
    for point in ("verify.created", "verify.compared"):
        workers.dies_at(point)
        assert not [slug for slug in slugs if newest(operator, slug)["verified_at"]], "nothing was compared to its end"
    workers.dies_at("verify.recorded")
    for _ in range(2):
        workers.begin()
    assert operator.json("jobs", "wait", job, code=3)["job"]["failed"] == 1
    assert newest(operator, slugs[0])["verified_at"] is None
    for slug in slugs[1:]:
        assert newest(operator, slug)["verified_at"], slug
        restored = operator.json("backup", "restore", slug, "--as", f"{slug} again")
        assert restored["rows"] == 100 + slugs.index(slug)
    # The last that died had finished what it was at; its project goes with somebody's next verification.
    job = operator.json("jobs", "start", "verify", slugs[1])["job"]["id"]
    operator.do("jobs", "wait", job)
    assert nothing_is_left(operator)


def test_the_passes_back_up_and_verify_everybody_though_workers_die(
    operator: Operator, query: Query, vault: Path, workers: Workers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_BACKUPS__VERIFY_WITHIN", "1m")  # what died is tried again after some seconds
    slugs = customers(operator, query, name, 3)
    for slug in slugs:
        operator.do("backup", "schedule", slug, "--cron", LONG_AGO)
    for point in ("backup.dumping", "backup.written"):
        workers.dies_at(point, "back_up_due")
    workers.dies_at("verify.restored", "verify_backups")
    for _ in range(2):
        workers.begin("back_up_due,verify_backups")

    def all_proven() -> bool:
        report = operator.json("backup", "report", *slugs)["tenants"]
        return {line["standing"] for line in report} <= {"verified", "due"}

    until(all_proven, "everybody has a backup that was verified")
    until(lambda: nothing_is_left(operator), "no project of the dead")
    known = operator.json("backup", "list", "--all", "--limit", "1000")["backups"]
    assert {each["state"] for each in known} <= {"done", "failed"}, "nobody is at work on any"
    operator.do("backup", "prune", "--yes")
    good = [each["place"] for slug in slugs for each in operator.json("backup", "list", slug)["backups"]]
    there = {f"{slug}/{path.name}" for slug in slugs for path in (vault / slug).iterdir()}
    assert there == set(good)
