"""What travels over the wire: the contract's schemas, under the contract's names.

One set of shapes serves both ends. Times are aware and written as RFC 3339 in UTC with ``Z``; a field that is None
is left out of the JSON. Reading is tolerant: unknown fields are ignored, and words that the contract may add to
(states, actions, plans) are plain strings.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, RootModel


class Shape(BaseModel):
    """Something of the contract. Building validators waits until a shape is first used."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True, hide_input_in_errors=True)

    def to_json(self) -> bytes:
        """The JSON text as the contract wants it."""
        return self.model_dump_json(exclude_none=True).encode()


ComputeUnits = Annotated[float, Field(ge=0.25, le=1024, allow_inf_nan=False)]
SuspendSeconds = Annotated[int, Field(ge=-1, le=604_800)]
"""Idle seconds before sleep; 0 is the server's default, -1 is never."""
QuotaAmount = Annotated[int, Field(ge=0, le=2**63 - 1)]


# -- settings ------------------------------------------------------------------------------------------------


class ProjectQuota(Shape):
    """Limits of one consumption period; zero or absent is no limit."""

    active_time_seconds: QuotaAmount | None = None
    compute_time_seconds: QuotaAmount | None = None
    written_data_bytes: QuotaAmount | None = None
    data_transfer_bytes: QuotaAmount | None = None
    logical_size_bytes: QuotaAmount | None = None


class AllowedIps(Shape):
    ips: list[str] | None = None
    protected_branches_only: bool | None = None


class MaintenanceWindow(Shape):
    weekdays: list[int]
    start_time: str
    end_time: str


class PreloadLibraries(Shape):
    use_defaults: bool | None = None
    enabled_libraries: list[str] | None = None


class ProjectSettings(Shape):
    quota: ProjectQuota | None = None
    allowed_ips: AllowedIps | None = None
    enable_logical_replication: bool | None = None
    maintenance_window: MaintenanceWindow | None = None
    block_public_connections: bool | None = None
    block_vpc_connections: bool | None = None
    audit_log_level: str | None = None
    hipaa: bool | None = None
    preload_libraries: PreloadLibraries | None = None


class EndpointSettings(Shape):
    pg_settings: dict[str, str] | None = None
    pgbouncer_settings: dict[str, str] | None = None
    preload_libraries: PreloadLibraries | None = None


class DefaultEndpointSettings(Shape):
    pg_settings: dict[str, str] | None = None
    pgbouncer_settings: dict[str, str] | None = None
    autoscaling_limit_min_cu: ComputeUnits | None = None
    autoscaling_limit_max_cu: ComputeUnits | None = None
    suspend_timeout_seconds: SuspendSeconds | None = None


# -- nouns ---------------------------------------------------------------------------------------------------


class QuotaStatus(Shape):
    """Off the contract: how far a quota is used up; ``level`` is within, warned or exceeded."""

    quota: str
    used: int
    limit: int
    level: str


class OperatorAccess(Shape):
    """Off the contract: a way past a project's quotas for its operator, for a while."""

    uri: str = Field(repr=False)
    token: str = Field(repr=False)
    expires_at: datetime
    project_id: str | None = None
    """Named where several were asked for."""
    scram_client_key: str | None = Field(default=None, repr=False)
    scram_server_key: str | None = Field(default=None, repr=False)
    """Both together serve libpq 18 and newer in place of the password, and spare it the hashing."""


OPERATOR_ACCESSES_MAX: Final = 64
"""In one request."""


class OperatorAccesses(Shape):
    """Off the contract: the same to many projects; those to which there is no way are left out."""

    operator_access: list[OperatorAccess]


class ProjectOwner(Shape):
    email: str
    name: str
    branches_limit: int
    subscription_type: str


