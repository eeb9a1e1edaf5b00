"""What a Neon API tells when it is asked how it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenantry.fleet.providers.ports import Health
from tenantry.neon.ids import RegionId

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient


def look_at(client: NeonClient) -> Health:
    """Asks for the account, which needs the key, and for the regions."""
    seen = client.look("/auth")
    regions = [RegionId(region.region_id) for region in client.list_regions()]
    # A cell says its own; what else may stand before an API is nobody's version of it.
    version = seen.server if seen.server is not None and seen.server.startswith("tenantry/") else "Neon API v2"
    return Health(version=version, regions=regions, clock_seconds=seen.clock_seconds)
