"""Each tenant's data key: made with its first backup, kept wrapped in the catalog and in the vault, shredded with it.

The catalog decides which key is a tenant's; the vault's copy opens backups when there is no catalog any more.
"""

from __future__ import annotations

import threading

from tenantry.errors import NotFound, WrongKey
from tenantry.fleet.backups.keys import (
    DataKey,
    FleetKeys,
    WrappedKey,
    from_vault,
    keep_in_vault,
    key_object,
    new_data_key,
)
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.backups import KeyId
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import TenantId
from tenantry.runtime.failpoints import failpoint


class TenantKeys:
    """Of one fleet and one vault. Threads may share it."""

    def __init__(self, catalog: Catalog, vault: Vault, fleet_keys: FleetKeys) -> None:
        self._catalog = catalog
        self._vault = vault
        self._fleet_keys = fleet_keys
        self._kept: set[str] = set()
        """Keys that were seen in the vault."""
        self._lock = threading.Lock()

    def of(self, tenant_id: TenantId) -> DataKey:
        """What new backups of this tenant are sealed with; made where it has none. Raises WrongKey, VaultError.

        Raises NotFound for a tenant that is deleted, or being deleted, and has none any more.
        """
        with self._catalog.transaction() as connection:
            known = rows.key_of_tenant(connection, tenant_id)
            if known is None:
                # Held against its deletion, which destroys the keys that it finds, and would miss this one.
                if queries.hold_tenant(connection, tenant_id).state in {"deleting", "deleted"}:
                    raise NotFound("the tenant is deleted, and is backed up no more", tenant_id=str(tenant_id))
                made = new_data_key()
                known = rows.add_key(connection, tenant_id, KeyId(made.id), self._fleet_keys.wrap(made).to_json())
        wrapped = WrappedKey.from_json(known.sealed)
        key = self._fleet_keys.unwrap(wrapped)
        with self._lock:
            kept = key.id in self._kept
        if not kept:
            failpoint("backup.key")
            if self._vault.look(key_object(key.id)) is None:
                keep_in_vault(self._vault, wrapped)
            with self._lock:
                self._kept.add(key.id)
        return key

    def by_id(self, key_id: str) -> DataKey:
        """By the catalog, or else by the vault. Raises WrongKey where it is nowhere: then the backup is gone."""
        with self._catalog.transaction() as connection:
            known = rows.key_by_id(connection, KeyId(key_id))
        wrapped = from_vault(self._vault, key_id) if known is None else WrappedKey.from_json(known.sealed)
        key = self._fleet_keys.unwrap(wrapped)
        if key.id != key_id:
            raise WrongKey(f"the data key {key_id} is kept under another one's name")
        return key