class ProjectListItem(Shape):
    id: str
    platform_id: str
    region_id: str
    name: str
    provisioner: str
    pg_version: int
    proxy_host: str
    branch_logical_size_limit: int
    branch_logical_size_limit_bytes: int
    store_passwords: bool
    active_time: int
    cpu_used_sec: int
    creation_source: str
    created_at: datetime
    updated_at: datetime
    owner_id: str
    default_endpoint_settings: DefaultEndpointSettings | None = None
    settings: ProjectSettings | None = None
    synthetic_storage_size: int | None = None
    quota_reset_at: datetime | None = None
    compute_last_active_at: datetime | None = None
    org_id: str | None = None
    history_retention_seconds: int | None = None
    deleted_at: datetime | None = None
    recoverable_until: datetime | None = None


class Project(Shape):
    id: str
    platform_id: str
    region_id: str
    name: str
    provisioner: str
    pg_version: int
    proxy_host: str
    branch_logical_size_limit: int
    branch_logical_size_limit_bytes: int
    store_passwords: bool
    data_storage_bytes_hour: int
    data_transfer_bytes: int
    written_data_bytes: int
    compute_time_seconds: int
    active_time_seconds: int
    cpu_used_sec: int
    creation_source: str
    history_retention_seconds: int
    created_at: datetime
    updated_at: datetime
    consumption_period_start: datetime
    consumption_period_end: datetime
    owner_id: str
    quota_status: list[QuotaStatus] | None = None
    owner: ProjectOwner | None = None
    default_endpoint_settings: DefaultEndpointSettings | None = None
    settings: ProjectSettings | None = None
    synthetic_storage_size: int | None = None
    quota_reset_at: datetime | None = None
    compute_last_active_at: datetime | None = None
    org_id: str | None = None


class BranchRecovery(Shape):
    """Of a deleted branch."""

    deleted_at: datetime
    recoverable_until: datetime
    deletion_method: str


class Branch(Shape):
    id: str
    project_id: str
    name: str
    current_state: str
    state_changed_at: datetime
    creation_source: str
    default: bool
    protected: bool
    cpu_used_sec: int
    compute_time_seconds: int
    active_time_seconds: int
    written_data_bytes: int
    data_transfer_bytes: int
    created_at: datetime
    updated_at: datetime
    primary: bool | None = None
    parent_id: str | None = None
    parent_lsn: str | None = None
    parent_timestamp: datetime | None = None
    pending_state: str | None = None
    logical_size: int | None = None
    ttl_interval_seconds: int | None = None
    expires_at: datetime | None = None
    last_reset_at: datetime | None = None
    init_source: str | None = None
    restore_status: str | None = None
    restored_from: str | None = None
    restored_as: str | None = None
    recovery: BranchRecovery | None = None


class Endpoint(Shape):
    id: str
    host: str
    project_id: str
    branch_id: str
    autoscaling_limit_min_cu: float
    autoscaling_limit_max_cu: float
    region_id: str
    type: str
    current_state: str
    settings: EndpointSettings
    pooler_enabled: bool
    pooler_mode: str
    disabled: bool
    passwordless_access: bool
    creation_source: str
    created_at: datetime
    updated_at: datetime
    proxy_host: str
    suspend_timeout_seconds: int
    provisioner: str
    name: str | None = None
    pending_state: str | None = None
    last_active: datetime | None = None
    started_at: datetime | None = None
    suspended_at: datetime | None = None
    compute_release_version: str | None = None


class Role(Shape):
    branch_id: str
    name: str
    created_at: datetime
    updated_at: datetime
    password: str | None = Field(default=None, repr=False)
    protected: bool | None = None


class Database(Shape):
    id: int
    branch_id: str
    name: str
    owner_name: str
    created_at: datetime
    updated_at: datetime


class Operation(Shape):
    id: str
    project_id: str
    action: str
    status: str
    failures_count: int
    created_at: datetime
    updated_at: datetime
    total_duration_ms: int
    branch_id: str | None = None
    endpoint_id: str | None = None
    error: str | None = None
    retry_at: datetime | None = None


