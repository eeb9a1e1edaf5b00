"""``tenantry migrate rehearse``: the migrations are tried on branches of real tenants, and measured."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.failures import FAILED
from tenantry.cli.migrate import AcceptEdited, Through, migrate
from tenantry.cli.options import Data, Directory, Json, Tenants, slugs_of
from tenantry.cli.output import Output, size_in_words

if TYPE_CHECKING:
    from tenantry.fleet.migrations.rehearsal import BranchReport, LockReport, Rehearsal
    from tenantry.fleet.migrations.rehearse import Began, Ended

STATEMENTS_SHOWN_MAX = 5
"""The slowest ones of a branch; --json has all of them."""


def rehearse(
    directory: Directory = None,
    tenants: Tenants = None,
    sample: Annotated[
        str | None,
        typer.Option(
            metavar="WHO", help="Of those that are behind: largest:2,oldest:1,random:3.", show_default="one of each"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Chooses the random ones again.", show_default=False)
    ] = None,
    through: Through = None,
    accept_edited: AcceptEdited = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", help="Branches at a time.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the branches for a day, to look at them.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Apply what is pending to throwaway branches of tenants: times, locks, rewritten tables, errors.

    The tenants themselves are neither woken nor changed. The result is kept, and `migrate run --require-rehearsal`
    counts on it.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.migrations.apply import Bounds
    from tenantry.fleet.migrations.formats.folders import open_folder
    from tenantry.fleet.migrations.plan import make_plan
    from tenantry.fleet.migrations.rehearse import Ended, RehearseOptions
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    if tenants and sample:
        raise InvalidInput("--tenants names whom to rehearse with, and --sample chooses", next_step="give one of them")
    said = load_settings().migrations
    folder = open_folder(directory or said.dir, through=through)
    bounds = Bounds(
        lock_seconds=said.lock_timeout, statement_seconds=said.statement_timeout, tool_seconds=said.tool_timeout
    )
    options = RehearseOptions(jobs=jobs, bounds=bounds, accept_edited=accept_edited, keep=keep)

    def on_event(event: Began | Ended) -> None:
        if output.json_wanted:
            return
        if isinstance(event, Ended):
            output.remark(_sentence(event.report))

    with the_fleet(data, at_a_time=jobs) as fleet:
        plan = make_plan(folder, fleet.migrating.select(slugs_of(tenants)), accept_edited=accept_edited)
        seed = secrets.randbelow(10**6) if seed is None else seed
        chosen = fleet.to_rehearse(plan, sample=None if tenants else sample or said.rehearsal_sample, seed=seed)
        if not json and not tenants:
            output.remark(f"rehearsing with {', '.join(slug for slug, _ in chosen) or 'nobody'} (--seed {seed})")
        rehearsal = fleet.rehearsing(folder, options=options, on_event=on_event).execute(chosen)
    output.document(rehearsal.as_dict())
    _show(output, rehearsal)
    if not rehearsal.passed:
        raise typer.Exit(FAILED)


def _sentence(report: BranchReport) -> str:
    match report.outcome:
        case "applied":
            what = f"applied {', '.join(report.applied)} in {report.seconds:.2f} s"
        case "current":
            what = "nothing to apply"
        case other:
            what = f"{other.upper()}: {report.failure or 'ended before its turn'}"
    return f"{report.tenant}: {what}" + "".join(f"; {note}" for note in report.notes)


def _show(output: Output, rehearsal: Rehearsal) -> None:
    if output.json_wanted:
        return
    output.table(
        ["BRANCH OF", "SIZE", "MIGRATION", "SECONDS", "ROWS READ", "ROWS WRITTEN", "LOG WRITTEN", "REWRITTEN"],
        [
            (
                report.tenant,
                None if report.size_bytes is None else size_in_words(report.size_bytes),
                each.version,
                f"{each.seconds:.3f}",
                each.rows_read,
                each.rows_written,
                size_in_words(each.wal_bytes),
                ", ".join(f"{table.table} ({size_in_words(table.bytes_after)})" for table in each.rewritten),
            )
            for report in rehearsal.branches
            for each in report.migrations
        ],
    )
    output.table(
        ["LOCKED", "OF", "BY", "MODE", "KEEPS OUT", "AT MOST"],
        [
            (lock.table, report.tenant, lock.migration, lock.mode, lock.blocks, f"{lock.seconds_max:.3f} s")
            for report in rehearsal.branches
            for lock in _strongest(report.locks)
        ],
    )
    slow = [
        (each.seconds, report.tenant, migration.file, each.line, each.excerpt)
        for report in rehearsal.branches
        for migration in report.migrations
        for each in migration.statements
    ]
    output.table(
        ["SLOWEST", "BRANCH OF", "FILE", "LINE", "STATEMENT"],
        [(f"{seconds:.3f} s", *rest) for seconds, *rest in sorted(slow, key=lambda e: -e[0])[:STATEMENTS_SHOWN_MAX]],
    )
    failed = [each for each in rehearsal.branches if not each.passed]
    output.table(
        ["FAILED", "WHY", "NEXT STEP"],
        [(each.tenant, each.failure, each.failure.next_step if each.failure else "") for each in failed],
    )
    for each in rehearsal.branches:
        if each.branch is not None:
            output.say(f"kept for a day: tenantry branch psql {each.branch} --tenant {each.tenant}")
    tried = [each for each in rehearsal.branches if each.outcome != "impossible"]
    if not tried:
        output.say(f"{rehearsal.id} proves nothing: none of these tenants can be branched")
    else:
        passed = sum(each.passed for each in tried)
        output.say(f"{rehearsal.id} {'passed' if rehearsal.passed else 'FAILED'}: {passed} of {len(tried)} branches")


def _strongest(locks: Sequence[LockReport]) -> list[LockReport]:
    """Of the locks that one migration held on one table the one that kept most others out."""
    found: dict[tuple[str, str | None], LockReport] = {}
    for lock in sorted(locks, key=lambda each: each.mode != "AccessExclusiveLock"):
        found.setdefault((lock.table, lock.migration), lock)
    return sorted(found.values(), key=lambda each: -each.seconds_max)


def register(app: typer.Typer) -> None:
    del app  # the group has its place there already
    migrate.command("rehearse")(rehearse)
