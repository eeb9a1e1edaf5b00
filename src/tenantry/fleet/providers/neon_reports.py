"""What a Neon API tells when it is asked how it is."""

from __future__ import annotations

from tenantry.fleet.providers.ports import Health
from tenantry.neon.client import NeonClient
from tenantry.neon.ids import RegionId


def look_at(client: NeonClient) -> Health:
    """Asks for the account, which needs the key, and for the regions."""
    seen = client.look("/auth")
    regions = [RegionId(region.region_id) for region in client.list_regions()]
    return Health(version=seen.server or "Neon API v2", regions=regions, clock_seconds=seen.clock_seconds)
