"""The story: four customers get a database each, sleep, wake, and take two migrations, of which one goes wrong."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from rich.console import Console
from rich.table import Table

from tenantry.errors import Defect, OperatorError
from tenantry.fleet.main import Fleet, open_fleet
from tenantry.fleet.migrations.results import RunResult
from tenantry.testing.throwaway import ThrowawayCell

CUSTOMERS: Final = ("ACME Corp", "Payroll Inc", "Finance Co", "Talent Biz")
UNLUCKY: Final = "finance-co"
SUSPEND_SECONDS: Final = 1
"""Idle tenants sleep sooner than anybody would want in earnest, so that the audience can watch."""
TASKS: Final = 250
SLEEP_SECONDS_MAX: Final = 30.0


class Story:
    """Tells each scene on the console and remembers what happened, for the table at the end."""

    def __init__(self, console: Console, fleet: Fleet, folder: Path) -> None:
        self._console = console
        self._fleet = fleet
        self._folder = folder
        self.happened: list[tuple[str, str]] = []

    def scene(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        self._console.print(f"  {text}")

    def note(self, what: str, seconds: float) -> None:
        """A line of the table at the end."""
        self.happened.append((what, _shown(seconds)))

    @contextmanager
    def timed(self, what: str) -> Generator[None]:
        began = time.monotonic()
        yield
        self.note(what, time.monotonic() - began)

    # -- scenes ------------------------------------------------------------------------------------------

    def create(self) -> None:
        self.scene("Four customers sign up; each gets a Postgres of its own")
        times: list[float] = []
        for name in CUSTOMERS:
            began = time.monotonic()
            tenant = self._fleet.create(name).tenant
            times.append(time.monotonic() - began)
            self.say(f"{name:<12} {tenant.slug:<12} project {tenant.project_id}  {_shown(times[-1])}")
        self.note("create a tenant (catalog and project), median of 4", statistics.median(times))

    def first_migration(self) -> None:
        self.scene("The application's schema, rolled out to all of them")
        with tempfile.TemporaryDirectory() as temporary:
            first = _only_first(self._folder, Path(temporary))
            with self.timed("first migration: 4 tenants, 10 statements each"):
                result = self._fleet.migrate(first)
        self._report(result)
        _expect(result.exit_code == 0, "the first migration succeeds everywhere")

    def write(self) -> None:
        self.scene("Each writes its own rows through the front door")
        for slug in self._slugs():
            with self._connect(slug) as connection:
                connection.execute("insert into users (email, name) values (%s, 'First user')", (f"first@{slug}",))
                connection.execute("insert into projects (owner_id, name) values (1, 'Launch')")
                connection.execute(
                    "insert into tasks (project_id, title) select 1, 'task ' || n from generate_series(1, %s) n",
                    (TASKS,),
                )
                if slug == UNLUCKY:
                    connection.execute("insert into tasks (project_id, title) values (1, 'task 1')")
            self.say(f"{slug:<12} {TASKS + (slug == UNLUCKY)} tasks")

    def sleep(self) -> None:
        self.scene(f"Nobody connects for {SUSPEND_SECONDS} s, and they go to sleep: no process, no memory, no cost")
        with self.timed("all four asleep, after the last query"):
            deadline = time.monotonic() + SLEEP_SECONDS_MAX
            while self._awake():
                _expect(time.monotonic() < deadline, f"all tenants sleep within {SLEEP_SECONDS_MAX:.0f} s")
                time.sleep(0.1)
        self.say(f"{len(CUSTOMERS)} asleep")

    def wake(self) -> None:
        self.scene("One customer comes back: connecting wakes its database")
        with self.timed("wake: connect to a sleeping tenant, first row"), self._connect("acme-corp") as connection:
            row = connection.execute("select count(*) from tasks").fetchone()
        _expect(row == (TASKS,), "every row is there")
        self.say(f"acme-corp    {TASKS} tasks, all there  {self.happened[-1][1]}")
        with self.timed("the same once more, awake"), self._connect("acme-corp") as connection:
            connection.execute("select 1")
        self.say(f"awake now: {', '.join(self._awake())}; the others sleep on")

    def second_migration(self) -> None:
        self.scene("A second migration allows a title only once in a project; one customer's data breaks it")
        with self.timed("second migration: 3 done, 1 failed"):
            result = self._fleet.migrate(self._folder)
        self._report(result)
        failed = [tenant for tenant in result.results if tenant.outcome == "failed"]
        _expect([tenant.slug for tenant in failed] == [UNLUCKY], "only the tenant with bad data fails")
        _expect(result.exit_code == 3, "the run says that some failed")

        self.scene("Its data is mended, and the same command resumes: only that tenant is touched")
        with self._connect(UNLUCKY) as connection:
            connection.execute("delete from tasks a using tasks b where a.title = b.title and a.id > b.id")
        with self.timed("the run resumed: 1 done, 3 not even woken"):
            result = self._fleet.migrate(self._folder)
        self._report(result)
        _expect(result.exit_code == 0, "the resumed run succeeds")

    def summary(self) -> None:
        self._console.print()
        table = Table("what happened", "took", title="Tenantry, on this machine, just now")
        table.columns[1].justify = "right"
        for what, took in self.happened:
            table.add_row(what, took)
        self._console.print(table)

    # -- helpers of scenes -------------------------------------------------------------------------------

    def _slugs(self) -> list[str]:
        return [str(tenant.slug) for tenant in self._fleet.list()]

    def _connect(self, slug: str) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self._fleet.url(slug), autocommit=True)

    def _awake(self) -> list[str]:
        return [slug for slug in self._slugs() if any(e.state != "idle" for e in self._fleet.show(slug).endpoints)]

    def _report(self, result: RunResult) -> None:
        for tenant in result.results:
            if tenant.outcome == "failed":
                failure = tenant.failure
                self.say(f"[red]{tenant.slug:<12} failed[/red]: {failure}")
            else:
                self.say(f"{tenant.slug:<12} {tenant.outcome}")


def tell(*, keep: bool) -> None:
    """Tells the whole story; raises what went wrong, having cleaned up."""
    console = Console(highlight=False)
    folder = _example()
    console.print("[bold]Tenantry: a database for every customer[/bold], on a throwaway cell that this demo starts")
    with ThrowawayCell(options=["--suspend-after", str(SUSPEND_SECONDS)]) as stage:
        target = stage.target
        with open_fleet(target.api_url, target.api_key, target.catalog_url, api_ca=target.api_ca) as fleet:
            story = Story(console, fleet, folder)
            story.note("a cell and its catalog from nothing (first start ever)", stage.ready_seconds)
            scenes: tuple[Callable[[], None], ...] = (
                story.create,
                story.first_migration,
                story.write,
                story.sleep,
                story.wake,
                story.second_migration,
                story.summary,
            )
            for scene in scenes:
                scene()
        if keep:
            _how_to_go_on(console, stage)
            stage.abandon()
    if not keep:
        console.print("\nThe cell has stopped and its data is gone. `tenantry demo --keep` leaves it running.")


def _how_to_go_on(console: Console, stage: ThrowawayCell) -> None:
    data = stage.data
    console.print(f"\nIt runs on (pid {stage.process.pid}). Try:")
    for command in (
        f"tenantry list --data {data}",
        f"tenantry psql acme-corp --data {data}",
        f'psql "$(tenantry url acme-corp --data {data})"',
        f"kill {stage.process.pid} && rm -r {data.parent}    # the end of it",
    ):
        console.print(f"  {command}", soft_wrap=True)


def _example() -> Path:
    """The example application's migrations: beside the sources, or in the installed package."""
    here = Path(__file__).resolve()
    for candidate in (here.parent / "tasks", here.parents[3] / "examples" / "tasks"):
        if (candidate / "drizzle" / "meta" / "_journal.json").exists():
            return candidate / "drizzle"
    raise OperatorError("the example application is missing", next_step="install tenantry again")


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


def _expect(condition: bool, what: str) -> None:
    """The demo proves what it shows: a story that does not come true is a failure."""
    if not condition:
        raise Defect(f"the demo expected that {what}")


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
