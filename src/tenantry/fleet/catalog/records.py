"""What the catalog hands out: values, free of SQL and of any connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal, NewType
from uuid import UUID

from tenantry.neon.ids import ProjectId

CustomerId = NewType("CustomerId", UUID)
TenantId = NewType("TenantId", UUID)
"""The row of a customer's project: known before the provider knows the project."""

ProviderId = NewType("ProviderId", UUID)

TenantState = Literal["creating", "ready", "leaving", "deleting", "deleted"]
"""``leaving``: its deletion was asked for, and can be called off until its grace ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A customer together with its project."""

    id: TenantId
    customer_id: CustomerId
    slug: str
    name: str
    email: str | None
    plan: str
    residency: str | None
    """Where its data must stay; None: anywhere."""
    maintenance_window: str | None
    """When its database may be changed; None: at any time."""
    state: TenantState
    provider_id: ProviderId
    region: str | None
    """As asked for until the tenant is ready (None: the provider's default), then as it is."""
    pg_version: int | None
    project_id: ProjectId | None
    """The provider's id; None until it is known."""
    database_name: str | None
    role_name: str | None
    schema_version: str | None
    schema_format: str | None
    schema_fingerprint: str | None
    schema_seen_at: datetime | None
    """None: nobody has looked into this tenant's ledger yet."""
    created_at: datetime
    ready_at: datetime | None
    leaving_at: datetime | None
    purge_at: datetime | None
    """When a leaving tenant is deleted for good."""
    leaving_by: str | None
    """Who asked for its deletion."""
    shut_at: datetime | None
    """Since when its provider turns its clients away; None where it lets them in."""
    deleting_at: datetime | None
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a tenant of this plan may use. None leaves the provider's default, and for quotas means no limit."""

    slug: str
    name: str
    projects_max: int
    """Projects included in the price of the plan."""
    price_usd_monthly: Decimal
    branches_max: int | None = None
    cu_min: Decimal | None = None
    cu_max: Decimal | None = None
    suspend_seconds: int | None = None
    """0: the provider's default; -1: never sleeps."""
    history_seconds: int | None = None
    quota_active_seconds: int | None = None
    """Of a month, this and the four below; ``quota_logical_bytes`` is of each branch."""
    quota_compute_seconds: int | None = None
    quota_written_bytes: int | None = None
    quota_sent_bytes: int | None = None
    quota_logical_bytes: int | None = None
    backup_cron: str | None = None
    backup_keep_days: int | None = None
    backup_keep: str | None = None
    """Before ``backup_keep_days``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionRecord:
    """That a tenant's data was deleted for good."""

    tenant_id: TenantId
    slug: str
    name: str
    projects: Sequence[str]
    """The provider's ids of what was deleted."""
    requested_by: str
    requested_at: datetime
    purged_at: datetime


ProviderKind = Literal["cell", "neon", "postgres"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderRecord:
    """Who owns projects, as the catalog knows it."""

    id: ProviderId
    name: str
    kind: ProviderKind
    api_url: str | None
    """None for the provider that the fleet was opened with, and for plain Postgres."""
    api_ca: str | None
    secret_from: str
    """``env:NAME``, ``file:/PATH``, or ``home``."""
    created_at: datetime
    removed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """That a provider serves a region, and how full it is there."""

    provider_id: ProviderId
    provider: str
    region: str
    provider_region: str
    """What the provider calls it."""
    projects: int
    """Of tenants that are not deleted, intended ones included."""
    ready: int
    """Those that wait for a tenant."""
    projects_max: int | None
    """None: no limit of ours."""
    accepts_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """Where the data of some customers must stay."""

    slug: str
    region_patterns: tuple[str, ...]
    """Such as ``eu-*``: a star is any text."""


RunState = Literal["planned", "running", "paused", "stopped", "aborted", "finished"]
"""``stopped``: a gate did; ``paused``: somebody did. Both go on when somebody says so."""
WaveState = Literal["waiting", "running", "judging", "passed", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of migrations as it is remembered. ``counts`` and ``plan`` are the runner's own documents."""

    id: str
    state: RunState
    reason: str | None
    format: str
    directory: str
    target: str | None
    fingerprint: str | None
    folder_digest: str | None
    created_by: str | None
    plan: Mapping[str, object]
    started_at: datetime
    finished_at: datetime | None
    interrupted: bool
    counts: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """A wave of a run, and how many of its tenants stand where now."""

    number: int
    name: str
    state: WaveState
    worker: str | None
    """Who judges it."""
    silent: bool
    """That one has not been heard of for long."""
    started_at: datetime | None
    finished_at: datetime | None
    verdict: Mapping[str, object] | None
    tenants: int
    waiting: int
    """Without an outcome; among them those ``in_hand`` of a worker that lives, and those that are ``shut``."""
    in_hand: int
    shut: int
    """Outside of their maintenance window."""
    opens_at: datetime | None
    """When the first of those may be changed, or has to be given another window."""
    applied: int
    failed: int
    lock_waits: int
    """Failed for a lock that was not had in time."""
    seconds_p50: float | None
    seconds_p95: float | None
    """Of those that were applied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTenant:
    """A tenant that a run is to visit."""

    tenant_id: TenantId
    slug: str
    provider_id: ProviderId
    wave: int
    from_version: str | None
    pending: tuple[str, ...]
    opens_at: datetime | None = None
    closes_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A tenant of a run that this worker has in hand, and what is known of it now."""

    tenant_id: TenantId
    slug: str
    fence: int
    attempts: int
    pending: tuple[str, ...]
    ready: bool
    """False: deleted, or about to be."""
    schema_format: str | None
    schema_version: str | None
    schema_fingerprint: str | None
    as_of: datetime
    """When the catalog last wrote anything of its project: what was learnt since is newer than what is known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of a claimed tenant."""

    tenant_id: TenantId
    fence: int
    outcome: Literal["applied", "current", "failed", "gone"]
    applied: tuple[str, ...] = ()
    to_version: str | None = None
    failure: Mapping[str, object] | None = None
    notes: tuple[str, ...] = ()
    restore_point: Mapping[str, object] | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class KnownSchema:
    """What a tenant's ledger says, to whoever claimed it when its project was as of then."""

    tenant_id: TenantId
    as_of: datetime
    version: str | None
    format: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTenant:
    """One tenant of a run."""

    run_id: str
    tenant_id: TenantId
    slug: str
    provider_id: ProviderId
    wave: int
    from_version: str | None
    pending: tuple[str, ...]
    outcome: str | None
    applied: tuple[str, ...]
    to_version: str | None
    failure: Mapping[str, object] | None
    notes: tuple[str, ...]
    restore_point: Mapping[str, object] | None
    seconds: float | None
    attempts: int
    worker: str | None
    opens_at: datetime | None
    finished_at: datetime | None
