"""``tenantry vault check|key|rewrap|list|restore``: where backups go, what seals them, and what lies there."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output, size_in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tenantry.errors import TenantryError
    from tenantry.fleet.backups.check import Proof

FAILED_SHOWN_MAX: Final = 50
"""Keys that are named with what is wrong; --json has all."""

vault = typer.Typer(
    name="vault", help="Where backups are kept: a directory, S3, Google's or Azure's storage.", no_args_is_help=True
)


@vault.command("check")
def check_command(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL]",
            help="file:///DIR, s3://BUCKET/FOLDER, gs://..., az://...",
            show_default="that of [backups]",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Prove that a vault can be written, read, listed and emptied, and that its clock is right.

    Writes 9 MiB under .check/ and deletes them. Credentials come from the environment (AWS_ACCESS_KEY_ID and so on, or
    the role of the machine), or from the file that [backups] names; they are never shown. Exit status 1 when anything
    is missing.
    """
    from tenantry.cli.failures import FAILED
    from tenantry.fleet.backups.check import check_vault
    from tenantry.fleet.backups.open import open_configured
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    checked = check_vault(open_configured(load_settings().backups, url))
    output.document(
        {"ok": checked.ok, "url": checked.url, "proofs": checked.proofs, "clock_seconds": checked.clock_seconds}
    )
    output.table(
        ["", "", "TOOK", "MISSING"],
        [(proof.verb, _word(proof), _took(proof), proof.missing) for proof in checked.proofs],
    )
    for proof in checked.proofs:
        if proof.wrong is not None:
            output.remark(f"{proof.verb}: {proof.wrong}")
            if proof.next_step:
                output.remark(f"  -> {proof.next_step}")
    if not checked.ok:
        raise typer.Exit(FAILED)


def _word(proof: Proof) -> str:
    return "not tried" if proof.ok is None else "ok" if proof.ok else "wrong"


def _took(proof: Proof) -> str | None:
    return f"{proof.seconds:.2f} s" if proof.ok is not None and proof.verb != "clock" else None


