"""API keys: shown once, stored hashed; who presents one is found by its hash."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from typing import Final

from tenantry.cell.model import ApiKey, CreatedKey
from tenantry.cell.operations.context import Context
from tenantry.cell.state.tables import Tables
from tenantry.errors import NotFound

_BYTES: Final = 32


def hashed(clear: str) -> bytes:
    """SHA-256 is enough: the keys are 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(clear.encode()).digest()


class Keys:
    """The living keys in memory, so that authenticating touches no disk."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._living: dict[bytes, ApiKey] = {}

    async def load(self) -> None:
        self._living = {key.key_hash: key for key in await self._context.state.read(lambda t: t.api_keys())}

    async def authenticate(self, presented: str) -> ApiKey | None:
        return self._living.get(hashed(presented))

    def living(self) -> list[ApiKey]:
        return sorted(self._living.values(), key=lambda key: key.id)

    async def create(self, name: str, clear: str | None = None) -> CreatedKey:
        """A new key; ``clear`` is given only for the operator's own, which its file holds."""
        clear = clear or "tenantry_" + secrets.token_urlsafe(_BYTES)
        key = ApiKey(id=0, name=name, key_hash=hashed(clear), created_at=self._context.clock.now())

        def insert(tables: Tables) -> ApiKey:
            tables.insert(key)
            stored = tables.api_key_by_hash(key.key_hash)
            assert stored is not None
            return stored

        stored = await self._context.state.write(insert)
        self._living[stored.key_hash] = stored
        return CreatedKey(key=stored, clear=clear)

    async def revoke(self, key_id: int) -> ApiKey:
        """Raises NotFound for a key that does not exist or is revoked already."""

        def mark(tables: Tables) -> ApiKey:
            key = tables.api_key(key_id)
            if key is None or key.revoked_at is not None:
                raise NotFound(f"API key {key_id} does not exist")
            key = replace(key, revoked_at=self._context.clock.now())
            tables.update(key)
            return key

        key = await self._context.state.write(mark)
        self._living.pop(key.key_hash, None)
        return key