class ConnectionParameters(Shape):
    database: str
    password: str = Field(repr=False)
    role: str
    host: str
    pooler_host: str


class ConnectionDetails(Shape):
    connection_uri: str = Field(repr=False)
    connection_parameters: ConnectionParameters


class Snapshot(Shape):
    id: str
    name: str
    created_at: str
    lsn: str | None = None
    timestamp: str | None = None
    source_branch_id: str | None = None
    expires_at: str | None = None
    manual: bool | None = None
    full_size: int | None = None
    diff_size: int | None = None


class BackupScheduleItem(Shape):
    frequency: str
    hour: int | None = None
    day: int | None = None
    month: int | None = None
    retention_seconds: int | None = None


class Pagination(Shape):
    cursor: str


class CursorPagination(Shape):
    next: str | None = None
    sort_by: str | None = None
    sort_order: str | None = None


class AnnotationObject(Shape):
    type: str
    id: str


class AnnotationData(Shape):
    object: AnnotationObject
    value: dict[str, str]
    created_at: datetime | None = None
    updated_at: datetime | None = None


# -- the account ---------------------------------------------------------------------------------------------


class PaymentSource(Shape):
    type: str


class BillingAccount(Shape):
    state: str
    payment_source: PaymentSource
    subscription_type: str
    payment_method: str
    quota_reset_at_last: datetime
    name: str
    email: str
    address_city: str
    address_country: str
    address_line1: str
    address_line2: str
    address_postal_code: str
    address_state: str


class AuthAccount(Shape):
    email: str
    image: str
    login: str
    name: str
    provider: str


class CurrentUser(Shape):
    """``CurrentUserInfoResponse``."""

    id: str
    active_seconds_limit: int
    auth_accounts: list[AuthAccount]
    email: str
    image: str
    login: str
    name: str
    last_name: str
    projects_limit: int
    branches_limit: int
    max_autoscaling_limit: float
    plan: str
    billing_account: BillingAccount | None = None
    compute_seconds_limit: int | None = None


class AuthDetails(Shape):
    account_id: str
    auth_method: str
    auth_data: str | None = None


class Region(Shape):
    region_id: str
    name: str
    default: bool
    geo_lat: str
    geo_long: str


class ApiKeyCreator(Shape):
    id: str
    name: str
    image: str


class ApiKeyItem(Shape):
    """``ApiKeysListResponseItem``."""

    id: int
    name: str
    created_at: datetime
    created_by: ApiKeyCreator
    last_used_from_addr: str
    last_used_at: datetime | None = None
    project_id: str | None = None
    """Only of an organization's keys; absent for one that reaches all its projects."""


class ApiKeyItems(RootModel[list[ApiKeyItem]]):
    """The one answer of the contract that is a list."""

    def to_json(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()


class ApiKeyCreated(Shape):
    id: int
    key: str = Field(repr=False)
    name: str
    created_at: datetime
    created_by: str
    project_id: str | None = None


class ApiKeyRevoked(Shape):
    id: int
    name: str
    created_at: datetime
    created_by: str
    last_used_from_addr: str
    revoked: bool
    last_used_at: datetime | None = None
    project_id: str | None = None


class Organization(Shape):
    id: str
    name: str
    handle: str
    plan: str
    created_at: datetime
    updated_at: datetime
    managed_by: str


class Member(Shape):
    id: str
    user_id: str
    org_id: str
    role: str
    joined_at: datetime | None = None


class MemberUserInfo(Shape):
    email: str


class MemberWithUser(Shape):
    member: Member
    user: MemberUserInfo


# -- answers -------------------------------------------------------------------------------------------------


class ProjectResponse(Shape):
    project: Project


class ProjectOperations(Shape):
    project: Project
    operations: list[Operation]


class ProjectCreated(Shape):
    """``CreatedProject``."""

    project: Project
    connection_uris: list[ConnectionDetails]
    roles: list[Role]
    databases: list[Database]
    operations: list[Operation]
    branch: Branch
    endpoints: list[Endpoint]


class ProjectsResponse(Shape):
    projects: list[ProjectListItem]
    pagination: Pagination | None = None
    applications: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])
    integrations: dict[str, list[str]] = Field(default_factory=dict[str, list[str]])


