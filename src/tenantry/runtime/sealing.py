"""Secrets at rest: AES-256-GCM under one key file, each secret bound to the place it belongs to."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tenantry.errors import OperatorError
from tenantry.runtime.files import write_atomic

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Sealer:
    """Seals and opens secrets; derives further keys and passwords from the same root key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise OperatorError(
                f"the key file holds {len(key)} bytes, not {KEY_BYTES}",
                next_step="restore the key file from your backup; sealed passwords cannot be read without it",
            )
        self._aead = AESGCM(key)
        self._key = key

    @classmethod
    def from_file(cls, path: Path) -> Sealer:
        """Reads the key file, making it (mode 0600, fsynced) when it is missing."""
        if not path.exists():
            write_atomic(path, os.urandom(KEY_BYTES), mode=0o600)
        return cls(path.read_bytes())

    def seal(self, secret: str, *, place: str) -> bytes:
        """Encrypts ``secret`` so that it opens only with the same ``place`` (for instance branch and role)."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, secret.encode(), place.encode())

    def open(self, sealed: bytes, *, place: str) -> str:
        """Raises OperatorError when the key is another one or the bytes were changed."""
        try:
            clear = self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except InvalidTag as error:
            raise OperatorError(
                f"a sealed secret of {place} does not open with this key file",
                next_step="restore the key file that belongs to this data directory",
                place=place,
            ) from error
        return clear.decode()

    def derive(self, purpose: str) -> bytes:
        """A 32-byte key that only this key file gives for ``purpose`` (HMAC-SHA-256)."""
        return hmac.digest(self._key, purpose.encode(), hashlib.sha256)
