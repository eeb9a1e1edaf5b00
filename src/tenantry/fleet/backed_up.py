"""The fleet as backups see it: its tenants, what a schema is, and a vault as it is configured."""

# ruff: noqa: PLC0415 - storages and ciphers take longer to import than most commands to run
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol

import psycopg

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.migrations import fingerprint
from tenantry.fleet.providers.open import Providers
from tenantry.fleet.providers.ports import Home, Provider
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.delete import delete_tenant
from tenantry.fleet.tenants.find import find_ready
from tenantry.neon.ids import ProjectId
from tenantry.runtime.findings import Finding

if TYPE_CHECKING:
    from tenantry.fleet.backups.backups import Backups
    from tenantry.fleet.backups.proofs import Proofs
    from tenantry.fleet.backups.rewrap import Rewrapping
    from tenantry.fleet.catalog.jobs import Job

JOBS_LOOKED_AT: Final = 200
"""The newest jobs, among which is every one that is under way and was begun by the schedule."""


class _Jobs(Protocol):
    def list(self, *, limit: int) -> Sequence[Job]: ...

    def start(self, kind: str, subjects: Mapping[str, Mapping[str, object]]) -> object: ...


class BackedUp(Protocol):
    """What of a fleet the passes over backups call."""

    @property
    def jobs(self) -> _Jobs: ...

    def backups(self, vault: str | None = None) -> Backups: ...


class BackedUpTenants:
    """See ``backups.ports.Tenants``."""

    def __init__(self, catalog: Catalog, providers: Providers) -> None:
        self._catalog = catalog
        self._providers = providers

    def ready(self, name: str) -> tuple[Tenant, ProjectId, Home]:
        return find_ready(self._catalog, name)

    def provider_of(self, tenant: Tenant) -> Provider:
        return self._providers.of(tenant)

    def create(self, name: str, *, like: Tenant | None, pg_version: int | None) -> tuple[Tenant, bool]:
        # Without the schema of the last run: the backup brings its own.
        made = create_tenant(
            self._catalog,
            self._providers.of,
            wish(
                name,
                plan=like and like.plan,
                region=like and like.region,
                residency=like and like.residency,
                pg_version=pg_version,
            ),
        )
        return made.tenant, made.new

    def discard(self, tenant: Tenant) -> None:
        delete_tenant(self._catalog, self._providers.of, tenant.slug, grace=timedelta())


class SchemaFingerprints:
    """See ``backups.ports.Fingerprints``."""

    algorithm: int = fingerprint.ALGORITHM

    def of(self, connection: psycopg.Connection) -> str:
        return fingerprint.read_schema(connection).fingerprint


def open_backups(
    catalog: Catalog, providers: Providers, vault: str | None = None, *, key_from: str | None = None
) -> Backups:
    """With the vault and the fleet's key of ``[backups]``, or these. Asks nobody yet. Raises OperatorError."""
    from tenantry.fleet.backups.backups import Backups
    from tenantry.fleet.backups.keys import read_fleet_keys
    from tenantry.fleet.backups.open import open_configured
    from tenantry.fleet.settings import load_settings

    said = load_settings().backups
    return Backups(
        catalog,
        BackedUpTenants(catalog, providers),
        open_configured(said, vault),
        read_fleet_keys(key_from or said.key_from),
        SchemaFingerprints(),
        provider_by_id=providers.by_id,
        tls_ca=said.tls_ca,
    )


def open_proofs(
    catalog: Catalog, providers: Providers, vault: str | None = None, *, key_from: str | None = None
) -> Proofs:
    """The same, for verifying. Raises InvalidInput, OperatorError."""
    from tenantry.fleet.backups.proofs import Proofs
    from tenantry.fleet.settings import load_settings
    from tenantry.runtime.spans import parse_span

    said = load_settings().backups
    return Proofs(
        open_backups(catalog, providers, vault, key_from=key_from),
        within=parse_span(said.verify_within),
        checks=said.verify_checks,
        provider_by_id=providers.by_id,
    )


