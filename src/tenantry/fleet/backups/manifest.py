"""The manifest: what a backup is, in the clear, and the last of its objects to be written. One without it is none.

With the fleet's key it is enough to restore from the vault alone: it names the data key, every object and its checksum.
It tells no name of a table and no content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter, ValidationError

from tenantry.errors import DamagedBackup, NotFound
from tenantry.fleet.backups.vault import Vault

FORMAT: Final = 1
NAME: Final = "manifest.json"
CONTENTS: Final = "contents"
MANIFEST_BYTES_MAX: Final = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One object of the backup beside its manifest."""

    name: str
    """Below the backup's place."""
    kind: str
    """``dump`` of a database, or ``contents``."""
    database: str | None
    size_bytes: int
    sha256: str
    """Of the object as it lies in the vault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    format: int
    id: str
    tenant: str
    """The slug then."""
    tenant_id: str
    customer: str
    place: str
    """Folder of this backup in its vault."""
    key_id: str
    started_at: datetime
    """Of the moment that the tenant's own database is in here as of."""
    finished_at: datetime
    server_version: str
    server_major: int
    client_version: str
    client_major: int
    tenantry: str
    databases: int
    tables: int
    rows: int
    fingerprint: str | None
    """Of the schema of the tenant's own database."""
    fingerprint_algorithm: int | None
    schema_version: str | None
    """The newest migration, as the catalog knew it."""
    withheld: Sequence[str]
    """What is not in here because the provider does not give it."""
    objects: Sequence[Object]

    def to_json(self) -> bytes:
        fields = asdict(self)
        fields |= {name: fields[name].isoformat() for name in ("started_at", "finished_at")}
        return json.dumps(fields, indent=1, ensure_ascii=False).encode()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()

    @property
    def size_bytes(self) -> int:
        return sum(each.size_bytes for each in self.objects)

    def dump_of(self, database: str) -> Object:
        """Raises NotFound."""
        for each in self.objects:
            if each.kind == "dump" and each.database == database:
                return each
        raise NotFound(f"backup {self.id} has no database {database}")

    @property
    def contents(self) -> Object:
        return next(each for each in self.objects if each.kind == CONTENTS)

    def key_of(self, thing: Object) -> str:
        """Where it lies in the vault."""
        return f"{self.place}/{thing.name}"


_MANIFEST: Final = TypeAdapter(Manifest)


def read_manifest(vault: Vault, place: str, *, sha256: str | None = None) -> Manifest:
    """Raises NotFound where there is none, DamagedBackup where it is not what was written (``sha256``: to be)."""
    content = vault.read_small(f"{place}/{NAME}", bytes_max=MANIFEST_BYTES_MAX)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedBackup(
            f"the manifest of {place} in {vault.url} is not the one that was written",
            next_step="restore from another backup",
        )
    try:
        manifest = _MANIFEST.validate_json(content)
    except ValidationError as error:
        raise DamagedBackup(f"the manifest of {place} in {vault.url} cannot be read") from error
    if manifest.place != place or manifest.format != FORMAT or not any(o.kind == CONTENTS for o in manifest.objects):
        raise DamagedBackup(f"the manifest of {place} in {vault.url} is another one's, or of another format")
    return manifest


def read_object(vault: Vault, manifest: Manifest, thing: Object) -> Iterator[bytes]:
    """The object as it lies there, checked against the manifest at its end. Raises DamagedBackup, NotFound."""
    digest = hashlib.sha256()
    size = 0
    for chunk in vault.read(manifest.key_of(thing)):
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if digest.hexdigest() != thing.sha256:
        how = "is not what was written" if size == thing.size_bytes else f"has {size} of {thing.size_bytes} bytes"
        raise DamagedBackup(f"{manifest.key_of(thing)} in {vault.url} {how}", next_step="restore from another backup")
