"""What backups need of the rest of the fleet. Whoever has tenants, providers and schemas gives it.

Implementations raise ``TenantryError``; anything else counts as a defect of ours.
"""

from __future__ import annotations

from typing import Final, Protocol

import psycopg

from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import Home, Provider
from tenantry.neon.ids import ProjectId


class Tenants(Protocol):
    """The way to tenants. Called by many threads."""

    def ready(self, name: str) -> tuple[Tenant, ProjectId, Home]:
        """Raises NotFound, and Conflict for one that is not ready."""
        ...

    def provider_of(self, tenant: Tenant) -> Provider: ...

    def create(self, name: str, *, like: Tenant | None, pg_version: int | None) -> tuple[Tenant, bool]:
        """A tenant with an empty database, and the plan, region and residency of another one; False: it was there.

        Raises Conflict where another one has the name.
        """
        ...

    def discard(self, tenant: Tenant) -> None:
        """Deletes, at once and for good, one that was made here and is worth nothing."""
        ...


class Fingerprints(Protocol):
    """What a schema is, as one short text; the algorithm says which texts can be compared."""

    @property
    def algorithm(self) -> int: ...

    def of(self, connection: psycopg.Connection) -> str:
        """Of the database, as the connection's open transaction sees it. Raises psycopg.Error, TenantryError."""
        ...


ROLES_OF_PROVIDERS: Final = frozenset({"neon_superuser", "cloud_admin"})
