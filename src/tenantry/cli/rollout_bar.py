"""A run of migrations in a terminal: a progress bar, and lines above it. Loaded for terminals alone."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from tenantry.cli import rollout_words as words
from tenantry.fleet.migrations.events import (
    Event,
    Progressed,
    RunStarted,
    Stopping,
    TenantFinished,
    TenantStarted,
    Waiting,
    Warned,
    WaveJudged,
    WaveStarted,
)


class Bar:
    """A bar with the tenants that are done, and above it a line for each that failed."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None
        self._failed = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_event(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._task = self._progress.add_task("migrating", total=event.to_visit, now="", rate="")
            case Progressed() if self._task is not None:
                self._progress.update(self._task, completed=event.visited, rate=self._rate())
            case TenantStarted() if self._task is not None:
                self._progress.update(self._task, now=event.slug)
            case TenantFinished() if self._task is not None:
                self._progress.update(self._task, completed=event.visited, rate=self._rate())
                if event.result.outcome == "failed":
                    self._failed += 1
                    self._progress.update(self._task, description=f"migrating, {self._failed} failed")
                    self._print(words.sentence(event.result), "red")
            case WaveStarted():
                self._print(words.wave(event), "bold")
            case WaveJudged() if event.objections:
                self._print(words.judged(event), "red")
            case Waiting():
                self._print(words.waiting(event), "yellow")
            case Warned():
                self._print(f"warning: {event.message}", "yellow")
            case Stopping():
                self._print(words.stopping(event), "yellow")
            case _:
                pass

    def _rate(self) -> str:
        (task,) = self._progress.tasks
        return f"{task.speed:.0f}/s" if task.speed else ""

    def _print(self, text: str, style: str) -> None:
        # Text, not markup: SQL is full of brackets.
        self._progress.console.print(Text(text, style=style))
