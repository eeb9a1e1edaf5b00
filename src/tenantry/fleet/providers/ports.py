"""What the fleet needs of whoever owns the projects, and what each provider declares that it can.

Every call raises :class:`tenantry.errors.TenantryError` only. A provider retries what is worth it (423, 429) within
its own deadline, and raises NotSupported for a feature that it does not declare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import TYPE_CHECKING, Final, Literal, Protocol

from tenantry.errors import NotSupported
from tenantry.fleet.catalog.records import Tenant
from tenantry.neon.ids import EndpointId, ProjectId, RegionId

if TYPE_CHECKING:
    from tenantry.neon.client import NeonClient

EndpointState = Literal["init", "active", "idle"]

Feature = Literal["branches", "restore", "snapshots", "suspend", "pooled", "compute", "history", "quotas", "usage"]
FEATURES: Final[dict[Feature, str]] = {
    "branches": "branches of a tenant",
    "restore": "going back in time",
    "snapshots": "snapshots",
    "suspend": "sleep and wake",
    "pooled": "a pooler in front",
    "compute": "a compute size for each tenant",
    "history": "a history of a chosen length",
    "quotas": "quotas",
    "usage": "metered usage",
}
"""Every feature, in words for errors and tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderProject:
    id: ProjectId
    name: str
    """As it was made or renamed; of a provider that keeps no names, the uuid in brackets alone."""
    region: RegionId
    """As the provider calls it."""
    pg_version: int
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where a tenant's data lives inside its project: the default branch's first database and its owner."""

    database_name: str
    role_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEndpoint:
    id: EndpointId
    host: str
    state: EndpointState
    suspend_timeout_seconds: int | None
    """0: the provider's default; -1: never; None: it does not sleep."""
    cu_min: float | None
    cu_max: float | None
    """None where the provider has no compute sizes."""
    last_active: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one tenant may use. None: not said, or not limited; in a change it leaves what is there."""

    cu_min: float | None = None
    cu_max: float | None = None
    suspend_seconds: int | None = None
    """0: the provider's default; -1: never sleeps."""
    history_seconds: int | None = None
    quota_active_seconds: int | None = None
    """Of a month, this and the four below; 0 takes a limit away."""
    quota_compute_seconds: int | None = None
    quota_written_bytes: int | None = None
    quota_sent_bytes: int | None = None
    quota_logical_bytes: int | None = None


LIMIT_FEATURES: Final[dict[str, Feature]] = {
    field.name: "quotas"
    if field.name.startswith("quota_")
    else ("history" if field.name == "history_seconds" else "compute")
    for field in fields(Limits)
}
"""The feature that each field of ``Limits`` needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedProject:
    """A project as the list of all of them has it."""

    project: ProviderProject
    limits: Limits
    """What the list says; None elsewhere. Compute is what endpoints get that are made from now on: ``change_limits``
    changes the endpoint that is there first, and this after it."""


@dataclass(frozen=True, slots=True)
class OperatorWay:
    """How an operator's own work reaches one project."""

    uri: str = field(repr=False)
    keys: tuple[str, str] | None = field(default=None, repr=False)
    """SCRAM's ClientKey and ServerKey in base64; whoever takes them need not hash the password (libpq 18)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedOnDay:
    """What one project used on one day (UTC). The current day is not over."""

    project_id: ProjectId
    day: date
    active_seconds: int
    compute_seconds: int
    written_bytes: int
    sent_bytes: int
    storage_bytes: int
    """The most that it held on that day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a provider says of itself when it is asked."""

    version: str
    """Of what answers: a cell's API, or the Postgres server."""
    regions: Sequence[RegionId]
    """As the provider calls them; empty where it has none."""
    clock_seconds: float | None
    """How far its clock is ahead of ours, as near as one request tells; None where it does not say."""
    notes: Sequence[str] = ()
    """What works, and what its operator should know all the same."""


