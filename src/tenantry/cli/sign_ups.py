"""How many tenants are created from a file: a bar in a terminal, plain lines elsewhere, JSON lines for programs."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from tenantry.cli.configured import said_of_tenants
from tenantry.cli.failures import SOME_FAILED
from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.tenants.create_many import RowDone

STDIN: Final = "-"
JOBS_DEFAULT: Final = 8


def create_from_csv(file: str, *, jobs: int | None, data: Path | None, output: Output) -> None:
    """Ends the program with SOME_FAILED where a row could not be done. Raises InvalidInput for a file that is none."""
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.tenants.create import Wish
    from tenantry.fleet.tenants.create_many import create_many
    from tenantry.fleet.tenants.csv_rows import read_rows
    from tenantry.fleet.tenants.slugs import Slug

    said = said_of_tenants()
    defaults = None
    if said is not None:
        defaults = Wish(
            slug=Slug(""),
            name="",
            plan=said.plan,
            region=said.region,
            residency=said.residency,
            pg_version=said.pg_version,
        )
    rows = read_rows(_content(file), defaults=defaults)
    at_a_time = jobs or (JOBS_DEFAULT if said is None else said.jobs)
    with the_fleet(data, at_a_time=at_a_time) as fleet, _watched(output, len(rows)) as on_done:
        done = create_many(fleet.create_wished, rows, jobs=at_a_time, on_done=on_done)
    created, there, failed = (done.count(outcome) for outcome in ("created", "there", "failed"))
    output.document(
        {"created": created, "there": there, "failed": failed, "seconds": round(done.seconds, 3), "rows": done.rows}
    )
    rate = f", {created / done.seconds:.1f} a second" if created and done.seconds else ""
    output.say(f"{created} created, {there} were there already, {failed} failed ({done.seconds:.1f} s{rate})")
    if failed:
        raise typer.Exit(SOME_FAILED)


def sentence(row: RowDone) -> str:
    """One row's end on one line."""
    if row.outcome != "failed":
        what = "is ready" if row.outcome == "created" else "was there already"
        return f"{row.slug} {what}" + (f"; {row.note}" if row.note else "")
    where = f"line {row.line}" + (f", {row.column}" if row.column else "")
    return f"{where}: {row.reason}" + (f" -> {row.next_step}" if row.next_step else "")


def _content(file: str) -> bytes:
    from tenantry.errors import InvalidInput
    from tenantry.fleet.tenants.csv_rows import BYTES_MAX

    try:
        if file == STDIN:
            return sys.stdin.buffer.read(BYTES_MAX + 1)
        with Path(file).open("rb") as opened:
            return opened.read(BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error


@contextmanager
def _watched(output: Output, total: int) -> Generator[Callable[[RowDone], None]]:
    if output.json_wanted:
        yield lambda row: output.event(
            {"event": "row", "line": row.line, "slug": row.slug, "outcome": row.outcome, "reason": row.reason}
        )
    elif sys.stderr.isatty():
        with _bar(total) as on_done:
            yield on_done
    else:
        ended = 0

        def on_line(row: RowDone) -> None:
            nonlocal ended
            ended += 1
            output.remark(f"[{ended}/{total}] {sentence(row)}")

        yield on_line


@contextmanager
def _bar(total: int) -> Generator[Callable[[RowDone], None]]:
    """The rows that are done, and above it a line for each that failed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("creating", total=total)
        failed = 0

        def on_done(row: RowDone) -> None:
            nonlocal failed
            progress.advance(task)
            if row.outcome == "failed":
                failed += 1
                progress.update(task, description=f"creating, {failed} failed")
            if row.outcome == "failed" or row.note:
                # Text, not markup: names are what strangers typed.
                progress.console.print(Text(sentence(row), style="red" if row.outcome == "failed" else "yellow"))

        yield on_done
