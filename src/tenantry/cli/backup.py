"""``tenantry backup run|list|restore|schedule|prune``: backups of tenants in the operator's own bucket."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tenantry.cli.failures import FAILED, SOME_FAILED
from tenantry.cli.options import Data, Json, TenantName, Yes
from tenantry.cli.output import Output, size_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from tenantry.errors import TenantryError
    from tenantry.fleet.backups.backups import TenantOutcome
    from tenantry.fleet.catalog.backups import BackupRecord

ROWS_MAX: Final = 50
"""Tenants that a table names; --json has all of them."""

backup = typer.Typer(
    name="backup", help="Back tenants up into a bucket of your own, and bring them back.", no_args_is_help=True
)

VaultUrl = Annotated[
    str | None,
    typer.Option("--vault", metavar="URL", help="Another vault than the one in tenantry.toml.", show_default=False),
]
BackupName = Annotated[
    str | None,
    typer.Option(
        "--backup", metavar="ID", help="Its id, or the beginning of it; default: the newest.", show_default=False
    ),
]


@backup.command("run")
def run_command(
    tenants: Annotated[
        list[str] | None, typer.Argument(metavar="TENANT...", help="Back up these tenants.", show_default=False)
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All tenants that are ready.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", help="Tenants at a time.", show_default="4")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only this part of the tenants, such as 1/4.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="M", min=0.01, help="Begin no other backup after so long; the next run goes on.", show_default=False
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Only tenants whose last good backup is older: 20h, 7d.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --all: also tenants that have not changed.")] = False,
    vault: VaultUrl = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Take backups: every database, roles and settings, sealed, streamed to the vault.

    With --all, tenants that sleep and have not changed since their last good backup are left asleep, and those come
    first that waited longest. Exit status 3 when some failed.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.backups.backups import parse_shard
    from tenantry.fleet.settings import load_settings
    from tenantry.runtime.spans import parse_span

    output = Output(json_wanted=json)
    if bool(tenants) == everybody:
        raise InvalidInput("name tenants, or say --all")
    outcomes: list[TenantOutcome] = []
    with the_fleet(data, at_a_time=8) as fleet, _progress(output) as (begun, tell):

        def keep(outcome: TenantOutcome) -> None:
            outcomes.append(outcome)
            tell(outcome)

        done = fleet.backups(vault).run(
            tenants if tenants else None,
            jobs=load_settings().backups.jobs if jobs is None else jobs,
            shard=None if shard is None else parse_shard(shard),
            minutes=minutes,
            older_than=None if older_than is None else parse_span(older_than),
            force=force,
            begun=begun,
            tell=keep,
            on_interrupt=lambda: tell_stopping(output, "backups"),
        )
    output.document(
        {
            "taken": done.taken,
            "unchanged": done.unchanged,
            "failed": done.failed,
            "left": len(done.left),
            "not_begun": done.left,
            "vault_away": None if done.vault_away is None else failure_document(done.vault_away),
            "seconds": round(done.seconds, 3),
            "swept": done.swept,
            "tenants": [_outcome_document(each) for each in outcomes],
        }
    )
    for sentence in done.swept:
        output.remark(sentence)
    failed = [each for each in outcomes if each.error is not None]
    if failed and not json:
        output.table(
            ["FAILED", "WHY", "NEXT STEP"],
            [(each.tenant, each.error.message, each.error.next_step) for each in failed[:ROWS_MAX] if each.error],
        )
    said = f"{done.taken} backed up, {done.unchanged} unchanged and left asleep, {done.failed} failed"
    if done.left:
        said += f", {len(done.left)} left for the next run"
    output.say(f"{said} ({done.seconds:.1f} s)")
    if done.vault_away is not None:
        tell_vault_away(output, done.vault_away, done.left, "to back up the others: the same command again")
    if done.failed:
        raise typer.Exit(SOME_FAILED)


@backup.command("list")
def list_command(
    tenant: Annotated[
        str | None, typer.Argument(metavar="[TENANT]", help="Only this tenant's.", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also those that failed or were deleted.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", metavar="N", min=1, max=10_000, help="The newest N.")] = 50,
    data: Data = None,
    json: Json = False,
) -> None:
    """List backups, the newest first. Asks the catalog alone."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        found = fleet.list_backups(tenant, everything=everything, limit=limit)
    output.document({"backups": [_document(each) for each in found]})
    output.table(
        ["BACKUP", "TENANT", "STATE", "SIZE", "ROWS", "UNCHANGED", "VERIFIED"],
        [
            (
                *(each.id, each.slug, each.state),
                None if each.size_bytes is None else size_in_words(each.size_bytes),
                *(each.rows, each.unchanged_at, each.verified_at),
            )
            for each in found
        ],
    )
    if not found:
        output.remark("there are no backups")


