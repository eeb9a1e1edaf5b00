"""How a run of migrations is watched: a progress bar in a terminal, plain lines elsewhere, JSON lines for programs.

All of it goes to stderr; the result is printed afterwards.
"""

# ruff: noqa: PLC0415 - what draws is loaded for terminals alone
from __future__ import annotations

from typing import Protocol, Self

from tenantry.cli import rollout_words as words
from tenantry.cli.output import Output
from tenantry.fleet.migrations.events import (
    Event,
    Progressed,
    RunStarted,
    Stopping,
    TenantFinished,
    Waiting,
    Warned,
    WaveJudged,
    WaveStarted,
)


class Listener(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def on_event(self, event: Event) -> None: ...


def listener(output: Output, *, terminal: bool) -> Listener:
    if output.json_wanted:
        return _Json(output)
    if terminal:
        from tenantry.cli.rollout_bar import Bar

        return Bar()
    return _Lines(output)


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
                self._output.remark(words.wave(event))
            case WaveJudged():
                self._output.remark(words.judged(event))
            case Waiting():
                self._output.remark(words.waiting(event))
            case Progressed():
                self._output.remark(f"[{event.visited}/{event.to_visit}]")
            case TenantFinished():
                self._output.remark(f"[{event.visited}/{event.to_visit}] {words.sentence(event.result)}")
            case Warned():
                self._output.remark(f"warning: {event.message}")
            case Stopping():
                self._output.remark(words.stopping(event))
            case _:
                pass
