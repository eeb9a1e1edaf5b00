"""The act of the customers: four customers get a database each, take a first migration, write, sleep, and wake."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tenantry.demo.teller import Teller, expect, shown
from tenantry.fleet.migrations.results import counts_of

CUSTOMERS: Final = ("ACME Corp", "Payroll Inc", "Finance Co", "Talent Biz")
UNLUCKY: Final = "talent-biz"
"""Its data will break the second migration."""
SUSPEND_SECONDS: Final = 1
"""Idle tenants sleep sooner than anybody would want in earnest, so that the audience can watch."""
TASKS: Final = 250


class CustomersAct:
    def __init__(self, teller: Teller) -> None:
        self._teller = teller
        self._fleet = teller.fleet

    @property
    def scenes(self) -> Sequence[Callable[[], None]]:
        return (self.create, self.first_migration, self.write, self.sleep, self.wake)

    def create(self) -> None:
        self._teller.scene("Four customers sign up; each gets a Postgres of its own")
        times: list[float] = []
        for name in CUSTOMERS:
            began = time.monotonic()
            tenant = self._fleet.create(name).tenant
            times.append(time.monotonic() - began)
            self._teller.say(f"{name:<12} {tenant.slug:<12} project {tenant.project_id}  {shown(times[-1])}")
        self._teller.note("create a tenant (catalog and project), median of 4", statistics.median(times))

    def first_migration(self) -> None:
        self._teller.scene("The application's schema, rolled out to all of them")
        with tempfile.TemporaryDirectory() as temporary:
            first = _only_first(self._teller.folder, Path(temporary))
            with self._teller.timed("first migration: 4 tenants, 10 statements each"):
                result = self._fleet.migrate(first)
        for tenant in self._fleet.run_tenants(result):
            self._teller.say(f"{tenant.slug:<12} {tenant.outcome}")
        expect(counts_of(result)["applied"] == len(CUSTOMERS), "the first migration succeeds everywhere")

    def write(self) -> None:
        self._teller.scene("Each writes its own rows through the front door")
        for slug in self._slugs():
            with self._teller.connect(slug) as connection:
                connection.execute("insert into users (email, name) values (%s, 'First user')", (f"first@{slug}",))
                connection.execute("insert into projects (owner_id, name) values (1, 'Launch')")
                connection.execute(
                    "insert into tasks (project_id, title) select 1, 'task ' || n from generate_series(1, %s) n",
                    (TASKS,),
                )
                if slug == UNLUCKY:
                    connection.execute("insert into tasks (project_id, title) values (1, 'task 1')")
            self._teller.say(f"{slug:<12} {TASKS + (slug == UNLUCKY)} tasks")

    def sleep(self) -> None:
        self._teller.scene(
            f"Nobody connects for {SUSPEND_SECONDS} s, and they go to sleep: no process, no memory, no cost"
        )
        with self._teller.timed("all four asleep, after the last query"):
            self._teller.wait_until_asleep()
        self._teller.say(f"{len(CUSTOMERS)} asleep")

    def wake(self) -> None:
        self._teller.scene("One customer comes back: connecting wakes its database")
        with (
            self._teller.timed("wake: connect to a sleeping tenant, first row"),
            self._teller.connect("acme-corp") as connection,
        ):
            row = connection.execute("select count(*) from tasks").fetchone()
        expect(row == (TASKS,), "every row is there")
        self._teller.say(f"acme-corp    {TASKS} tasks, all there  {self._teller.last}")
        with self._teller.timed("the same once more, awake"), self._teller.connect("acme-corp") as connection:
            connection.execute("select 1")
        self._teller.say(f"awake now: {', '.join(self._teller.awake())}; the others sleep on")

    def _slugs(self) -> list[str]:
        return [str(tenant.slug) for tenant in self._fleet.list()]


def _only_first(folder: Path, into: Path) -> Path:
    """A copy of the folder as it was before its second migration was written."""
    copy = into / "drizzle"
    shutil.copytree(folder, copy)
    journal = copy / "meta" / "_journal.json"
    content = json.loads(journal.read_text())
    for entry in content["entries"][1:]:
        (copy / f"{entry['tag']}.sql").unlink()
    content["entries"] = content["entries"][:1]
    journal.write_text(json.dumps(content))
    return copy
