"""Tells scenes on the console and remembers what happened, for the table at the end."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
from rich.console import Console
from rich.table import Table

from tenantry.errors import Defect
from tenantry.fleet.main import Fleet

SLEEP_SECONDS_MAX: Final = 30.0


class Teller:
    """What every act needs. ``folder`` holds the example application's migrations."""

    def __init__(self, console: Console, fleet: Fleet, folder: Path) -> None:
        self._console = console
        self.fleet = fleet
        self.folder = folder
        self.happened: list[tuple[str, str]] = []

    def scene(self, title: str) -> None:
        self._console.print(f"\n[bold]{title}[/bold]")

    def say(self, text: str) -> None:
        self._console.print(f"  {text}")

    def note(self, what: str, took: float | str) -> None:
        """A line of the table at the end: seconds, or whatever else was counted."""
        self.happened.append((what, took if isinstance(took, str) else shown(took)))

    @contextmanager
    def timed(self, what: str) -> Generator[None]:
        began = time.monotonic()
        yield
        self.note(what, time.monotonic() - began)

    @property
    def last(self) -> str:
        """What the last note says."""
        return self.happened[-1][1]

    def connect(self, slug: str) -> psycopg.Connection[tuple[object, ...]]:
        return connect(self.fleet.url(slug))

    def awake(self) -> list[str]:
        slugs = [str(tenant.slug) for tenant in self.fleet.list()]
        return [slug for slug in slugs if any(each.state != "idle" for each in self.fleet.show(slug).endpoints)]

    def wait_until_asleep(self) -> None:
        deadline = time.monotonic() + SLEEP_SECONDS_MAX
        while self.awake():
            expect(time.monotonic() < deadline, f"all tenants sleep within {SLEEP_SECONDS_MAX:.0f} s")
            time.sleep(0.1)

    def summary(self) -> None:
        self._console.print()
        table = Table("what happened", "took", title="Tenantry, on this machine, just now")
        table.columns[1].justify = "right"
        for what, took in self.happened:
            table.add_row(what, took)
        self._console.print(table)


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url, autocommit=True)


def expect(condition: bool, what: str) -> None:
    """The demo proves what it shows: a story that does not come true is a failure."""
    if not condition:
        raise Defect(f"the demo expected that {what}")


def shown(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