class Provider(Protocol):
    """Threads may share it."""

    @property
    def name(self) -> str:
        """As the catalog calls it."""
        ...

    @property
    def features(self) -> frozenset[Feature]: ...

    def check(self) -> Health:
        """Asks for what shows that it can be reached, that the key is right, and what it is. Changes nothing."""
        ...

    def find_projects(self, part_of_name: str) -> Sequence[ProviderProject]:
        """Every project whose name contains the text. Every provider keeps the uuid that a name ends with."""
        ...

    def list_projects(self) -> Iterator[ListedProject]:
        """Every project, also those that are not the fleet's. Asks while it is read, page by page. Wakes nobody."""
        ...

    def create_project(
        self, *, name: str, region: str | None, pg_version: int | None, limits: Limits | None = None
    ) -> tuple[ProviderProject, Home]:
        """Makes a project, by the provider's defaults where None is given. Not idempotent.

        ``region`` is the provider's own word for it; of ``limits`` the features must be declared. Raises InvalidInput
        for what would be refused for ever.
        """
        ...

    def rename_project(self, project_id: ProjectId, name: str) -> None:
        """The project's name follows, where the provider keeps names. Raises NotFound."""
        ...

    def home(self, project_id: ProjectId) -> Home:
        """Where the data is, completing what a killed ``create_project`` left. Raises NotFound for a project that
        is not there (any more)."""
        ...

    def endpoints(self, project_id: ProjectId) -> Sequence[ProviderEndpoint]:
        """Raises NotFound."""
        ...

    def connection_uri(self, project_id: ProjectId, home: Home, *, pooled: bool) -> str:
        """A libpq URI with its password: a secret. Wakes nobody. ``pooled`` needs the feature."""
        ...

    def operator_uri(self, project_id: ProjectId, home: Home) -> str:
        """The same for an operator's own work (migrations, backups): quotas do not stop it, where the provider can.

        Good for connections that are opened within some minutes. A secret. Wakes nobody.
        """
        ...

    def operator_ways(self, homes: Mapping[ProjectId, Home]) -> Mapping[ProjectId, OperatorWay]:
        """The same for many projects, where that is cheaper than one by one; whoever is left out is asked for alone."""
        ...

    def new_password(self, project_id: ProjectId, home: Home) -> None:
        """Gives the owner another password, which ``connection_uri`` then has. The old one opens nothing more."""
        ...

    def suspend_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        """Returns once the endpoint sleeps. Safe for one that does. Feature: suspend."""
        ...

    def start_endpoint(self, project_id: ProjectId, endpoint_id: EndpointId) -> None:
        """Returns once the endpoint is awake. Safe for one that is. Feature: suspend."""
        ...

    def limits(self, project_id: ProjectId) -> Limits:
        """What holds now of the features that it has; None elsewhere. Raises NotFound."""
        ...

    def change_limits(self, project_id: ProjectId, wanted: Limits) -> None:
        """Makes hold what is not None, at the project and at its default branch's endpoint. Safe twice.

        Raises NotSupported, having changed nothing, when one of the fields needs a feature that is not declared.
        """
        ...

    def usage(self, since: date, until: date, projects: Sequence[ProjectId] | None = None) -> Iterator[UsedOnDay]:
        """Of these projects or of all, for each day from ``since`` up to and with ``until``. Feature: usage.

        Asks while it is read, page by page; a project that the provider does not know (any more) is left out.
        """
        ...

    def refuse_connections(self, project_id: ProjectId, refused: bool) -> None:
        """Turns all clients away and ends their sessions, or lets them in again. Safe twice. Raises NotFound."""
        ...

    def delete_project(self, project_id: ProjectId, *, for_good: bool = False) -> bool:
        """False when it was not there (any more). ``for_good``: nor can it be recovered, where the provider can."""
        ...

    def api(self, feature: Feature) -> NeonClient:
        """The Neon API behind it, for the verbs of a feature (branches, restore, snapshots).

        Raises NotSupported where the feature is not declared.
        """
        ...

    def close(self) -> None:
        """Gives connections back; safe twice."""
        ...


ProviderOf = Callable[[Tenant], Provider]
"""Who has this tenant's project. Raises NotFound and what opening the provider raises, never what asking it does."""


def no_feature(provider: str, kind: str, feature: Feature) -> NotSupported:
    """The error of a provider that is asked for what it has not declared."""
    return NotSupported(
        f"provider {provider} ({kind}) does not have {FEATURES[feature]}",
        next_step="keep this tenant with a cell or at Neon to have it",
        provider=provider,
        feature=feature,
    )
