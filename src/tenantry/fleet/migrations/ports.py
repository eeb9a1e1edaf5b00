"""What migrations need of the rest of the fleet. Whoever has the catalog provides it; nothing here knows how.

``Tenants.dsn`` and ``Tenants.record`` are called from the runner's worker threads, up to ``RunOptions.jobs`` of them
at once; everything else from the thread that called the runner. Implementations raise ``TenantryError``; anything
else counts as a defect of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from tenantry.fleet.migrations.results import RunRecord, TenantResult
from tenantry.fleet.migrations.tenant import RunId, SchemaState, TenantRef, TenantSlug


class Tenants(Protocol):
    """The tenants of the fleet: who they are, how to reach one, and the cache of where each stands."""

    def select(self, slugs: Sequence[str] | None) -> Iterable[TenantRef]:
        """The named tenants, or all that are not deleted, in a stable order. Wakes nobody.

        Raises NotFound for a slug the catalog does not have.
        """
        ...

    def dsn(self, slug: TenantSlug) -> str:
        """A libpq connection string as the database's owner, for the unpooled endpoint. It is a secret.

        Connecting may wake the tenant; asking for the string does not.
        """
        ...

    def record(self, slug: TenantSlug, state: SchemaState) -> None:
        """Caches what the tenant's ledger says now, all three fields at once. Idempotent; the last call wins."""
        ...


class RunLog(Protocol):
    """The memory of runs, so that ``status`` can tell what failed last time, also after a kill -9."""

    def began(self, run: RunRecord) -> None:
        """A run starts; it replaces the previous one as the latest."""
        ...

    def tenant_finished(self, run_id: RunId, result: TenantResult) -> None:
        """One tenant's result. Kept for those that failed; others may be counted only."""
        ...

    def ended(self, run: RunRecord) -> None:
        """The run is over: ``run.finished_at`` and its counts are set."""
        ...

    def latest(self) -> tuple[RunRecord, tuple[TenantResult, ...]] | None:
        """The last run that began, with the results of tenants that failed in it."""
        ...
