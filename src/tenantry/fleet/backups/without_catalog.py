"""What a vault holds by its own account, and a tenant brought back from it: for when the catalog is lost.

The fleet's key opens the tenants' keys that lie in the vault, and manifests say what there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tenantry.errors import DamagedBackup, InvalidInput, NotFound
from tenantry.fleet.backups.manifest import NAME, Manifest, read_manifest
from tenantry.fleet.backups.opened import open_backup
from tenantry.fleet.backups.restore import Restored, restore_into, target_of_project
from tenantry.fleet.backups.take import Surroundings
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.records import Tenant

PLACE_PARTS: Final = 2


def manifests(vault: Vault, customer: str | None = None) -> Iterator[Manifest | DamagedBackup]:
    """Of every backup in the vault, or of one customer's, in no order; an error for one that cannot be read."""
    for stored in vault.list(customer or ""):
        place, _, name = stored.key.rpartition("/")
        if name != NAME or place.count("/") != PLACE_PARTS - 1:
            continue
        try:
            yield read_manifest(vault, place)
        except NotFound:
            continue  # pruned meanwhile
        except DamagedBackup as error:
            yield error


def restore_place(around: Surroundings, place: str, name: str | None) -> tuple[Tenant, Restored]:
    """Into a new tenant of this name, or of the customer's then. Raises NotFound, Conflict, WrongKey, DamagedBackup.

    The catalog is not asked what there is, and so cannot say that it is what was written: the manifest is believed.
    """
    if place.strip("/").count("/") != PLACE_PARTS - 1:
        raise InvalidInput(f"{place!r} is no place of a backup", next_step="see `tenantry vault list`")
    opened = open_backup(around.vault, around.keys, place.strip("/"))
    made, new = around.tenants.create(
        name or opened.manifest.customer, like=None, pg_version=opened.manifest.server_major
    )
    try:
        tenant, project_id, home = around.tenants.ready(made.slug)
        provider = around.tenants.provider_of(tenant)
        done = restore_into(opened, target_of_project(provider, project_id, home, tls_ca=around.tls_ca))
    except BaseException:
        if new:
            around.tenants.discard(made)
        raise
    with around.catalog.transaction() as connection:
        events.record(connection, "restore backup", tenant, backup=opened.manifest.id, rows=done.rows, place=place)
    return tenant, done
