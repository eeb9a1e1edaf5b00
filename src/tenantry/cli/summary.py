"""Where a run's summary goes: a file that was named, and the summary of the job in GitHub's runners."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.output import Output

if TYPE_CHECKING:
    from tenantry.fleet.catalog.records import Run
    from tenantry.fleet.main import Fleet

STEP_SUMMARY: Final = "GITHUB_STEP_SUMMARY"
"""The variable in which GitHub's runners name the file that becomes the job's summary."""

Summary = Annotated[
    Path | None,
    typer.Option("--summary", metavar="FILE", help="Write what came of it as Markdown.", show_default=False),
]

Markdown = Annotated[bool, typer.Option("--markdown", help="As Markdown, for a pull request.")]


def summarize(output: Output, fleet: Fleet, run: Run, file: Path | None) -> None:
    """Writes the run's summary where it is wanted. What cannot be written is said, and spoils no run."""
    job = os.environ.get(STEP_SUMMARY)
    if file is None and not job:
        return
    from tenantry.errors import OperatorError
    from tenantry.fleet.migrations.history import read_story
    from tenantry.fleet.migrations.summary import run_summary
    from tenantry.runtime.files import write_atomic

    text = run_summary(read_story(fleet.catalog, run))
    try:
        if file is not None:
            write_atomic(file, text.encode(), mode=0o644)
        if job:
            with Path(job).open("a", encoding="utf-8") as whole:
                whole.write(text)
    except (OSError, OperatorError) as error:
        output.remark(f"the summary was not written: {error}")
