"""The tenants as migrations see them: who they are, how they are reached, and what is known of their schemas.

A worker meets its next tenants by the handful, so what leads to them is asked for by the handful too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal

from psycopg import pq

from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import ProviderId, Tenant
from tenantry.fleet.migrations.restore_point import Keeping, ProviderPoints
from tenantry.fleet.migrations.tenant import SchemaState, TenantRef, TenantSlug
from tenantry.fleet.providers.ports import Home, OperatorWay, Provider, ProviderOf
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
        self._ways: dict[ProviderId, _Ways] = {}

    def met(self, tenants: Sequence[Tenant]) -> None:
        """Spares ``dsn`` most questions for each of these, that were looked up together just now."""
        if len(self._met) > MET_MAX:
            self._met.clear()
        now = time.monotonic()
        self._met.update((tenant.slug, (now, tenant)) for tenant in tenants)
        for tenant in tenants:
            if tenant.state != "ready":
                continue  # whoever asks for it hears why
            _, project_id, home = usable(tenant)
            ways = self._ways.setdefault(tenant.provider_id, _Ways())
            ways.will_want(project_id, home, now)

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
        if known is None or time.monotonic() - at > MET_SECONDS_MAX:
            tenant, project_id, home = find_ready(self._catalog, slug)
            ways = None
        else:
            tenant, project_id, home = usable(known)
            ways = self._ways.get(tenant.provider_id)
        if self._points is not None:
            self._points.saw(tenant)
        provider = self._provider_of(tenant)
        way = ways.way(provider, project_id) if ways else None
        return _keyed(way) if way else provider.operator_uri(project_id, home)

    def record(self, slug: TenantSlug, state: SchemaState) -> None:
        with self._catalog.transaction() as connection:
            # A tenant that was deleted meanwhile has no schema any more.
            queries.record_schema(
                connection, slug, version=state.version, format=state.format, fingerprint=state.fingerprint
            )


class _Ways:
    """To projects of one provider that will be wanted soon: asked for together, when the first of them is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted: dict[ProjectId, tuple[float, Home]] = {}
        self._found: dict[ProjectId, tuple[float, OperatorWay]] = {}

    def will_want(self, project_id: ProjectId, home: Home, now: float) -> None:
        with self._lock:
            if len(self._wanted) + len(self._found) > MET_MAX:
                self._wanted.clear()
                self._found.clear()
            self._found.pop(project_id, None)
            self._wanted[project_id] = (now, home)

    def way(self, provider: Provider, project_id: ProjectId) -> OperatorWay | None:
        """The way to one of them, good for one use; None where it has to be asked for alone.

        Others who ask meanwhile wait: what they want comes by the same answer.
        """
        with self._lock:
            if project_id in self._wanted:
                wanted = {each: home for each, (at, home) in self._wanted.items() if _fresh(at)}
                self._wanted.clear()
                now = time.monotonic()
                if len(wanted) > 1:
                    self._found |= {each: (now, way) for each, way in provider.operator_ways(wanted).items()}
            at, way = self._found.pop(project_id, (0.0, None))
        return way if _fresh(at) else None


def _fresh(at: float) -> bool:
    return time.monotonic() - at <= MET_SECONDS_MAX


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
