"""API keys: shown once, stored hashed; who presents one is found by its hash."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace
from datetime import datetime
from typing import Final

from tenantry.cell.model import ApiKey, CreatedKey, KeyOwner
from tenantry.cell.operations.context import Context, living_project
from tenantry.cell.state.tables import Tables
from tenantry.errors import NotFound
from tenantry.neon.ids import ProjectId

_BYTES: Final = 32
FIRST_ID: Final = 1


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

    async def born(self) -> datetime:
        """When the cell got its first key, which is when it was first opened."""
        first = await self._context.state.read(lambda tables: tables.api_key(FIRST_ID))
        return first.created_at if first is not None else self._context.clock.now()

    async def authenticate(self, presented: str) -> ApiKey | None:
        return self._living.get(hashed(presented))

    def living(self, owner: KeyOwner) -> list[ApiKey]:
        return sorted((key for key in self._living.values() if key.owner == owner), key=lambda key: key.id)

    async def create(
        self,
        name: str,
        *,
        owner: KeyOwner = "account",
        project_id: ProjectId | None = None,
        clear: str | None = None,
    ) -> CreatedKey:
        """A new key; ``clear`` is given only for the operator's own, which its file holds.

        Raises NotFound when there is no such project.
        """
        clear = clear or "tenantry_" + secrets.token_urlsafe(_BYTES)
        now = self._context.clock.now()
        key = ApiKey(id=0, name=name, key_hash=hashed(clear), created_at=now, owner=owner, project_id=project_id)

        def insert(tables: Tables) -> ApiKey:
            if project_id is not None:
                living_project(tables, project_id)
            tables.insert(key)
            stored = tables.api_key_by_hash(key.key_hash)
            assert stored is not None
            return stored

        stored = await self._context.state.write(insert)
        self._living[stored.key_hash] = stored
        return CreatedKey(key=stored, clear=clear)

    async def revoke(self, key_id: int, owner: KeyOwner) -> ApiKey:
        """Raises NotFound for a key that the owner does not have, or has revoked already."""

        def mark(tables: Tables) -> ApiKey:
            key = tables.api_key(key_id)
            if key is None or key.owner != owner or key.revoked_at is not None:
                raise NotFound(f"API key {key_id} does not exist")
            key = replace(key, revoked_at=self._context.clock.now())
            tables.update(key)
            return key

        key = await self._context.state.write(mark)
        self._living.pop(key.key_hash, None)
        return key
