"""The tenants as migrations see them: who they are, how they are reached, and what is known of their schemas.

A worker meets its next tenants by the handful, so what leads to them is asked for by the handful too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal

from psycopg import pq

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderId, Tenant
from tenantry.fleet.migrations.restore_point import Keeping, ProviderPoints
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug
from tenantry.fleet.providers.ports import Home, OperatorWay, ProviderOf
from tenantry.fleet.tenants.find import find_ready, usable
from tenantry.fleet.tenants.list import list_tenants
from tenantry.neon.ids import ProjectId
from tenantry.postgres.dsn import parse_uri

MET_MAX: Final = 1_000
"""Tenants that were looked up and not asked for: a run that was broken off leaves some."""
MET_SECONDS_MAX: Final = 30.0
KEYS_LIBPQ_MIN: Final = 180_000
"""The libpq that takes SCRAM's keys instead of a password."""


class MigratedTenants:
    """Implements ``migrations.ports.Tenants``. Threads share it."""

    def __init__(self, catalog: Catalog, provider_of: ProviderOf) -> None:
        self._catalog = catalog
        self._provider_of = provider_of
        self._points: ProviderPoints | None = None
        self._met: dict[str, tuple[float, Tenant]] = {}
        """By slugs, and when; each is used once, so that whoever asks again gets what is true then."""
        self._ways: dict[str, OperatorWay] = {}
        """By slugs, of those in ``_met``; whoever lacks one is asked for alone."""

    def met(self, tenants: Sequence[Tenant]) -> None:
        """Spares ``dsn`` all questions for each of these, that were looked up together just now.

        The ways to them are asked for together too, and are as good as what the provider knows without asking them.
        """
        if len(self._met) > MET_MAX:
            self._met.clear()
            self._ways.clear()
        now = time.monotonic()
        of_provider: dict[ProviderId, list[Tenant]] = {}
        for tenant in tenants:
            self._ways.pop(tenant.slug, None)
            self._met[tenant.slug] = (now, tenant)
            if tenant.state == "ready":  # of the others whoever asks hears why
                of_provider.setdefault(tenant.provider_id, []).append(tenant)
        for together in of_provider.values():
            if len(together) > 1:
                self._ask_for_ways(together)

    def _ask_for_ways(self, tenants: Sequence[Tenant]) -> None:
        """To tenants of one provider."""
        homes: dict[ProjectId, Home] = {}
        slugs: dict[ProjectId, str] = {}
        for tenant in tenants:
            _, project_id, home = usable(tenant)
            homes[project_id], slugs[project_id] = home, tenant.slug
        try:
            found = self._provider_of(tenants[0]).operator_ways(homes)
        except TenantryError:
            return  # each is asked for alone, and tells why
        self._ways.update((slugs[project_id], way) for project_id, way in found.items())

    def points(self, wish: Keeping | Literal["none"] = "lsn") -> ProviderPoints | None:
        """Who keeps the state that a tenant had before its migration (``migrations.restore_point.Points``)."""
        if wish == "none":
            return None
        self._points = ProviderPoints(lambda slug: find_ready(self._catalog, slug)[0], self._provider_of, wish)
        return self._points

    def select(
        self, slugs: Sequence[str] | None, *, plan: str | None = None, region: str | None = None
    ) -> Iterable[TenantRef]:
        if slugs is None:
            tenants: Iterable[Tenant] = list_tenants(self._catalog, states=["ready"], plan=plan, region=region)
        else:
            named = [find_ready(self._catalog, slug)[0] for slug in slugs]
            tenants = {tenant.slug: tenant for tenant in named}.values()
        return (
            TenantRef(
                slug=TenantSlug(tenant.slug),
                known=_schema_state(tenant),
                id=tenant.id,
                provider_id=tenant.provider_id,
                plan=tenant.plan,
                region=tenant.region,
                window=tenant.maintenance_window,
            )
            for tenant in tenants
        )

    def dsn(self, slug: TenantSlug) -> str:
        # A migration must get in also where the tenant has used up its quotas.
        at, known = self._met.pop(slug, (0.0, None))
        way = self._ways.pop(slug, None)
        if known is None or time.monotonic() - at > MET_SECONDS_MAX:
            way = None
            tenant, project_id, home = find_ready(self._catalog, slug)
        else:
            tenant, project_id, home = usable(known)
        if self._points is not None:
            self._points.saw(tenant)
        return _keyed(way) if way else self._provider_of(tenant).operator_uri(project_id, home)

    def record(self, slug: TenantSlug, state: SchemaState) -> None:
        with self._catalog.transaction() as connection:
            # A tenant that was deleted meanwhile has no schema any more.
            queries.record_schema(
                connection, slug, version=state.version, format=state.format, fingerprint=state.fingerprint
            )


def _keyed(way: OperatorWay) -> str:
    """Its URI, by which libpq hashes no password where it knows how not to."""
    if way.keys is None or pq.version() < KEYS_LIBPQ_MIN:
        return way.uri
    client_key, server_key = way.keys
    dsn = parse_uri(way.uri)
    keys = {"scram_client_key": client_key, "scram_server_key": server_key}
    return replace(dsn, parameters={**dsn.parameters, **keys}).uri()


def _schema_state(tenant: Tenant) -> SchemaState | None:
    if tenant.schema_format is None or tenant.schema_fingerprint is None:
        return None
    return SchemaState(tenant.schema_format, tenant.schema_version, tenant.schema_fingerprint)
