"""``tenantry vault check|key``: where backups go, and the key that they are sealed under."""

# ruff: noqa: PLC0415 - what is heavy is imported by the commands that need it
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tenantry.cli.options import Json
from tenantry.cli.output import Output

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


def register(app: typer.Typer) -> None:
    app.add_typer(vault)
