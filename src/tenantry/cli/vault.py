"""``tenantry vault check|key|list|restore``: where backups go, the key that they are sealed under, what lies there."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.options import Data, Json
from tenantry.cli.output import Output, size_in_words

if TYPE_CHECKING:
    from tenantry.fleet.backups.check import Proof

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
    json: Json = False,
) -> None:
    """Make a key of the fleet's, under which the keys of all tenants are sealed.

    Keep a copy of the file where neither the machine nor the vault is: without it no backup can be restored. For
    programs without files, its content goes into the variable TENANTRY_BACKUP_KEY.
    """
    from tenantry.fleet.backups.keys import write_fleet_key

    output = Output(json_wanted=json)
    key_id = write_fleet_key(file)
    output.document({"key": key_id, "file": file.absolute()})
    output.say(f"{file} holds the new key {key_id}")
    output.remark(f'next: keep a copy elsewhere; key_from = "file:{file.absolute()}" under [backups]')


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
