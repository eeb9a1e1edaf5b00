"""Records to wire shapes. Pure: what a client reads is decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from tenantry.cell import model
from tenantry.cell.api.site import UNLIMITED, Account, Site
from tenantry.cell.consumption import Amounts, period_of
from tenantry.cell.quotas import spent_of
from tenantry.neon import shapes
from tenantry.neon.ids import BranchId, ProjectId

SOURCE: Final = "tenantry"
PLATFORM: Final = "tenantry"
PROVISIONER: Final = "k8s-pod"
"""The contract's word for computes of a fixed size; clients take unknown words for errors."""
SUBSCRIPTION: Final = "UNKNOWN"
PLAN: Final = "self_hosted"
NO_USAGE: Final = model.Usage()


def project(site: Site, record: model.Project, usage: model.Usage, now: datetime) -> shapes.Project:
    period_start, period_end = period_of(now)
    size_limit = _size_limit(record)
    return shapes.Project(
        id=record.id,
        platform_id=PLATFORM,
        region_id=record.region_id,
        name=record.name,
        provisioner=PROVISIONER,
        pg_version=record.pg_major,
        proxy_host=site.door.name,
        branch_logical_size_limit=size_limit // 2**20,
        branch_logical_size_limit_bytes=size_limit,
        store_passwords=record.store_passwords,
        data_storage_bytes_hour=usage.data_storage_bytes_hour,
        data_transfer_bytes=usage.data_transfer_bytes,
        written_data_bytes=usage.written_data_bytes,
        compute_time_seconds=usage.compute_time_seconds,
        active_time_seconds=usage.active_time_seconds,
        cpu_used_sec=usage.compute_time_seconds,
        creation_source=SOURCE,
        history_retention_seconds=record.history_retention_seconds,
        created_at=record.created_at,
        updated_at=_updated_at(record, usage),
        consumption_period_start=period_start,
        consumption_period_end=period_end,
        quota_reset_at=period_end,
        quota_status=_quota_status(record, usage),
        owner_id=str(site.account.id),
        org_id=site.organization.id,
        owner=_owner(site.account),
        default_endpoint_settings=_default_endpoint_settings(record),
        settings=shapes.ProjectSettings.model_validate(record.settings),
        synthetic_storage_size=usage.synthetic_storage_size,
        compute_last_active_at=usage.last_active_at,
    )


def _updated_at(record: model.Project, usage: model.Usage) -> datetime:
    """A project changes with its branches, also where nobody was connected: backups go by this."""
    return max(record.updated_at, usage.branches_changed_at or record.updated_at)


def project_list_item(site: Site, record: model.Project, usage: model.Usage, now: datetime) -> shapes.ProjectListItem:
    size_limit = _size_limit(record)
    recoverable_until = record.deleted_at and record.deleted_at + timedelta(seconds=site.recovery_seconds)
    return shapes.ProjectListItem(
        id=record.id,
        platform_id=PLATFORM,
        region_id=record.region_id,
        name=record.name,
        provisioner=PROVISIONER,
        pg_version=record.pg_major,
        proxy_host=site.door.name,
        branch_logical_size_limit=size_limit // 2**20,
        branch_logical_size_limit_bytes=size_limit,
        store_passwords=record.store_passwords,
        active_time=usage.active_time_seconds,
        cpu_used_sec=usage.compute_time_seconds,
        creation_source=SOURCE,
        created_at=record.created_at,
        updated_at=_updated_at(record, usage),
        owner_id=str(site.account.id),
        org_id=site.organization.id,
        default_endpoint_settings=_default_endpoint_settings(record),
        settings=shapes.ProjectSettings.model_validate(record.settings),
        synthetic_storage_size=usage.synthetic_storage_size,
        quota_reset_at=period_of(now)[1],
        compute_last_active_at=usage.last_active_at,
        history_retention_seconds=record.history_retention_seconds,
        deleted_at=record.deleted_at,
        recoverable_until=recoverable_until,
    )