@vault.command("key")
def key_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it (mode 0600).", show_default=False)],
    before: Annotated[
        bool, typer.Option("--before", help="Put it before the keys that are in FILE, to change the fleet's key.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a key of the fleet's, under which the keys of all tenants are sealed.

    Keep a copy of the file where neither the machine nor the vault is: without it no backup can be restored. For
    programs without files, its content goes into the variable TENANTRY_BACKUP_KEY.
    """
    from tenantry.fleet.backups.keys import add_fleet_key, write_fleet_key

    output = Output(json_wanted=json)
    key_id = add_fleet_key(file) if before else write_fleet_key(file)
    output.document({"key": key_id, "file": file.absolute()})
    output.say(f"{file} holds the new key {key_id}{' before the others' if before else ''}")
    if before:
        output.remark("next: copy the file to wherever its like is, then: tenantry vault rewrap")
    else:
        output.remark(f'next: keep a copy elsewhere; key_from = "file:{file.absolute()}" under [backups]')


@vault.command("rewrap")
def rewrap_command(
    url: Annotated[
        str | None,
        typer.Option("--vault", metavar="URL", help="Another vault than that of [backups].", show_default=False),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", min=1, max=64, help="Keys at a time.")] = 8,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which key of the fleet's is needed.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """After the fleet's key has changed: wrap every tenant's key under the new one, in catalog and vault.

    No backup is written anew. It may be interrupted, and goes on where it was; it ends with which older keys of the
    fleet's are needed no more. Exit status 3 when some could not be opened.
    """
    from tenantry.cli.backup import failure_document
    from tenantry.cli.failures import FAILED, SOME_FAILED
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.backed_up import rewrap_keys

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet, _progress(output) as (begun, tell):
        done = rewrap_keys(fleet.catalog, url, jobs=jobs, dry_run=dry_run, begun=begun, tell=tell)
    output.document(
        {
            **{name: getattr(done, name) for name in done.__dataclass_fields__ if name not in ("failed", "vault_away")},
            "failed": {key: failure_document(each) for key, each in done.failed.items()},
        }
    )
    words = "are to be wrapped anew" if dry_run else "were wrapped anew"
    output.say(
        f"{done.catalog} keys of the catalog and {done.vault} of the vault {words} under {done.fleet_key},"
        f" of {done.looked_at}"
    )
    for key_id, error in list(done.failed.items())[:FAILED_SHOWN_MAX]:
        output.remark(f"{key_id}: {error.message}\n  -> {error.next_step}")
    if done.vault_away is not None:
        output.remark("it ended early, since the vault cannot be used; the same command again goes on")
    elsewhere = f", once the same is so in {', '.join(done.other_vaults)} (--vault)" if done.other_vaults else ""
    for old in done.not_needed:
        output.say(f"{old} is needed no more here: its line may be removed{elsewhere}")
    if done.failed:
        raise typer.Exit(SOME_FAILED if done.looked_at > len(done.failed) else FAILED)


@contextmanager
def _progress(output: Output) -> Generator[tuple[Callable[[int], None], Callable[[str, TenantryError | None], None]]]:
    """A bar in a terminal, JSON lines of what failed for programs; all on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    terminal = sys.stderr.isatty() and not output.json_wanted
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not terminal) as shown:
        task = shown.add_task("keys", total=None)

        def tell(key_id: str, error: TenantryError | None) -> None:
            shown.advance(task)
            if error is not None:
                output.event({"key": key_id, "error": error.message})

        yield lambda total: shown.update(task, total=total), tell


@vault.command("list")
def list_command(
    customer: Annotated[
        str | None, typer.Argument(metavar="[CUSTOMER]", help="Only this one's, by its slug.", show_default="all")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--vault", metavar="URL", help="Another vault than that of [backups].", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """List what the vault holds by its own account. Needs no catalog, no cell and no key."""
    from tenantry.cli.failures import SOME_FAILED
    from tenantry.fleet.backups.manifest import Manifest
    from tenantry.fleet.backups.open import open_configured
    from tenantry.fleet.backups.without_catalog import manifests
    from tenantry.fleet.settings import load_settings

    output = Output(json_wanted=json)
    found = list(manifests(open_configured(load_settings().backups, url), customer))
    whole = sorted((each for each in found if isinstance(each, Manifest)), key=lambda each: each.place)
    damaged = [each for each in found if not isinstance(each, Manifest)]
    output.document({"backups": whole, "damaged": [each.message for each in damaged]})
    output.table(
        ["PLACE", "CUSTOMER", "AS OF", "POSTGRES", "SIZE", "ROWS", "KEY"],
        [
            (
                each.place,
                each.customer,
                each.started_at,
                each.server_major,
                size_in_words(each.size_bytes),
                each.rows,
                each.key_id,
            )
            for each in whole
        ],
    )
    for each in damaged:
        output.remark(str(each))
    if not found:
        output.remark("the vault holds no backup")
    if damaged:
        raise typer.Exit(SOME_FAILED)


@vault.command("restore")
def restore_command(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="As `vault list` shows it.", show_default=False)],
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The new tenant's.", show_default="the customer's then")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--vault", metavar="URL", help="Another vault than that of [backups].", show_default=False),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Restore a backup that no catalog knows any more into a new tenant, with the fleet's key and the vault alone.

    Where the catalog knows it use `tenantry backup restore`, which also knows what the manifest has to be.
    """
    from tenantry.cli.fleet import the_fleet
    from tenantry.fleet.backups.without_catalog import restore_place

    output = Output(json_wanted=json)
    with the_fleet(data) as fleet:
        tenant, done = restore_place(fleet.backups(url).around, place, name)
    output.document(
        {"tenant": tenant, "databases": done.databases, "tables": done.tables, "rows": done.rows, "notes": done.notes}
    )
    output.say(
        f"{place} is restored into the new tenant {tenant.slug}: {done.tables} tables, {done.rows} rows, counted"
    )
    for note in done.notes:
        output.remark(f"note: {note}")


def register(app: typer.Typer) -> None:
    app.add_typer(vault)
