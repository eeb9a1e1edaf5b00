"""Envelope keys: one data key for each tenant, wrapped by the fleet's key.

The fleet's key is read where it is used and is in no catalog and no vault. A data key lies wrapped in the catalog and,
under ``.keys/``, in the vault: with the fleet's key the vault alone is enough. Whoever destroys both has destroyed the
tenant's backups, also those copies of them that nobody can reach any more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from tenantry.errors import DamagedBackup, InvalidInput, NotFound, OperatorError, WrongKey
from tenantry.fleet.backups.vault import Vault
from tenantry.fleet.providers.secrets import read_secret, read_secret_file
from tenantry.runtime.files import write_atomic
from tenantry.runtime.sealing import KEY_BYTES, Sealer

KEYS_FOLDER: Final = ".keys"
"""In a vault. No customer's slug begins with a dot."""
WRAPPED_BYTES_MAX: Final = 4096
FLEET_KEYS_MAX: Final = 16
_PREFIX: Final = "tenantry_backup_"
"""Logs leave out whatever begins like it, and scanners of repositories can know it."""
_FLEET_KEY: Final = re.compile(_PREFIX + r"([A-Za-z0-9_-]{43})")
_ID: Final = re.compile(r"[a-z]-[0-9a-f]{16}")
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class DataKey:
    """What one tenant's backups are sealed under. The id tells nothing of the secret, and belongs to it alone."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        assert len(self.secret) == KEY_BYTES

    @property
    def id(self) -> str:
        return _id("d", self.secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrappedKey:
    """A data key as it may lie anywhere: it opens only with the fleet's key that ``fleet_key`` names."""

    id: str
    fleet_key: str
    wrapped: bytes

    def to_json(self) -> bytes:
        said = {"version": _VERSION, "id": self.id, "fleet_key": self.fleet_key}
        return json.dumps({**said, "wrapped": base64.b64encode(self.wrapped).decode()}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> WrappedKey:
        """Raises DamagedBackup."""
        try:
            said = cast(dict[str, Any], json.loads(content))
            found = cls(
                id=said["id"], fleet_key=said["fleet_key"], wrapped=base64.b64decode(said["wrapped"], validate=True)
            )
            if said["version"] != _VERSION or not _ID.fullmatch(found.id) or not _ID.fullmatch(found.fleet_key):
                raise ValueError(said["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedBackup(
                "a wrapped key is not what was written", next_step="take the one of the catalog, or of another vault"
            ) from error
        return found


class FleetKeys:
    """The fleet's key, and those that it had before: new data keys are wrapped by the first."""

    def __init__(self, text: str, *, whence: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        secrets = [_fleet_key(line, whence) for line in lines if line and not line.startswith("#")]
        if not secrets or len(secrets) > FLEET_KEYS_MAX:
            raise OperatorError(
                f"the fleet's key for backups is not in {whence}: it holds {len(secrets)} keys",
                next_step="make one with `tenantry vault key FILE`",
            )
        self._sealers: Final = {_id("f", secret): Sealer(secret) for secret in secrets}
        self._whence: Final = whence
        self.id: Final = _id("f", secrets[0])
        self.ids: Final = tuple(self._sealers)
        """Of all of them, the newest first."""

    def wrap(self, key: DataKey) -> WrappedKey:
        sealed = self._sealers[self.id].seal(base64.b64encode(key.secret).decode(), place=_place(key.id))
        return WrappedKey(id=key.id, fleet_key=self.id, wrapped=sealed)

    def unwrap(self, wrapped: WrappedKey) -> DataKey:
        """Raises WrongKey when none of the keys at hand has wrapped it, DamagedBackup when it was changed."""
        sealer = self._sealers.get(wrapped.fleet_key)
        if sealer is None:
            raise WrongKey(
                f"the data key {wrapped.id} is wrapped by the fleet's key {wrapped.fleet_key}, and {self._whence} holds"
                f" {', '.join(self._sealers)}",
                next_step="add that key to it as another line",
            )
        try:
            key = DataKey(base64.b64decode(sealer.open(wrapped.wrapped, place=_place(wrapped.id)), validate=True))
        except (OperatorError, binascii.Error) as error:
            raise DamagedBackup(
                f"the wrapped data key {wrapped.id} is not what was written",
                next_step="take the one of the catalog, or of another vault",
            ) from error
        assert key.id == wrapped.id, "it opened in its place"
        return key

    def needs_rewrap(self, wrapped: WrappedKey) -> bool:
        """Whether an older key of the fleet's has wrapped it."""
        return wrapped.fleet_key != self.id


def new_data_key() -> DataKey:
    return DataKey(os.urandom(KEY_BYTES))


def read_fleet_keys(place: str) -> FleetKeys:
    """The keys in ``env:NAME`` or ``file:/PATH``: one in a line, the newest first. Raises OperatorError."""
    return FleetKeys(read_secret(place, "of the fleet's backups"), whence=place)


def write_fleet_key(path: Path) -> str:
    """Makes a new fleet's key in a new file (0600), and tells its id. Raises InvalidInput where there is a file."""
    if path.exists():
        raise InvalidInput(
            f"{path} is there already",
            next_step="a lost key is a lost backup: keep old keys, and put a new one before them with --before",
        )
    secret = os.urandom(KEY_BYTES)
    write_atomic(path, _line(secret).encode(), mode=0o600)
    return _id("f", secret)


def add_fleet_key(path: Path) -> str:
    """Puts a new fleet's key before those of a file, which all stay, and tells its id. Raises OperatorError."""
    before = read_secret_file(path, "the key of the fleet's backups")
    known = FleetKeys(before, whence=str(path))
    if len(known.ids) >= FLEET_KEYS_MAX:
        raise InvalidInput(
            f"{path} holds {len(known.ids)} keys, which is as many as are read",
            next_step="remove those that `tenantry vault rewrap` names as needed no more",
        )
    secret = os.urandom(KEY_BYTES)
    status = path.stat()  # whoever could read it can read it afterwards, and nobody else
    write_atomic(
        path.resolve(),
        f"{_line(secret)}{before}\n".encode(),
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid) if os.geteuid() == 0 else None,
    )
    return _id("f", secret)


# ------------------------------------------------------------------------------------------------ in the vault


def key_object(key_id: str) -> str:
    """Where the wrapped data key lies in a vault."""
    return f"{KEYS_FOLDER}/{key_id}.json"


def keep_in_vault(vault: Vault, wrapped: WrappedKey) -> None:
    """Before a first object is sealed with it: what is in the vault can be opened from the vault."""
    vault.write(key_object(wrapped.id), [wrapped.to_json()])


def from_vault(vault: Vault, key_id: str) -> WrappedKey:
    """Raises WrongKey where it is not there (any more)."""
    try:
        content = vault.read_small(key_object(key_id), bytes_max=WRAPPED_BYTES_MAX)
    except NotFound:
        raise WrongKey(
            f"the data key {key_id} is not in {vault.url}: it was destroyed with its tenant, or never was there",
            next_step="if the catalog has it, it can be written there again; otherwise these backups are gone for good",
        ) from None
    wrapped = WrappedKey.from_json(content)
    if wrapped.id != key_id:
        raise DamagedBackup(f"{key_object(key_id)} in {vault.url} holds another key")
    return wrapped


def destroy_in_vault(vault: Vault, key_id: str) -> None:
    """After the catalog's copy: what it has sealed can be read by nobody from now on."""
    vault.delete([key_object(key_id)])


# ---------------------------------------------------------------------------------------------------- inside


def _id(kind: str, secret: bytes) -> str:
    return f"{kind}-{hmac.digest(secret, b'tenantry backups: id of a key', hashlib.sha256)[:8].hex()}"


def _line(secret: bytes) -> str:
    return f"{_PREFIX}{base64.urlsafe_b64encode(secret).decode().rstrip('=')}\n"


def _place(key_id: str) -> str:
    return f"data key {key_id}"


def _fleet_key(line: str, whence: str) -> bytes:
    found = _FLEET_KEY.fullmatch(line)
    if found is None:
        raise OperatorError(
            f"a line of {whence} is no key of a fleet: {_PREFIX} and 43 characters",
            next_step="make one with `tenantry vault key FILE`",
        )
    return base64.urlsafe_b64decode(found.group(1) + "=")