def projects(
    site: Site, records: Iterable[model.Project], usage: Mapping[ProjectId, model.Usage], now: datetime
) -> list[shapes.ProjectListItem]:
    return [project_list_item(site, record, usage.get(record.id, NO_USAGE), now) for record in records]


def branch(
    record: model.Branch, usage: model.Usage = NO_USAGE, *, recovery: shapes.BranchRecovery | None = None
) -> shapes.Branch:
    return shapes.Branch(
        id=record.id,
        project_id=record.project_id,
        name=record.name,
        current_state=record.state,
        state_changed_at=record.state_changed_at,
        creation_source=SOURCE,
        default=record.default,
        primary=record.default,
        protected=record.protected,
        cpu_used_sec=usage.compute_time_seconds,
        compute_time_seconds=usage.compute_time_seconds,
        active_time_seconds=usage.active_time_seconds,
        written_data_bytes=usage.written_data_bytes,
        data_transfer_bytes=usage.data_transfer_bytes,
        created_at=record.created_at,
        updated_at=record.updated_at,
        parent_id=record.parent_id,
        parent_lsn=record.parent_lsn,
        parent_timestamp=record.parent_timestamp,
        logical_size=record.logical_size,
        expires_at=record.expires_at,
        ttl_interval_seconds=_ttl(record),
        init_source=record.init_source,
        restore_status=record.restore_status,
        restored_from=record.restored_from,
        restored_as=record.restored_as,
        recovery=recovery,
    )


def branches(
    records: Iterable[model.Branch], usage: Mapping[BranchId, model.Usage], recovery_seconds: int = 0
) -> list[shapes.Branch]:
    """Of deleted ones says how long they can be recovered, ``recovery_seconds`` after they were deleted."""
    return [
        branch(record, usage.get(record.id, NO_USAGE), recovery=_recovery(record, recovery_seconds))
        for record in records
    ]


def _recovery(record: model.Branch, seconds: int) -> shapes.BranchRecovery | None:
    if record.deleted_at is None:
        return None
    return shapes.BranchRecovery(
        deleted_at=record.deleted_at,
        recoverable_until=record.deleted_at + timedelta(seconds=seconds),
        deletion_method=record.deletion_method or "user",
    )


def annotation(branch_id: BranchId, record: model.Annotation | None) -> shapes.AnnotationData:
    return shapes.AnnotationData(
        object=shapes.AnnotationObject(type="console/branch", id=branch_id),
        value=record.value if record else {},
        created_at=record.created_at if record else None,
        updated_at=record.updated_at if record else None,
    )


def endpoint(site: Site, record: model.Endpoint, region_id: str) -> shapes.Endpoint:
    """``region_id`` is its project's."""
    return shapes.Endpoint(
        id=record.id,
        host=site.door.endpoint_host(record.id),
        project_id=record.project_id,
        branch_id=record.branch_id,
        name=record.name,
        autoscaling_limit_min_cu=record.min_cu,
        autoscaling_limit_max_cu=record.max_cu,
        region_id=region_id,
        type=record.type,
        current_state=record.state,
        settings=shapes.EndpointSettings.model_validate(record.settings),
        pooler_enabled=record.pooler_enabled,
        pooler_mode="transaction",
        disabled=record.disabled,
        passwordless_access=False,
        creation_source=SOURCE,
        created_at=record.created_at,
        updated_at=record.updated_at,
        last_active=record.last_active,
        started_at=record.started_at,
        suspended_at=record.suspended_at,
        proxy_host=site.door.name,
        suspend_timeout_seconds=record.suspend_timeout_seconds,
        provisioner=PROVISIONER,
    )


def endpoints(site: Site, records: Iterable[model.Endpoint], region_id: str) -> list[shapes.Endpoint]:
    return [endpoint(site, record, region_id) for record in records]


