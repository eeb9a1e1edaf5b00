"""How results reach the terminal: a table or sentences for people, one JSON document for programs.

With ``--json`` stdout holds that document and nothing else; everything said along the way goes to stderr.
"""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import cast
from uuid import UUID


def as_json(value: object) -> object:
    """Records, times, ids and amounts as JSON has them. Raises TypeError for what it does not know."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case date():
            return value.isoformat()
        case UUID() | Decimal() | Path():
            return str(value)
        case Mapping():
            return {str(key): as_json(item) for key, item in cast("Mapping[object, object]", value).items()}
        case list() | tuple():
            return [as_json(item) for item in cast("Sequence[object]", value)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form here")


class Output:
    def __init__(self, *, json_wanted: bool) -> None:
        self.json_wanted = json_wanted

    def say(self, text: str) -> None:
        """A sentence of the result; beside a JSON document it is only a remark."""
        print(text, file=sys.stderr if self.json_wanted else sys.stdout, flush=True)

    def remark(self, text: str) -> None:
        """Something worth knowing that is not the result."""
        print(text, file=sys.stderr, flush=True)

    def document(self, value: object) -> None:
        """The JSON document; nothing where people read."""
        if self.json_wanted:
            json.dump(as_json(value), sys.stdout, ensure_ascii=False, indent=2)
            print(flush=True)

    def event(self, value: object) -> None:
        """One line of JSON on stderr: progress, for a program that watches."""
        print(json.dumps(as_json(value), ensure_ascii=False), file=sys.stderr, flush=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table for people; nothing with ``--json``, and nothing where there are no rows."""
        lines = list(rows)
        if self.json_wanted or not lines:
            return
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for row in lines:
            # Text, not markup: a customer called "[red]" is shown as such.
            table.add_row(*(Text(shown(cell)) for cell in row))
        # A pipe has no width of its own; cutting a slug there would break scripts.
        console = Console() if sys.stdout.isatty() else Console(width=10_000)
        console.print(table)

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values below each other, for people."""
        if self.json_wanted:
            return
        lines = [(name, shown(value)) for name, value in pairs]
        width = max((len(name) for name, _ in lines), default=0)
        for name, value in lines:
            print(f"{name:<{width}}  {value}", flush=True)


def shown(value: object) -> str:
    """A value as people read it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case _:
            return str(value)


def size_in_words(size: int) -> str:
    """Bytes as people read them."""
    if abs(size) < 1024:
        return f"{size} bytes"
    value = size / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
