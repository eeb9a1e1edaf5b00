"""Records of the cell and their legal transitions. Pure: no clock, no disk, no network.

The nouns are Neon's, but for ``Head``, which is ours. Times are aware datetimes in UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NewType

from tenantry.errors import Conflict
from tenantry.neon.ids import BranchId, EndpointId, HeadId, OperationId, ProjectId, RegionId, SnapshotId

BuildId = NewType("BuildId", str)
"""One engine build, e.g. ``pg18.6-embedded-1a2b3c4d``."""
Uid = NewType("Uid", int)
"""The operating system user that a project's files and processes belong to."""

JsonObject = dict[str, object]

OperationAction = Literal[
    "create_timeline", "create_branch", "start_compute", "suspend_compute", "apply_config", "create_compute",
    "delete_timeline", "check_availability", "tenant_ignore", "timeline_archive", "timeline_unarchive",
]  # fmt: skip
OperationStatus = Literal["scheduling", "running", "finished", "failed", "cancelled", "skipped"]
EndpointState = Literal["init", "active", "idle"]
BranchState = Literal["init", "ready"]
EndpointType = Literal["read_write", "read_only"]
DeletionMethod = Literal["user", "ttl"]
InitSource = Literal["parent-data", "schema-only"]
RestoreStatus = Literal["restored", "finalized"]
KeyOwner = Literal["account", "organization"]
KeyReach = Literal["account", "organization", "project"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    id: ProjectId
    name: str
    region_id: RegionId
    pg_major: int
    uid: Uid
    store_passwords: bool = True
    history_retention_seconds: int = 86_400
    settings: JsonObject = field(default_factory=dict[str, object])
    default_endpoint_settings: JsonObject = field(default_factory=dict[str, object])
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    """Since when it is gone for everyone; it can be recovered until it is purged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    id: BranchId
    project_id: ProjectId
    name: str
    parent_id: BranchId | None = None
    parent_lsn: str | None = None
    parent_timestamp: datetime | None = None
    state: BranchState = "init"
    state_changed_at: datetime
    default: bool = False
    protected: bool = False
    head_id: HeadId
    logical_size: int | None = None
    expires_at: datetime | None = None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None = None
    """As a project's; its name may be another branch's meanwhile."""
    deletion_method: DeletionMethod | None = None
    init_source: InitSource = "parent-data"
    restore_status: RestoreStatus | None = None
    """Of a branch that was made from a snapshot: whether it may still take the place of another, or has."""
    restored_from: SnapshotId | None = None
    restored_as: BranchId | None = None
    """The branch whose place it takes."""
    preserved_of: BranchId | None = None
    """Of one that keeps the state which another had before it was restored: that other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A data directory with the history written in it. A branch runs one head at a time.

    A head begins from a template (no origin) or from another head at ``origin_lsn``; it pins an engine build.
    """

    id: HeadId
    project_id: ProjectId
    branch_id: BranchId | None
    """None once no branch runs it any more and only its history is kept, for heads that began from it."""
    generation: int = 1
    """Grows by one at each swap of the branch's head; whoever holds an older one is refused."""
    build_id: BuildId
    timeline: int = 1
    origin_head_id: HeadId | None = None
    origin_lsn: str | None = None
    """None for a head that began from a template, and for one whose files are still being made."""
    created_at: datetime

    @property
    def made(self) -> bool:
        """Whether its files are whole; before, nothing may start on them."""
        return self.origin_head_id is None or self.origin_lsn is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    id: EndpointId
    project_id: ProjectId
    branch_id: BranchId
    name: str | None = None
    type: EndpointType = "read_write"
    min_cu: float = 0.25
    max_cu: float = 0.25
    suspend_timeout_seconds: int = 0
    """Idle seconds before sleep; 0 is the cell's default, -1 is never."""
    disabled: bool = False
    pooler_enabled: bool = False
    settings: JsonObject = field(default_factory=dict[str, object])
    state: EndpointState = "init"
    last_active: datetime | None = None
    started_at: datetime | None = None
    suspended_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A login role of a branch: a cache of the branch's pg_authid, plus the sealed password if we set it."""

    branch_id: BranchId
    name: str
    verifier: str | None
    """``SCRAM-SHA-256$...``, ``md5...`` or None, exactly as pg_authid has it."""
    password_sealed: bytes | None = None
    """The password, encrypted with the cell's key; valid only while ``verifier`` is the one it was made with."""
    protected: bool = False
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    id: int
    branch_id: BranchId
    name: str
    owner_name: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One API-visible change: ``verb`` names the file in ``operations/`` whose steps carry it out."""

    id: OperationId
    project_id: ProjectId
    branch_id: BranchId | None = None
    endpoint_id: EndpointId | None = None
    action: OperationAction
    status: OperationStatus = "scheduling"
    verb: str
    argument: JsonObject = field(default_factory=dict[str, object])
    step: int = 0
    error: str | None = None
    failures_count: int = 0
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spare:
    """A ready clone of a template that a new project takes: its directory, ids and verifiers are final."""

    project_id: ProjectId
    branch_id: BranchId
    head_id: HeadId
    build_id: BuildId
    uid: Uid
    role_name: str
    database_name: str
    verifier: str
    password_sealed: bytes
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    id: int
    name: str
    key_hash: bytes
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None
    owner: KeyOwner = "account"
    project_id: ProjectId | None = None
    """The only project that a key of the organization reaches; None is all of them."""

    @property
    def reach(self) -> KeyReach:
        return "project" if self.project_id is not None else self.owner


OPERATION_TRANSITIONS: Final[dict[OperationStatus, frozenset[OperationStatus]]] = {
    "scheduling": frozenset({"running", "cancelled", "skipped"}),
    "running": frozenset({"finished", "failed", "scheduling"}),
    "finished": frozenset(),
    "failed": frozenset({"scheduling"}),
    "cancelled": frozenset(),
    "skipped": frozenset(),
}

ENDPOINT_TRANSITIONS: Final[dict[EndpointState, frozenset[EndpointState]]] = {
    "init": frozenset({"active", "idle"}),
    "active": frozenset({"idle"}),
    "idle": frozenset({"active"}),
}


def check_operation_transition(operation: Operation, to: OperationStatus) -> None:
    """Raises Conflict where the state machine of operations has no arrow from here to ``to``."""
    if to not in OPERATION_TRANSITIONS[operation.status]:
        raise Conflict(
            f"operation {operation.id} is {operation.status} and cannot become {to}",
            operation_id=operation.id, status=operation.status, to=to,
        )  # fmt: skip


def unfinished(operation: Operation) -> bool:
    """Whether the operation still holds its project's turn."""
    return operation.status in ("scheduling", "running")


# -- what the API asks for and what changes answer -----------------------------------------------------------
# In a request, None means "not said" and in a change "leave it as it is".


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectCreate:
    """A new project; whatever is None takes the cell's default."""

    name: str | None = None
    region_id: RegionId | None = None
    """Any label is accepted, so that scripts written for a cloud's regions run unchanged."""
    pg_major: int | None = None
    branch_name: str | None = None
    role_name: str | None = None
    """Default: the database's name + ``_owner``."""
    database_name: str | None = None
    annotations: dict[str, str] = field(default_factory=dict[str, str])
    """Free labels of the first branch."""
    min_cu: float | None = None
    max_cu: float | None = None
    suspend_timeout_seconds: int | None = None
    store_passwords: bool = True
    history_retention_seconds: int | None = None
    settings: JsonObject = field(default_factory=dict[str, object])
    default_endpoint_settings: JsonObject = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectChange:
    name: str | None = None
    history_retention_seconds: int | None = None
    settings: JsonObject | None = None
    """Merged over the stored settings, key by key of the first level."""
    default_endpoint_settings: JsonObject | None = None
    """Merged likewise; it holds for endpoints made afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolePassword:
    """A role and its password in clear, on its way to whoever asked for it; None when it is not known."""

    role: Role
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedProject:
    project: Project
    branch: Branch
    endpoint: Endpoint
    roles: tuple[RolePassword, ...]
    databases: tuple[Database, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectChanged:
    project: Project
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredProject:
    project: Project
    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRequest:
    """Which database as which role; no branch means the default one, no endpoint its read-write one."""

    database_name: str
    role_name: str
    branch_id: BranchId | None = None
    endpoint_id: EndpointId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    endpoint: Endpoint
    database_name: str
    role_name: str
    password: str | None = field(default=None, repr=False)
    """None when it is not stored, or was changed by SQL since."""
    keys: tuple[str, str] | None = field(default=None, repr=False)
    """SCRAM's ClientKey and ServerKey of the password in base64, where they are known without hashing."""


@dataclass(frozen=True, slots=True)
class OperatorAccess:
    """A token with which an operator's connections pass the quotas of one project until it expires."""

    token: str = field(repr=False)
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a project or a branch has consumed since its consumption period began."""

    active_time_seconds: int = 0
    compute_time_seconds: int = 0
    written_data_bytes: int = 0
    data_transfer_bytes: int = 0
    data_storage_bytes_hour: int = 0
    synthetic_storage_size: int | None = None
    largest_branch_bytes: int | None = None
    last_active_at: datetime | None = None
    branches_changed_at: datetime | None = None
    """Of a project: when one of its branches was last made, restored or changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """Free labels of a branch."""

    branch_id: BranchId
    value: dict[str, str]
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchEndpointCreate:
    """An endpoint asked for together with its branch."""

    type: EndpointType = "read_write"
    min_cu: float | None = None
    max_cu: float | None = None
    suspend_timeout_seconds: int | None = None
    settings: JsonObject = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCreate:
    """A new branch; no parent means the default branch, neither LSN nor time means the parent's head."""

    name: str | None = None
    parent_id: BranchId | None = None
    parent_lsn: str | None = None
    parent_timestamp: datetime | None = None
    init_source: InitSource = "parent-data"
    protected: bool = False
    expires_at: datetime | None = None
    endpoints: tuple[BranchEndpointCreate, ...] = ()
    annotations: dict[str, str] = field(default_factory=dict[str, str])
    restored_from: SnapshotId | None = None
    restored_as: BranchId | None = None
    """For one that is made from a snapshot, and may take this branch's place later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedBranch:
    branch: Branch
    endpoints: tuple[Endpoint, ...]
    roles: tuple[RolePassword, ...]
    databases: tuple[Database, ...]
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchChange:
    name: str | None = None
    protected: bool | None = None
    expires_at: datetime | None = None
    never_expires: bool = False
    """Takes a set expiry away (the request said ``"expires_at": null``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchRestore:
    """Back to a point of the source's history; neither LSN nor time means the source's head."""

    source_branch_id: BranchId
    source_lsn: str | None = None
    source_timestamp: datetime | None = None
    preserve_under_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchChanged:
    branch: Branch
    operations: tuple[Operation, ...] = ()
    roles_of_the_past: tuple[str, ...] | None = None
    """After a restore: roles whose password is as it was then. None when it is not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredBranch:
    branch: Branch
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaPoint:
    """A database's schema at a point of a branch's history; neither LSN nor time means now."""

    branch_id: BranchId
    database_name: str
    lsn: str | None = None
    timestamp: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointCreate:
    branch_id: BranchId
    type: EndpointType
    name: str | None = None
    min_cu: float | None = None
    max_cu: float | None = None
    suspend_timeout_seconds: int | None = None
    disabled: bool = False
    pooler_enabled: bool = False
    settings: JsonObject = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChange:
    name: str | None = None
    branch_id: BranchId | None = None
    min_cu: float | None = None
    max_cu: float | None = None
    suspend_timeout_seconds: int | None = None
    disabled: bool | None = None
    pooler_enabled: bool | None = None
    settings: JsonObject | None = None
    """Merged over the stored settings, key by key of the first level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChanged:
    endpoint: Endpoint
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleCreate:
    name: str
    no_login: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleChanged:
    role: Role
    password: str | None = field(default=None, repr=False)
    """In clear, when this change made it."""
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseCreate:
    name: str
    owner_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseChange:
    name: str | None = None
    owner_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseChanged:
    database: Database
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedKey:
    key: ApiKey
    clear: str = field(repr=False)
    """The key itself, shown once and stored nowhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    id: SnapshotId
    project_id: ProjectId
    source_branch_id: BranchId | None
    head_id: HeadId
    """Whose history holds it."""
    name: str
    lsn: str | None = None
    timestamp: datetime | None = None
    """The point of the branch's history that it holds."""
    manual: bool = True
    """False when a backup schedule took it."""
    full_size: int | None = None
    created_at: datetime
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCreate:
    """Neither LSN nor time means the branch's head."""

    name: str | None = None
    lsn: str | None = None
    timestamp: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRestore:
    """Into a new branch, or (with a target) prepared for taking the target's place at once or later."""

    name: str | None = None
    target_branch_id: BranchId | None = None
    finalize_restore: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotChanged:
    snapshot: Snapshot
    operations: tuple[Operation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredSnapshot:
    branch: Branch
    endpoints: tuple[Endpoint, ...]
    operations: tuple[Operation, ...]
    roles_of_the_past: tuple[str, ...] | None = None
    """Of one that took a branch's place, as in ``BranchChanged``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSlot:
    """One line of a branch's backup schedule, in UTC."""

    frequency: Literal["hourly", "daily", "weekly", "monthly", "yearly"]
    hour: int | None = None
    day: int | None = None
    month: int | None = None
    retention_seconds: int | None = None
