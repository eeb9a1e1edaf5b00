"""The state of a tenant just before a run changed it: a position in its history, or a snapshot where there is none.

A position costs nothing: the tenant's own session tells it in the message that takes the lock. ``undo`` goes back
to it.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, Protocol

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.catalog.records import ProviderId, Tenant
from tenantry.fleet.migrations.tenant import TenantRef, TenantSlug
from tenantry.fleet.providers.ports import Provider, ProviderOf
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.postgres.lsn import Lsn, parse_lsn

Keeping = Literal["lsn", "snapshot"]
"""How an operator wants the state of tenants to be kept. Where there is no history a snapshot is taken all the same."""
Way = Literal["lsn", "snapshot", "none"]
"""How a tenant's state before the first change is kept; ``none``: it cannot be."""

SNAPSHOT_PREFIX: Final = "before-migration-"
SNAPSHOT_DAYS_MAX: Final = 7
"""How long a snapshot is kept that was taken before a migration: snapshots take room, and a project has few."""
ASKED_ONE_BY_ONE_MAX: Final = 16
"""Projects of one provider that are asked for their history one at a time; for more of them the list is read once."""
SEEN_MAX: Final = 1_024
NOTE_NONE: Final = "it has no restore point: its provider keeps neither a history of it nor snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePoint:
    """A state of one tenant that can be gone back to."""

    kind: Literal["lsn", "snapshot"]
    value: str
    """The position in the log, or the snapshot's id."""
    at: datetime
    """By the clock of whoever told it: the tenant's server, or the provider."""

    @property
    def lsn(self) -> Lsn | None:
        return parse_lsn(self.value) if self.kind == "lsn" else None

    def as_dict(self) -> dict[str, object]:
        return {"kind": self.kind, "value": self.value, "at": self.at.astimezone(UTC).isoformat()}

    @staticmethod
    def of(document: Mapping[str, object]) -> RestorePoint:
        """From ``as_dict``. Raises InvalidInput for anything else."""
        kind, value, at = document.get("kind"), document.get("value"), document.get("at")
        if kind not in ("lsn", "snapshot") or not isinstance(value, str) or not isinstance(at, str):
            raise InvalidInput(f"{document!r} is not a restore point")
        return RestorePoint(kind=kind, value=value, at=datetime.fromisoformat(at))


class Points(Protocol):
    """Who knows how a tenant's state is kept. Threads share it."""

    def way(self, slug: TenantSlug) -> Way:
        """How to keep the state of this tenant. Wakes nobody."""
        ...

    def snapshot(self, slug: TenantSlug) -> RestorePoint:
        """Takes a snapshot of the tenant as it is, for a tenant whose way is ``snapshot``."""
        ...


class ProviderPoints:
    """See ``Points``: by what each tenant's provider declares, and by how much history its project keeps."""

    def __init__(self, find: Callable[[str], Tenant], provider_of: ProviderOf, wish: Keeping = "lsn") -> None:
        """``find`` gives the ready tenant of a slug."""
        self._find = find
        self._provider_of = provider_of
        self._wish = wish
        self._lock = threading.Lock()
        self._seen: OrderedDict[TenantSlug, Tenant] = OrderedDict()
        self._histories: dict[ProviderId, _Histories] = {}

    def saw(self, tenant: Tenant) -> None:
        """Spares ``way`` a question to the catalog: whoever connects to a tenant has just looked it up."""
        with self._lock:
            self._seen[TenantSlug(tenant.slug)] = tenant
            while len(self._seen) > SEEN_MAX:
                self._seen.popitem(last=False)

    def way(self, slug: TenantSlug) -> Way:
        tenant = self._tenant(slug)
        provider = self._provider_of(tenant)
        if self._wish == "lsn" and "restore" in provider.features and self._keeps_history(tenant, provider):
            return "lsn"
        # Going back to a snapshot is a restore too.
        return "snapshot" if {"snapshots", "restore"} <= provider.features else "none"

    def snapshot(self, slug: TenantSlug) -> RestorePoint:
        tenant = self._tenant(slug)
        project_id = _project(tenant)
        client = self._provider_of(tenant).api("snapshots")
        branch = next((each for each in client.branches(project_id) if each.default), None)
        if branch is None:
            raise NotFound(f"project {project_id} has no default branch", project_id=project_id)
        made = client.create_snapshot(
            project_id,
            BranchId(branch.id),
            name=f"{SNAPSHOT_PREFIX}{secrets.token_hex(6)}",
            expires_at=datetime.now(UTC) + timedelta(days=SNAPSHOT_DAYS_MAX),
        )
        client.wait_for_operations(project_id, made.operations)
        taken = made.snapshot
        at = datetime.fromisoformat(taken.timestamp or taken.created_at)
        return RestorePoint(kind="snapshot", value=taken.id, at=at)

    def _tenant(self, slug: TenantSlug) -> Tenant:
        with self._lock:
            known = self._seen.get(slug)
        return known or self._find(slug)

    def _keeps_history(self, tenant: Tenant, provider: Provider) -> bool:
        with self._lock:
            histories = self._histories.setdefault(tenant.provider_id, _Histories())
        return histories.keeps(provider, _project(tenant))


class Planned(Protocol):
    """One tenant of a plan."""

    @property
    def tenant(self) -> TenantRef: ...


def without_way_back(tenants: Iterable[Planned], provider: Callable[[ProviderId], Provider]) -> list[TenantSlug]:
    """Those whose provider has no way back in time. Asks nobody but the catalog, and each provider once."""
    able: dict[ProviderId, bool] = {}
    stuck: list[TenantSlug] = []
    for each in tenants:
        provider_id = each.tenant.provider_id
        if provider_id is None:
            continue
        if provider_id not in able:
            able[provider_id] = "restore" in provider(provider_id).features
        if not able[provider_id]:
            stuck.append(each.tenant.slug)
    return stuck


class _Histories:
    """Which projects of one provider keep no history: asked for one by one at first, then from the list of all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = 0
        self._without: set[ProjectId] | None = None

    def keeps(self, provider: Provider, project_id: ProjectId) -> bool:
        with self._lock:
            self._asked += 1
            if self._asked > ASKED_ONE_BY_ONE_MAX and self._without is None:
                # The others wait: each of them would ask for the same list.
                self._without = {
                    listed.project.id for listed in provider.list_projects() if listed.limits.history_seconds == 0
                }
            if self._without is not None:
                return project_id not in self._without
        return provider.api("restore").get_project(project_id).history_retention_seconds != 0


def _project(tenant: Tenant) -> ProjectId:
    if tenant.project_id is None:
        raise Conflict(f"{tenant.slug} is not ready", next_step=f"finish it with `tenantry create {tenant.slug}`")
    return tenant.project_id
