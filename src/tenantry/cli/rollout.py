"""How a run of migrations is watched: a progress bar in a terminal, plain lines elsewhere, JSON lines for programs.

All of it goes to stderr; the result is printed afterwards.
"""

from __future__ import annotations

from typing import Protocol, Self

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

from tenantry.cli.output import Output
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
from tenantry.fleet.migrations.results import TenantResult


class Listener(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def on_event(self, event: Event) -> None: ...


def listener(output: Output, *, terminal: bool) -> Listener:
    if output.json_wanted:
        return _Json(output)
    return _Bar() if terminal else _Lines(output)


def sentence(result: TenantResult) -> str:
    """One tenant's result on one line."""
    match result.outcome:
        case "applied":
            what = f"applied {', '.join(result.applied)}"
        case "current":
            what = "current already"
        case "failed":
            what = f"FAILED: {result.failure}"
        case other:
            what = other
    notes = "".join(f"; {note}" for note in result.notes)
    return f"{result.slug}: {what} ({result.seconds:.2f} s){notes}"


def _wave(event: WaveStarted) -> str:
    if not event.tenants:
        return f"wave {event.name}"
    return f"wave {event.name}: " + ("1 tenant" if event.tenants == 1 else f"{event.tenants} tenants")


def _judged(event: WaveJudged) -> str:
    if event.objections:
        return f"wave {event.name}: STOPPED: {'; '.join(event.objections)}"
    return f"wave {event.name}: passed"


def _waiting(event: Waiting) -> str:
    when = f" until {event.until:%Y-%m-%d %H:%MZ}" if event.until else ""
    return f"{event.tenants} tenants wait for their maintenance window{when}"


def _stopping(event: Stopping) -> str:
    if event.cancelling:
        return "cancelling: what is under way is rolled back"
    return "stopping: what is under way ends first (interrupt again to cancel it)"


class _Json:
    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def on_event(self, event: Event) -> None:
        self._output.event(event.as_dict())


class _Lines:
    def __init__(self, output: Output) -> None:
        self._output = output

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def on_event(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._output.remark(f"{event.run.id}: {event.to_visit} of {event.total} tenants to visit")
            case WaveStarted():
                self._output.remark(_wave(event))
            case WaveJudged():
                self._output.remark(_judged(event))
            case Waiting():
                self._output.remark(_waiting(event))
            case Progressed():
                self._output.remark(f"[{event.visited}/{event.to_visit}]")
            case TenantFinished():
                self._output.remark(f"[{event.visited}/{event.to_visit}] {sentence(event.result)}")
            case Warned():
                self._output.remark(f"warning: {event.message}")
            case Stopping():
                self._output.remark(_stopping(event))
            case _:
                pass


class _Bar:
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
                    self._print(sentence(event.result), "red")
            case WaveStarted():
                self._print(_wave(event), "bold")
            case WaveJudged() if event.objections:
                self._print(_judged(event), "red")
            case Waiting():
                self._print(_waiting(event), "yellow")
            case Warned():
                self._print(f"warning: {event.message}", "yellow")
            case Stopping():
                self._print(_stopping(event), "yellow")
            case _:
                pass

    def _rate(self) -> str:
        (task,) = self._progress.tasks
        return f"{task.speed:.0f}/s" if task.speed else ""

    def _print(self, text: str, style: str) -> None:
        # Text, not markup: SQL is full of brackets.
        self._progress.console.print(Text(text, style=style))