class ProjectRecovered(Shape):
    project: Project
    branches: list[Branch]


class ProjectPermissions(Shape):
    """Of other accounts; a permission has a shape of its own that nothing here reads."""

    project_permissions: list[dict[str, str]] = Field(default_factory=list[dict[str, str]])


class ConnectionUriResponse(Shape):
    uri: str = Field(repr=False)


class BranchResponse(Shape):
    branch: Branch
    annotation: AnnotationData | None = None


class BranchesResponse(Shape):
    branches: list[Branch]
    annotations: dict[str, AnnotationData] = Field(default_factory=dict[str, AnnotationData])
    pagination: CursorPagination | None = None


class BranchesCount(Shape):
    count: int


class AvailablePreloadLibrary(Shape):
    library_name: str
    description: str
    is_default: bool
    is_experimental: bool
    version: str


class AvailablePreloadLibraries(Shape):
    libraries: list[AvailablePreloadLibrary]


class BranchOperations(Shape):
    branch: Branch
    operations: list[Operation]
    roles_of_the_past: list[str] | None = None
    """Not of the contract: after a restore, roles whose password is the one of then."""


class BranchCreated(Shape):
    """``CreatedBranch``."""

    branch: Branch
    endpoints: list[Endpoint]
    operations: list[Operation]
    roles: list[Role]
    databases: list[Database]
    connection_uris: list[ConnectionDetails] | None = None


class BranchRecovered(Shape):
    branch: Branch
    endpoints: list[Endpoint] | None = None


class BranchSchema(Shape):
    sql: str | None = None


class BranchSchemaDiff(Shape):
    diff: str | None = None


class EndpointResponse(Shape):
    endpoint: Endpoint


class EndpointsResponse(Shape):
    endpoints: list[Endpoint]


class EndpointOperations(Shape):
    endpoint: Endpoint
    operations: list[Operation]


class RoleResponse(Shape):
    role: Role


class RolesResponse(Shape):
    roles: list[Role]


class RoleOperations(Shape):
    role: Role
    operations: list[Operation]


class RolePassword(Shape):
    password: str = Field(repr=False)


class DatabaseResponse(Shape):
    database: Database


class DatabasesResponse(Shape):
    databases: list[Database]


class DatabaseOperations(Shape):
    database: Database
    operations: list[Operation]


class OperationResponse(Shape):
    operation: Operation


class OperationsResponse(Shape):
    operations: list[Operation]
    pagination: Pagination | None = None


class OrganizationsResponse(Shape):
    organizations: list[Organization]


class OrganizationMembersResponse(Shape):
    members: list[MemberWithUser]
    pagination: CursorPagination | None = None


class OrganizationInvitationsResponse(Shape):
    """An invitation has a shape of its own that nothing here makes or reads."""

    invitations: list[dict[str, str]] = Field(default_factory=list[dict[str, str]])


class Empty(Shape):
    """``EmptyResponse``."""


class RegionsResponse(Shape):
    regions: list[Region]


class SnapshotResponse(Shape):
    snapshot: Snapshot


class SnapshotOperations(Shape):
    snapshot: Snapshot
    operations: list[Operation]


class SnapshotsResponse(Shape):
    snapshots: list[Snapshot]


class SnapshotRestored(Shape):
    branch: Branch
    operations: list[Operation]
    endpoints: list[Endpoint] | None = None
    roles_of_the_past: list[str] | None = None
    """As in ``BranchOperations``."""


class BackupSchedule(Shape):
    schedule: list[BackupScheduleItem]