@backup.command("restore")
def restore_command(
    tenant: TenantName,
    name: BackupName = None,
    into: Annotated[
        str,
        typer.Option(
            "--into",
            metavar="new|branch|DSN",
            help="A new tenant, a new branch of this one, or an empty database by its URL ('-' reads it from stdin).",
        ),
    ] = "new",
    called: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="What the new tenant, or branch, is called.", show_default=False),
    ] = None,
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="SCHEMA.TABLE", help="Only this table; may be repeated.", show_default=False),
    ] = None,
    vault: VaultUrl = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Bring a backup back, beside what is there: nothing is written over, and every row is counted."""
    from tenantry.cli.fleet import the_fleet

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        backups = fleet.backups(vault)
        record = backups.find(tenant, name)
        if into == "new":
            like, _, _ = backups.around.tenants.ready(tenant)
            made, done = backups.restore_to_tenant(
                record, called or f"{like.name} restored {record.id[:19]}", like, tables=tables or ()
            )
            where = f"the new tenant {made.slug}"
        elif into == "branch":
            branch, done = backups.restore_to_branch(record, tenant, called, tables=tables or ())
            where = f"the branch {branch}"
        else:
            uri = sys.stdin.readline().strip() if into == "-" else into
            done = backups.restore_to_dsn(record, uri, tables=tables or ())
            where = "the database"
    output.document(
        {
            "backup": record.id,
            "into": where,
            "databases": done.databases,
            "tables": done.tables,
            "rows": done.rows,
            "notes": done.notes,
        }
    )
    output.say(f"{record.id} is restored into {where}: {done.tables} tables, {done.rows} rows, counted")
    for note in done.notes:
        output.remark(f"note: {note}")


@backup.command("schedule")
def schedule_command(
    tenant: Annotated[
        str | None, typer.Argument(metavar="[TENANT]", help="Only this tenant's.", show_default=False)
    ] = None,
    cron: Annotated[
        str | None,
        typer.Option(metavar="CRON", help="When, in UTC: five fields, or `never`.", show_default=False),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="Which stay: 14d, or daily=7 weekly=4 monthly=12.", show_default=False),
    ] = None,
    as_plan: Annotated[bool, typer.Option("--as-plan", help="Both as its plan says, again.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show when tenants are backed up and what stays; or set it for one, over what its plan says.

    A worker takes what is due (`tenantry up` has one). For all tenants of a plan: `tenantry plan edit`.
    """
    from datetime import UTC, datetime

    from tenantry.cli.fleet import the_fleet
    from tenantry.errors import InvalidInput
    from tenantry.fleet.backups.list import schedules
    from tenantry.fleet.backups.schedule import next_time
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    changes = cron is not None or keep is not None or as_plan
    if changes and tenant is None:
        raise InvalidInput("a schedule is set for one tenant", next_step="for all of a plan: `tenantry plan edit`")
    if as_plan and (cron is not None or keep is not None):
        raise InvalidInput("--as-plan and a schedule of its own are two different things", next_step="give one")
    with the_fleet(data) as fleet:
        if changes and tenant is not None:
            fleet.set_backup_schedule(tenant, cron=cron, keep=keep, as_plan=as_plan)
        found = schedules(fleet.catalog, None if tenant is None else fleet.slug_of(tenant))
    usual, now = load_settings().backups.keep, datetime.now(UTC)
    output.document(
        {
            "schedules": [
                {
                    "tenant": each.slug,
                    "cron": each.cron,
                    "keep": each.keep or usual,
                    "next_at": next_time(each.cron, now),
                    "last_good_at": None if each.good is None else each.good.started_at,
                    "unchanged_at": None if each.good is None else each.good.unchanged_at,
                }
                for each in found
            ]
        }
    )
    output.table(
        ["TENANT", "PLAN", "WHEN (UTC)", "NEXT", "KEEP", "LAST GOOD", "UNCHANGED"],
        [
            (
                *(each.slug, each.plan, each.cron, next_time(each.cron, now), each.keep or usual),
                *((each.good.started_at, each.good.unchanged_at) if each.good else (None, None)),
            )
            for each in found[: ROWS_MAX if tenant is None else 1]
        ],
    )
    if len(found) > ROWS_MAX and not json:
        output.say(f"and {len(found) - ROWS_MAX} more: --json has all")


