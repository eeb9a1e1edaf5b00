"""What a measure says: samples, rows with their goals, the table for people and the JSON for programs."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from rich.table import Table

_CONFIDENCE: Final = 0.95


def percentile(samples: Sequence[float], percent: float) -> float:
    """By nearest rank: always a value that was measured."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def median_interval(samples: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the true median with at least 95 %, whatever the distribution: two order statistics.

    Below six samples even the extremes promise less; they are what is answered then.
    """
    ordered = sorted(samples)
    count = len(ordered)
    lower, outside = 0, 0.5**count
    while lower + 1 < count // 2 and 1 - 2 * (outside + math.comb(count, lower + 1) * 0.5**count) >= _CONFIDENCE:
        lower += 1
        outside += math.comb(count, lower) * 0.5**count
    return ordered[lower], ordered[-1 - lower]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line: what was measured, ours beside the peer's of the same run, and whether the goal was met."""

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    goal: str = ""
    met: bool | None = None
    """None where there is no goal, or nothing was measured."""
    note: str = ""
    numbers: dict[str, object] = field(default_factory=dict[str, object])
    """What the texts were made from; for the JSON."""


def skipped(what: str, reason: str) -> Row:
    return Row(what=what, ours="-", note=f"skipped: {reason}")


def milliseconds(samples: Sequence[float]) -> str:
    """Median and 95th percentile of seconds, as milliseconds."""
    return f"{shown(statistics.median(samples) * 1e3)} / {shown(percentile(samples, 95) * 1e3)} ms"


def shown(value: float) -> str:
    """Three digits, and no more than are known."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(rows: Sequence[Row], title: str) -> Table:
    made = Table("what", "ours", "peer, same run", "ours : peer", "goal", "", title=title, show_lines=True)
    for column in made.columns[1:4]:
        column.justify, column.no_wrap = "right", True
    made.columns[4].no_wrap = made.columns[5].no_wrap = True
    for row in rows:
        verdict = "" if row.met is None else "[green]met[/green]" if row.met else "[red]missed[/red]"
        what = f"{row.what}\n[dim]{row.note}[/dim]" if row.note else row.what
        made.add_row(what, row.ours, row.peer, row.ratio, row.goal, verdict)
    return made


def write(path: Path, rows: Sequence[Row], facts: dict[str, object]) -> None:
    """The whole run as one JSON document."""
    path.parent.mkdir(exist_ok=True)
    document = {**facts, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(document, indent=1) + "\n")
