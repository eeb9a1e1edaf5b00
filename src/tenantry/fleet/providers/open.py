"""From a row of the catalog to a provider that answers; each is opened once and kept, until its secret changes."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.errors import NotFound
from tenantry.fleet.catalog import providers
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord, Tenant
from tenantry.fleet.providers.neon_account import NeonAccount
from tenantry.fleet.providers.neon_api import NeonProvider
from tenantry.fleet.providers.ports import Provider
from tenantry.fleet.providers.secrets import read_secret
from tenantry.neon.pace import Pace

AWAY_SECONDS_MAX: Final = 15.0
"""How long one call waits for a provider that is away, as one that restarts. Verbs hold their tenant and a connection
of the catalog meanwhile: this is less than others wait for such a connection."""
RECORD_SECONDS_MAX: Final = 60.0
"""How long a process goes on with what the catalog said of a provider."""


@dataclass(frozen=True, slots=True)
class _Opened:
    record: ProviderRecord
    provider: Provider
    digest: bytes
    """Of the secret that it was opened with."""


class Providers:
    """All providers of one fleet. Threads may share it; closing it closes every provider, home included."""

    def __init__(self, catalog: Catalog, home: Provider, environment: Mapping[str, str] = os.environ) -> None:
        self.home = home
        self._catalog = catalog
        self._environment = environment
        self._lock = threading.Lock()
        self._records: dict[ProviderId, tuple[ProviderRecord, float]] = {}
        """And when the catalog said so."""
        self._opened: dict[ProviderId, _Opened] = {}
        self._retired: list[Provider] = []
        """Opened with a secret that was changed since; other threads may still be using them."""

    def of(self, tenant: Tenant) -> Provider:
        """Who has this tenant's project (``ports.ProviderOf``). Not to be called inside of a transaction."""
        return self.by_id(tenant.provider_id)

    def by_id(self, provider_id: ProviderId) -> Provider:
        """Raises NotFound, and OperatorError when its secret is not on this machine. Asks nobody but the catalog."""
        if provider_id == HOME_PROVIDER:
            return self.home
        return self.opened(self._record(provider_id))

    def _record(self, provider_id: ProviderId) -> ProviderRecord:
        now = time.monotonic()
        with self._lock:
            known, seen_at = self._records.get(provider_id, (None, now))
        if known is not None and now <= seen_at + RECORD_SECONDS_MAX:
            return known
        with self._catalog.transaction() as connection:
            record = providers.provider_by_id(connection, provider_id)
        if record is None:
            raise NotFound(f"there is no provider {provider_id}", provider_id=str(provider_id))
        with self._lock:
            self._records[provider_id] = record, now
        return record

    def opened(self, record: ProviderRecord) -> Provider:
        """The provider of a record, opened or as it is open. A new key in its file is taken up here."""
        if record.id == HOME_PROVIDER:
            return self.home
        secret = read_secret(record.secret_from, f"of provider {record.name}", self._environment)
        digest = hashlib.sha256(secret.encode()).digest()
        with self._lock:
            known = self._opened.get(record.id)
            if known is not None and known.digest == digest and known.record == record:
                return known.provider
            provider = open_provider(record, secret)
            if known is not None:
                self._retired.append(known.provider)
            self._opened[record.id] = _Opened(record, provider, digest)
            return provider

    def close(self) -> None:
        """Safe twice."""
        with self._lock:
            gone = [*self._retired, *(each.provider for each in self._opened.values()), self.home]
            self._opened.clear()
            self._retired.clear()
        for provider in gone:
            provider.close()


def open_provider(record: ProviderRecord, secret: str) -> Provider:
    """Connects on first use. Raises InvalidInput for a secret that cannot be one of this kind."""
    if record.kind == "postgres":
        # The only kind that needs the protocol of Postgres itself.
        from tenantry.fleet.providers.plain_postgres import PlainPostgres, read_access  # noqa: PLC0415

        return PlainPostgres(read_access(secret, record.name), record.name)
    assert record.api_url is not None, "the catalog knows where every API is"
    account = NeonAccount.at(
        record.api_url,
        secret,
        tls_verify=True if record.api_ca is None else str(Path(record.api_ca)),
        pace=Pace() if record.kind == "neon" else None,
        away_seconds_max=AWAY_SECONDS_MAX,
    )
    return NeonProvider(account, record.name)
