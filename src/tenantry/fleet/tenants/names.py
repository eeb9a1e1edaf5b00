"""What projects are called at their provider: the uuid in the name is how one is found that no row names yet. Pure."""

from __future__ import annotations

from typing import Final

from tenantry.fleet.catalog.ready import ReadyId
from tenantry.fleet.catalog.records import Tenant

READY_PREFIX: Final = "ready ["
"""How the names of projects begin that wait for a tenant."""


def project_name(tenant: Tenant) -> str:
    """``ACME Corp [0b9c1f6e-...]``."""
    return f"{tenant.name} [{tenant.id}]"


def ready_name(ready: ReadyId) -> str:
    """The same uuid stays in the name when a tenant claims it."""
    return f"{READY_PREFIX}{ready}]"