@backup.command("prune")
def prune_command(
    tenant: Annotated[
        str | None, typer.Argument(metavar="[TENANT]", help="Only this tenant's.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and change nothing.")] = False,
    yes: Yes = False,
    vault: VaultUrl = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Delete backups that need not stay; never a tenant's last good one, and never the last that is verified."""
    from tenantry.cli.confirm import confirm
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        backups = fleet.backups(vault)
        plan = backups.plan_prune(tenant, default_keep=load_settings().backups.keep)
        going = [*plan.delete, *plan.of_deleted_tenants]
        output.table(
            ["GOES", "TENANT", "SIZE", "WHY"],
            [
                (each.id, each.slug, size_in_words(each.size_bytes or 0), "its tenant was deleted" if orphan else "old")
                for each, orphan in [
                    *((each, False) for each in plan.delete[:ROWS_MAX]),
                    *((each, True) for each in plan.of_deleted_tenants[:ROWS_MAX]),
                ]
            ],
        )
        gone: Sequence[BackupRecord] = ()
        said: Sequence[str] = ()
        failure: TenantryError | None = None
        if not dry_run:
            if going and not yes:
                confirm(
                    f"Delete {len(going)} backups for good?",
                    refusal="this deletes backups for good",
                    json_wanted=json,
                )
            done = backups.prune(plan, tidy=tenant is None)
            gone, said, failure = done.gone, done.said, done.failure
    output.document(
        {
            "dry_run": dry_run,
            "deleted": [_document(each) for each in (going if dry_run else gone)],
            "kept": plan.kept,
            "tidied": said,
            "failure": None if failure is None else failure_document(failure),
        }
    )
    for sentence in said:
        output.remark(sentence)
    output.say(f"{len(going)} would go, {plan.kept} stay" if dry_run else f"{len(gone)} are gone, {plan.kept} stay")
    if failure is not None:
        output.remark(f"{len(going) - len(gone)} are left: {failure.message}")
        output.remark(f"  -> {failure.next_step}; then prune again")
        raise typer.Exit(FAILED)


def _document(record: BackupRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "tenant": record.slug,
        "state": record.state,
        "vault": record.vault,
        "place": record.place,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "size_bytes": record.size_bytes,
        "rows": record.rows,
        "fingerprint": record.fingerprint,
        "unchanged_at": record.unchanged_at,
        "verified_at": record.verified_at,
        "failure": record.failure,
        "by": record.started_by,
    }


def failure_document(error: TenantryError) -> dict[str, str]:
    return {"message": error.message, "next_step": error.next_step}


def tell_stopping(output: Output, what: str) -> None:
    """After the first Ctrl-C."""
    output.remark(
        f"stopping: the {what} under way end first; Ctrl-C again leaves them, and a later run clears up what they left"
    )


def tell_vault_away(output: Output, error: TenantryError, left: Sequence[str], then: str) -> None:
    """Who was not begun, and how to go on."""
    output.remark(f"it ended early, since the vault cannot be used: {error.message}")
    if left:
        more = f" and {len(left) - ROWS_MAX} more (--json has all)" if len(left) > ROWS_MAX else ""
        output.remark(f"not begun: {', '.join(left[:ROWS_MAX])}{more}")
    output.remark(f"  -> {error.next_step}; {then}")


def _outcome_document(outcome: TenantOutcome) -> dict[str, Any]:
    error = outcome.error
    return {
        "tenant": outcome.tenant,
        "outcome": outcome.outcome,
        "backup": None if outcome.backup is None else outcome.backup.id,
        "size_bytes": None if outcome.backup is None else outcome.backup.size_bytes,
        "seconds": round(outcome.seconds, 3),
        "error": None if error is None else failure_document(error),
    }


@contextmanager
def _progress(output: Output) -> Generator[tuple[Callable[[int], None], Callable[[TenantOutcome], None]]]:
    """A bar in a terminal, a line for each tenant elsewhere, JSON lines for programs; all on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    terminal = sys.stderr.isatty() and not output.json_wanted
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as shown:
        task = shown.add_task("backing up", total=None)

        def begun(total: int) -> None:
            shown.update(task, total=total)

        def tell(outcome: TenantOutcome) -> None:
            shown.advance(task)
            if output.json_wanted:
                output.event(_outcome_document(outcome))
            elif not terminal and outcome.outcome != "unchanged":
                output.remark(_sentence(outcome))

        yield begun, tell


def _sentence(outcome: TenantOutcome) -> str:
    if outcome.error is not None:
        return f"{outcome.tenant}: FAILED: {outcome.error.message}"
    assert outcome.backup is not None
    size = size_in_words(outcome.backup.size_bytes or 0)
    return f"{outcome.tenant}: {outcome.backup.id}, {size} ({outcome.seconds:.2f} s)"


def register(app: typer.Typer) -> None:
    app.add_typer(backup)
