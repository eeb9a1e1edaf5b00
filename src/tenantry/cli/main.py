"""The program's entry: which commands there are, and nothing else."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache
from typing import Annotated, Any, Final

import typer
from typer.models import TyperInfo

from tenantry.cli import (
    backup,
    branch_comment,
    branches,
    contacts,
    demo,
    doctor,
    drift,
    engine,
    generate,
    history,
    init,
    jobs,
    lint,
    log,
    migrate,
    plans,
    previews,
    providers,
    psql,
    rehearse,
    restore,
    snapshots,
    status,
    tenants,
    undo,
    up,
    usage,
    vault,
    verify,
    window,
    worker,
)
from tenantry.cli.failures import guarded

GARBAGE_OBJECTS: Final = 10_000
"""Made before cycles among them are looked for: a command makes its modules' first, and Python by itself would look
through all of them again and again."""

app = typer.Typer(
    name="tenantry",
    help="A Postgres database for every customer: asleep at no cost, awake in milliseconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: drawing boxes would triple the time that `tenantry --help` takes.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"tenantry {version('tenantry')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    del version  # handled by its callback


for group in (
    up,
    demo,
    init,
    tenants,
    psql,
    migrate,
    rehearse,
    undo,
    jobs,
    branches,
    restore,
    snapshots,
    backup,
    plans,
    contacts,
    window,
    log,
    providers,
    engine,
    doctor,
    usage,
    vault,
    worker,
    generate,
):
    group.register(app)
for command in (status, history, lint, drift):
    command.register(migrate.migrate)
branch_comment.register(branches.branch)
verify.register(backup.backup)
previews.register(branches.branch, generate.generate)


@cache
def commands() -> Callable[..., Any]:
    """All of them, looked at once: whoever runs several in one process does not wait for that again."""
    return typer.main.get_command(app)


def narrowed(program: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """The program with the one command that ``words`` begin with; as it is where they begin with none.

    Typer takes the parameters of all commands apart that it knows, which takes longer than most commands.
    """
    word = words[0] if words else ""
    single = [each for each in program.registered_commands if each.name == word]
    groups = [
        TyperInfo(narrowed(each.typer_instance, words[1:]))
        for each in program.registered_groups
        if each.typer_instance is not None and each.typer_instance.info.name == word
    ]
    if not single and not groups:
        return program
    found = copy(program)
    found.registered_commands, found.registered_groups = single, groups
    return found


def run(arguments: Sequence[str]) -> int:
    """One command line, from its words to its exit code (those of ``failures``)."""
    # Where all of them were looked at already, that costs nothing more.
    program = commands() if commands.cache_info().currsize else typer.main.get_command(narrowed(app, arguments))
    return guarded(lambda: program(args=list(arguments), prog_name="tenantry"), json_wanted="--json" in arguments)


def main() -> None:
    """The console script."""
    gc.set_threshold(GARBAGE_OBJECTS)
    sys.exit(run(sys.argv[1:]))
