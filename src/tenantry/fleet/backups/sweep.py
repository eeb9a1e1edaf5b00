"""What killed processes have left: backups that were begun, or were to be deleted, and that nobody works on any more.

Looks at the catalog, takes no input, and may be done by anybody at any time. A backup whose manifest is in the vault is
whole, and is kept; of any other everything goes.
"""

from __future__ import annotations

from typing import Final

from tenantry.errors import DamagedBackup, NotFound, TenantryError, VaultError
from tenantry.fleet.backups.manifest import Manifest, read_manifest
from tenantry.fleet.backups.many import SILENT_SECONDS
from tenantry.fleet.backups.take import Surroundings, remove_objects
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog.backups import BackupRecord

SWEPT_MAX: Final = 500
"""In one call; the next finds the rest."""


def sweep(around: Surroundings, *, silent_seconds: float = SILENT_SECONDS) -> list[str]:
    """A sentence for each. One that was heard of since this looked is left alone: clearing up others takes its time."""
    with around.catalog.transaction() as connection:
        silent = rows.silent_backups(connection, silent_seconds=silent_seconds, limit=SWEPT_MAX)
    said: list[str] = []
    for number, each in enumerate(silent):
        if each.vault != around.vault.url:
            said.append(f"{each.id} of {each.slug} is in {each.vault}, which is not the vault that is configured")
            continue
        try:
            if (sentence := _finish(around, each, silent_seconds)) is not None:
                said.append(sentence)
        except TenantryError as error:
            said.append(f"{each.id} of {each.slug} cannot be cleared up yet: {error.message}")
            if isinstance(error, VaultError):  # each of the others would wait for it as long
                said += (
                    [f"{len(silent) - number - 1} more are left for the same reason"] if silent[number + 1 :] else []
                )
                break
    return said


def _finish(around: Surroundings, left: BackupRecord, silent_seconds: float) -> str | None:
    if left.state == "deleting":
        remove_objects(around.vault, left.place)
        with around.catalog.transaction() as connection:
            rows.mark_deleted(connection, left.id)
        return f"{left.id} of {left.slug}: its deletion was interrupted, and is finished"
    manifest = _manifest(around, left)
    if manifest is not None:
        with around.catalog.transaction() as connection:
            mine = rows.finish_backup(
                connection,
                left.id,
                manifest_sha256=manifest.sha256,
                size_bytes=manifest.size_bytes,
                rows=manifest.rows,
                fingerprint=manifest.fingerprint,
                activity=None,
                silent_seconds=silent_seconds,
            )
        return f"{left.id} of {left.slug}: it was whole when its process died, and is kept" if mine else None
    # The catalog first: whoever still works on it, unheard, must not find it alive and its objects gone.
    with around.catalog.transaction() as connection:
        failure = {"message": "the process that took it has died", "next_step": "back up again"}
        mine = rows.fail_backup(connection, left.id, failure, silent_seconds=silent_seconds)
    if not mine:
        return None
    remove_objects(around.vault, left.place)
    return f"{left.id} of {left.slug}: its process died before it was whole, and it is removed"


def _manifest(around: Surroundings, left: BackupRecord) -> Manifest | None:
    try:
        return read_manifest(around.vault, left.place)
    except (NotFound, DamagedBackup):
        return None
