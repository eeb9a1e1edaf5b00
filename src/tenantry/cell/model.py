"""Records of the cell and their legal transitions. Pure: no clock, no disk, no network.

The nouns are Neon's. Times are aware datetimes in UTC. ``Head`` is ours: the data directory that a branch runs
now; its generation grows by one at each swap, and an actor that holds an older generation is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NewType

from tenantry.errors import Conflict
from tenantry.neon.ids import BranchId, EndpointId, OperationId, ProjectId, RegionId

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
    head_generation: int = 1
    build_id: BuildId
    logical_size: int | None = None
    expires_at: datetime | None = None
    created_at: datetime
    updated_at: datetime


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
