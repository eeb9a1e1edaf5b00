"""How migrations name a tenant, a run, and the place where a tenant's schema stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from tenantry.fleet.catalog.records import ProviderId, TenantId

TenantSlug = NewType("TenantSlug", str)
RunId = NewType("RunId", str)


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Where a tenant's schema stands: what its ledger said when somebody last looked.

    ``format`` says whose ledger it was (``drizzle``, ``sql``). ``version`` is the newest applied migration
    (``0001_wide_hulk`` of Drizzle, ``0001`` of plain SQL), or None when nothing is applied. ``fingerprint`` chains
    format, versions and checksums of everything applied (64 hexadecimal digits), so that a migration edited after it
    was applied is seen without waking anybody, and the cache of a tenant stays small however long its history is.
    """

    format: str
    version: str | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class TenantRef:
    """One tenant as the catalog knows it. ``known`` is None where nobody has looked into its ledger yet."""

    slug: TenantSlug
    known: SchemaState | None = None
    id: TenantId | None = None
    provider_id: ProviderId | None = None
    plan: str = ""
    region: str | None = None
    window: str | None = None
    """When it may be changed (``windows``); None: at any time."""
