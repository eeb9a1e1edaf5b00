"""The act of the branches: one for each developer, and a customer who gets a table back while others write."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, Self

import psycopg

from tenantry.demo.teller import Teller, connect, expect, shown
from tenantry.errors import Defect
from tenantry.fleet.environments.create import create_branch
from tenantry.fleet.environments.records import Place
from tenantry.fleet.environments.reset import reset_branch
from tenantry.fleet.environments.url import branch_url

DEVELOPERS: Final = ("ana", "ben", "chen")
EXPIRY: Final = timedelta(days=7)
TEST_TASKS: Final = 1_000
VICTIM: Final = "acme-corp"
OTHERS: Final = ("payroll-inc", "talent-biz")
WRITE_PAUSE_SECONDS: Final = 0.01
FIRST_WRITE_SECONDS_MAX: Final = 30.0
_COUNT: Final = "select count(*) from tasks"


class BranchesAct:
    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._fleet = teller.fleet
        self._place: Place | None = None

    @property
    def scenes(self) -> Sequence[Callable[[], None]]:
        return (self.test_data, self.branches, self.reset, self.accident)

    @property
    def place(self) -> Place:
        self._place = self._place or self._fleet.place()
        return self._place

    def test_data(self) -> None:
        self._teller.scene("Developers get a project of their own, with test data in its main branch")
        with (
            self._teller.timed("the non-production project, its schema and test data"),
            connect(branch_url(self.place, "main")) as connection,
        ):
            for file in sorted(self._teller.folder.glob("*.sql")):
                connection.execute(file.read_bytes())
            connection.execute("insert into users (email, name) values ('test@example.com', 'Test user')")
            connection.execute("insert into projects (owner_id, name) values (1, 'Test project')")
            connection.execute(
                "insert into tasks (project_id, title) select 1, 'test ' || n from generate_series(1, %s) n",
                (TEST_TASKS,),
            )
        self._teller.say(f"main         {TEST_TASKS} tasks")

    def branches(self) -> None:
        self._teller.scene("A branch for each, for a week: all of the data, a connection string of its own")
        times: list[float] = []
        for name in DEVELOPERS:
            began = time.monotonic()
            made = create_branch(self.place, name, parent="main", expires_at=datetime.now(UTC) + EXPIRY).branch
            times.append(time.monotonic() - began)
            self._teller.say(f"{made.name:<12} {made.host}  {shown(times[-1])}")
        self._teller.note("a branch with an endpoint, median of 3", statistics.median(times))

    def reset(self) -> None:
        self._teller.scene("One of them breaks everything, and resets the branch in one command")
        url = branch_url(self.place, DEVELOPERS[0])
        with connect(url) as connection:
            connection.execute("drop table tasks")
        self._teller.say(
            f"{DEVELOPERS[0]:<12} has dropped the table; {DEVELOPERS[1]} has {self._count(DEVELOPERS[1])} tasks"
        )
        with self._teller.timed("reset the branch to its parent"):
            reset_branch(self.place, DEVELOPERS[0])
        with connect(url) as connection:
            expect(connection.execute(_COUNT).fetchone() == (TEST_TASKS,), "the reset branch is like its parent")
        self._teller.say(f"{DEVELOPERS[0]:<12} {TEST_TASKS} tasks again, same connection string  {self._teller.last}")

    def accident(self) -> None:
        self._teller.scene(f"In production somebody drops the tasks table of {VICTIM}; others are writing")
        url = self._fleet.url(VICTIM)
        with connect(url) as connection:
            before = connection.execute(_COUNT).fetchone()
        with Writers([self._fleet.url(slug) for slug in OTHERS]) as writers:
            moment = datetime.now(UTC)
            with connect(url) as connection:
                connection.execute("drop table tasks")
            self._teller.say(f"{VICTIM:<12} the table is gone since {moment:%H:%M:%S.%f}")
            with self._teller.timed("a tenant goes back to the moment before, in place"):
                done = self._fleet.restore(self._fleet.plan_restore(VICTIM, at=moment))
            took = self._teller.last
            with self._teller.timed("its first row afterwards"), connect(url) as connection:
                after = connection.execute(_COUNT).fetchone()
        expect(after == before, "every row is back")
        expect(self._fleet.url(VICTIM) == url, "the connection string is the same")
        expect(not writers.errors, f"nobody else notices, and yet: {writers.errors[:1]}")
        self._teller.say(f"{VICTIM:<12} all its tasks are back, through the same connection string  {took}")
        self._teller.say(f"{'':<12} what was there until then is kept as branch {done.preserved_as}")
        self._teller.say(
            f"{' and '.join(OTHERS)}: {writers.writes} writes meanwhile, 0 errors, slowest {shown(writers.slowest)}"
        )
        self._teller.note("meanwhile, two other tenants", f"{writers.writes} writes, 0 errors")

    def _count(self, branch: str) -> int:
        with connect(branch_url(self.place, branch)) as connection:
            row = connection.execute(_COUNT).fetchone()
        expect(row is not None, "a count has a row")
        return int(str(row[0])) if row else 0


class Writers:
    """Threads that write to other tenants during the block, each through one connection, and count."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.writes = 0
        self.slowest = 0.0
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._writing = threading.Barrier(len(urls) + 1)
        self._threads = [threading.Thread(target=self._write, args=(url,), name="writer", daemon=True) for url in urls]

    def __enter__(self) -> Self:
        """Returns when each of them has written. Raises Defect when one cannot."""
        for thread in self._threads:
            thread.start()
        try:
            self._writing.wait(FIRST_WRITE_SECONDS_MAX)
        except threading.BrokenBarrierError as error:
            self.__exit__()
            raise Defect(f"the demo expected that others can write: {self.errors[:1]}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _write(self, url: str) -> None:
        number = 0
        try:
            with connect(url) as connection:
                while not self._stopping.wait(WRITE_PAUSE_SECONDS):
                    began = time.monotonic()
                    connection.execute(
                        "insert into tasks (project_id, title) values (1, %s)", (f"written meanwhile {number}",)
                    )
                    self._count(time.monotonic() - began)
                    number += 1
                    if number == 1:
                        self._writing.wait(FIRST_WRITE_SECONDS_MAX)
        except (psycopg.Error, threading.BrokenBarrierError) as error:
            self._writing.abort()
            with self._lock:
                self.errors.append(str(error))

    def _count(self, seconds: float) -> None:
        with self._lock:
            self.writes += 1
            self.slowest = max(self.slowest, seconds)
