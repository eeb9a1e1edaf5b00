"""What carrying out a run needs of the rest of the fleet. Whoever has the providers gives it; nothing here knows how.

Implementations raise ``TenantryError``; anything else counts as a defect of ours.
"""

from __future__ import annotations

from typing import Protocol

from tenantry.fleet.migrations.tenant import TenantSlug


class Tenants(Protocol):
    """The way to the tenants. Called from a crew's threads, up to ``RunOptions.jobs`` of them at once."""

    def dsn(self, slug: TenantSlug) -> str:
        """A libpq connection string as the database's owner, for the unpooled endpoint. It is a secret.

        Connecting may wake the tenant; asking for the string does not.
        """
        ...