def rewrap_keys(
    catalog: Catalog,
    vault: str | None = None,
    *,
    jobs: int,
    dry_run: bool,
    begun: Callable[[int], None] = lambda _: None,
    tell: Callable[[str, TenantryError | None], None] = lambda _, __: None,
) -> Rewrapping:
    """See ``backups.rewrap``; with the vault of ``[backups]``, or this one."""
    from tenantry.fleet.backups.keys import read_fleet_keys
    from tenantry.fleet.backups.open import open_configured
    from tenantry.fleet.backups.rewrap import rewrap
    from tenantry.fleet.settings import load_settings

    said = load_settings().backups
    keys = read_fleet_keys(said.key_from)
    return rewrap(catalog, open_configured(said, vault), keys, jobs=jobs, dry_run=dry_run, begun=begun, tell=tell)


def examine_keys(catalog: Catalog) -> list[Finding]:
    """Whether the fleet's key is at hand and opens every tenant's; nothing where no vault is configured."""
    from tenantry.fleet.backups.keys import read_fleet_keys
    from tenantry.fleet.settings import load_settings

    said = load_settings().backups
    if said.vault is None:
        return []
    try:
        with catalog.transaction() as connection:
            under = rows.keys_by_fleet_key(connection)
    except TenantryError:
        return []  # what is wrong with the catalog is said elsewhere
    try:
        keys = read_fleet_keys(said.key_from)
    except TenantryError as error:
        return [Finding("backup keys", "wrong", error.message, error.next_step)]
    facts: dict[str, object] = {"fleet_key": keys.id, "under": under}
    if lost := {each: count for each, count in under.items() if each not in keys.ids}:
        return [
            Finding(
                "backup keys",
                "wrong",
                f"the backups of {sum(lost.values())} tenants cannot be opened here: their keys are under"
                f" {', '.join(lost)} of the fleet's, which {said.key_from} does not hold",
                "add that key to it as another line",
                facts,
            )
        ]
    if old := sum(count for each, count in under.items() if each != keys.id):
        return [
            Finding(
                "backup keys",
                "note",
                f"the keys of {old} tenants' backups are under an older key of the fleet's than {keys.id}",
                "tenantry vault rewrap, then the older one is needed no more",
                facts,
            )
        ]
    return [Finding("backup keys", "ok", f"the fleet's key {keys.id} opens every tenant's backups", "", facts)]


def back_up_due(fleet: BackedUp, now: datetime) -> list[str]:
    """Begins a job for those whose time has come; where no vault is configured nothing is due."""
    from tenantry.fleet.settings import load_settings

    if load_settings().backups.vault is None:
        return []
    backups: Backups = fleet.backups()
    said = backups.sweep()
    due, unchanged = backups.due(now)
    if unchanged:
        said.append(f"{unchanged} tenants are unchanged since their last good backup, and were left asleep")
    jobs = fleet.jobs.list(limit=JOBS_LOOKED_AT)
    if due and any(job.kind == "backup" and job.finished_at is None for job in jobs):
        said.append(f"{len(due)} tenants are to be backed up once the job before them has ended")
    elif due:
        fleet.jobs.start("backup", {each.slug: {} for each in due})
        said.append(f"{len(due)} tenants are to be backed up")
    return said


def prune_backups(fleet: BackedUp) -> list[str]:
    """By the rules of plans and tenants; where no vault is configured there is nothing."""
    from tenantry.fleet.settings import load_settings

    settings = load_settings().backups
    if settings.vault is None:
        return []
    backups = fleet.backups()
    done = backups.prune(backups.plan_prune(None, default_keep=settings.keep), tidy=True)
    if done.failure is not None:
        raise done.failure
    return [*([f"{len(done.gone)} backups that need not stay are gone"] if done.gone else []), *done.said]