def role(record: model.Role, password: str | None = None) -> shapes.Role:
    """``password`` only for the caller whose request has just made it."""
    return shapes.Role(
        branch_id=record.branch_id,
        name=record.name,
        password=password,
        protected=record.protected,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )


def roles_with_passwords(pairs: Iterable[model.RolePassword]) -> list[shapes.Role]:
    return [role(pair.role, pair.password) for pair in pairs]


def database(record: model.Database) -> shapes.Database:
    return shapes.Database(
        id=record.id,
        branch_id=record.branch_id,
        name=record.name,
        owner_name=record.owner_name,
        created_at=record.created_at,
        updated_at=record.updated_at,
    )


def databases(records: Iterable[model.Database]) -> list[shapes.Database]:
    return [database(record) for record in records]


def operation(record: model.Operation) -> shapes.Operation:
    lasted = (record.finished_at or record.updated_at) - record.created_at
    return shapes.Operation(
        id=record.id,
        project_id=record.project_id,
        branch_id=record.branch_id,
        endpoint_id=record.endpoint_id,
        action=record.action,
        status=record.status,
        error=record.error,
        failures_count=record.failures_count,
        created_at=record.created_at,
        updated_at=record.updated_at,
        total_duration_ms=max(0, round(lasted.total_seconds() * 1000)),
    )


def operations(records: Iterable[model.Operation]) -> list[shapes.Operation]:
    return [operation(record) for record in records]


def connection_details(
    site: Site, at: model.Endpoint, *, database_name: str, role_name: str, password: str
) -> shapes.ConnectionDetails:
    return shapes.ConnectionDetails(
        connection_uri=site.door.dsn(at.id, database=database_name, role=role_name, password=password).uri(),
        connection_parameters=shapes.ConnectionParameters(
            database=database_name,
            password=password,
            role=role_name,
            host=site.door.endpoint_host(at.id),
            pooler_host=site.door.endpoint_host(at.id, pooled=True),
        ),
    )


def connection_uris(
    site: Site,
    endpoints: Iterable[model.Endpoint],
    databases: Iterable[model.Database],
    roles: Iterable[model.RolePassword],
) -> list[shapes.ConnectionDetails]:
    """One for each read-write endpoint and database whose owner's password is known."""
    passwords = {pair.role.name: pair.password for pair in roles if pair.password is not None}
    owned = [record for record in databases if record.owner_name in passwords]
    return [
        connection_details(
            site, at, database_name=record.name, role_name=record.owner_name, password=passwords[record.owner_name]
        )
        for at in endpoints
        if at.type == "read_write"
        for record in owned
    ]


def snapshot(record: model.Snapshot) -> shapes.Snapshot:
    return shapes.Snapshot(
        id=record.id,
        name=record.name,
        created_at=_text(record.created_at),
        lsn=record.lsn,
        timestamp=record.timestamp and _text(record.timestamp),
        source_branch_id=record.source_branch_id,
        expires_at=record.expires_at and _text(record.expires_at),
        manual=record.manual,
        full_size=record.full_size,
    )


def backup_slot(record: model.BackupSlot) -> shapes.BackupScheduleItem:
    return shapes.BackupScheduleItem(
        frequency=record.frequency,
        hour=record.hour,
        day=record.day,
        month=record.month,
        retention_seconds=record.retention_seconds,
    )


def api_key_item(account: Account, record: model.ApiKey) -> shapes.ApiKeyItem:
    return shapes.ApiKeyItem(
        id=record.id,
        name=record.name,
        created_at=record.created_at,
        created_by=shapes.ApiKeyCreator(id=str(account.id), name=account.name, image=""),
        last_used_at=record.last_used_at,
        last_used_from_addr="",
        project_id=record.project_id,
    )


def api_key_created(account: Account, made: model.CreatedKey) -> shapes.ApiKeyCreated:
    return shapes.ApiKeyCreated(
        id=made.key.id,
        key=made.clear,
        name=made.key.name,
        created_at=made.key.created_at,
        created_by=str(account.id),
        project_id=made.key.project_id,
    )


