"""A backup that is opened: its manifest read and checked, its key at hand, its contents known, its dumps to be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tenantry.errors import DamagedBackup
from tenantry.fleet.backups.container import unseal
from tenantry.fleet.backups.contents import CONTENTS_BYTES_MAX, Contents
from tenantry.fleet.backups.keys import DataKey
from tenantry.fleet.backups.manifest import Manifest, Object, read_manifest, read_object
from tenantry.fleet.backups.tenant_keys import TenantKeys
from tenantry.fleet.backups.vault import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBackup:
    vault: Vault
    manifest: Manifest
    contents: Contents
    key: DataKey = field(repr=False)

    def read(self, thing: Object) -> Iterator[bytes]:
        """In the clear; good only once it has ended well. Raises DamagedBackup, WrongKey, VaultError."""
        return unseal(read_object(self.vault, self.manifest, thing), self.key)


def open_backup(vault: Vault, keys: TenantKeys, place: str, *, manifest_sha256: str | None = None) -> OpenedBackup:
    """By where it lies in the vault; ``manifest_sha256`` is what the catalog knows of it.

    Raises NotFound where there is no backup, WrongKey, DamagedBackup, VaultError.
    """
    manifest = read_manifest(vault, place, sha256=manifest_sha256)
    key = keys.by_id(manifest.key_id)
    content = bytearray()
    for chunk in unseal(read_object(vault, manifest, manifest.contents), key):
        content += chunk
        if len(content) > CONTENTS_BYTES_MAX:
            raise DamagedBackup(f"the contents of {place} are larger than {CONTENTS_BYTES_MAX} bytes")
    return OpenedBackup(vault=vault, manifest=manifest, contents=Contents.from_json(bytes(content)), key=key)