def api_key_revoked(account: Account, record: model.ApiKey) -> shapes.ApiKeyRevoked:
    return shapes.ApiKeyRevoked(
        id=record.id,
        name=record.name,
        created_at=record.created_at,
        created_by=str(account.id),
        last_used_at=record.last_used_at,
        last_used_from_addr="",
        revoked=record.revoked_at is not None,
        project_id=record.project_id,
    )


def organization(site: Site) -> shapes.Organization:
    record = site.organization
    return shapes.Organization(
        id=record.id,
        name=record.name,
        handle=record.handle,
        plan=PLAN,
        created_at=record.created_at,
        updated_at=record.created_at,
        managed_by="console",
    )


def member(site: Site) -> shapes.Member:
    """The one there is: whoever runs the cell."""
    return shapes.Member(
        id=str(site.organization.member_id),
        user_id=str(site.account.id),
        org_id=site.organization.id,
        role="admin",
        joined_at=site.organization.created_at,
    )


def members(site: Site) -> list[shapes.MemberWithUser]:
    return [shapes.MemberWithUser(member=member(site), user=shapes.MemberUserInfo(email=site.account.email))]


def current_user(site: Site, now: datetime) -> shapes.CurrentUser:
    """Complete, though most of it means nothing here: the published clients read every field."""
    account = site.account
    return shapes.CurrentUser(
        id=str(account.id),
        active_seconds_limit=0,
        auth_accounts=[],
        email=account.email,
        image="",
        login=account.name,
        name=account.name,
        last_name="",
        projects_limit=UNLIMITED,
        branches_limit=UNLIMITED,
        max_autoscaling_limit=site.cu_max,
        plan=PLAN,
        billing_account=shapes.BillingAccount(
            state="active",
            payment_source=shapes.PaymentSource(type="none"),
            subscription_type=SUBSCRIPTION,
            payment_method="none",
            quota_reset_at_last=period_of(now)[0],
            name=account.name,
            email=account.email,
            address_city="",
            address_country="",
            address_line1="",
            address_line2="",
            address_postal_code="",
            address_state="",
        ),
    )


def regions(site: Site) -> list[shapes.Region]:
    return [shapes.Region(region_id=site.region_id, name=site.region_name, default=True, geo_lat="", geo_long="")]


def _owner(account: Account) -> shapes.ProjectOwner:
    return shapes.ProjectOwner(
        email=account.email, name=account.name, branches_limit=UNLIMITED, subscription_type=SUBSCRIPTION
    )


def _default_endpoint_settings(record: model.Project) -> shapes.DefaultEndpointSettings | None:
    stored = record.default_endpoint_settings
    return shapes.DefaultEndpointSettings.model_validate(stored) if stored else None


def _quota_status(record: model.Project, usage: model.Usage) -> list[shapes.QuotaStatus] | None:
    """How far each quota is used up; None for a project without quotas."""
    amounts = Amounts(
        active_seconds=usage.active_time_seconds,
        compute_seconds=usage.compute_time_seconds,
        written_bytes=usage.written_data_bytes,
        sent_bytes=usage.data_transfer_bytes,
    )
    spent = spent_of(record.settings, amounts, usage.largest_branch_bytes)
    return [
        shapes.QuotaStatus(quota=one.name, used=int(one.used), limit=one.limit, level=one.level) for one in spent
    ] or None


def _size_limit(record: model.Project) -> int:
    """Bytes that a branch of the project may hold; 0 is no limit, as in the contract's quotas."""
    quota = shapes.ProjectSettings.model_validate(record.settings).quota
    return (quota and quota.logical_size_bytes) or 0


def _ttl(record: model.Branch) -> int | None:
    if record.expires_at is None:
        return None
    return max(0, round((record.expires_at - record.created_at).total_seconds()))


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
