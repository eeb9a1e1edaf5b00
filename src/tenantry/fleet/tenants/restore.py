"""Bring a tenant back to an earlier state, in place: its connection string stays, and its present is kept.

What happened since the chosen point is a branch of the tenant afterwards, under a dated name; restoring from that
branch undoes the restore. A time always means what was seen then, also when the tenant was restored since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from tenantry.errors import Conflict, InvalidInput, NotFound
from tenantry.fleet.catalog import events, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.providers.ports import ProviderOf
from tenantry.fleet.tenants.find import find_ready
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.runtime.failpoints import failpoint

if TYPE_CHECKING:
    from tenantry.neon import shapes
    from tenantry.neon.client import NeonClient

RESTORE_SECONDS_MAX: Final = 600.0
"""How long anybody waits for it; much log takes long to replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoring:
    """What a restore would do, for the operator to look at first."""

    tenant: Tenant
    project_id: ProjectId
    branch_id: BranchId
    branch: str
    """The tenant's default branch, which goes back."""
    source_id: BranchId
    source: str
    """The branch whose state it takes: the one chosen, or that in whose past lies what was seen then."""
    at: datetime | None
    lsn: str | None
    """Both None: the source as it is now."""
    history_from: datetime
    """About where the history begins that is kept."""
    preserved_as: str
    """The name that the present state gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    tenant: Tenant
    branch: str
    preserved_as: str | None
    """None where the provider kept the former state under no name of its own."""
    roles_of_the_past: Sequence[str]
    """Roles whose password is as it was at that point; what a provider does not know it did not carry over."""


def plan_restore(
    catalog: Catalog,
    provider_of: ProviderOf,
    name: str,
    *,
    at: datetime | None = None,
    lsn: str | None = None,
    source: str | None = None,
    now: datetime | None = None,
) -> Restoring:
    """Changes nothing. Raises NotFound, Conflict for an unfinished tenant, InvalidInput without any point.

    Whether the point lies in the history is known only to the provider, which refuses it otherwise.
    """
    if at is not None and lsn is not None:
        raise InvalidInput("a time and a position were given", next_step="give one of them")
    tenant, project_id, _ = find_ready(catalog, name)
    client = provider_of(tenant).api("restore")
    branches = list(client.branches(project_id))
    branch = default_branch(branches, project_id)
    origin = branch if source is None else _named(branches, source, tenant)
    if source is None and at is not None:
        origin = live_at(branch, branches, at)
    if origin.id == branch.id and at is None and lsn is None:
        raise InvalidInput(
            f"{tenant.slug} is to be restored to which state?", next_step="say it with --to TIME, for instance 10:41"
        )
    now = now or datetime.now(UTC)
    project = client.get_project(project_id)
    return Restoring(
        tenant=tenant,
        project_id=project_id,
        branch_id=BranchId(branch.id),
        branch=branch.name,
        source_id=BranchId(origin.id),
        source=origin.name,
        at=at,
        lsn=lsn,
        history_from=max(project.created_at, now - timedelta(seconds=project.history_retention_seconds)),
        preserved_as=dated_name(branch.name, now, {each.name for each in branches}),
    )


def restore_tenant(catalog: Catalog, provider_of: ProviderOf, plan: Restoring) -> Restored:
    """Returns when the tenant is in the chosen state. Its sessions are cut; who connects again finds that state.

    Raises InvalidInput for a point outside of the history; the tenant is as it was then.
    """
    client = provider_of(plan.tenant).api("restore")
    # Before, so that no crash leaves a catalog that believes in migrations which are not there any more.
    forget_schema(catalog, plan.tenant)
    changed = client.restore_branch(
        plan.project_id,
        plan.branch_id,
        source_branch_id=plan.source_id,
        source_timestamp=plan.at,
        source_lsn=plan.lsn,
        preserve_under_name=plan.preserved_as,
    )
    client.wait_for_operations(plan.project_id, changed.operations, deadline_seconds=RESTORE_SECONDS_MAX)
    failpoint("restore_tenant.restored")
    # And after, in case a migration has ended in between.
    forget_schema(
        catalog,
        plan.tenant,
        verb="restore",
        at=None if plan.at is None else plan.at.astimezone(UTC).isoformat(),
        lsn=plan.lsn,
        source=plan.source,
        preserved_as=plan.preserved_as,
    )
    return Restored(
        tenant=plan.tenant,
        branch=plan.branch,
        preserved_as=plan.preserved_as,
        roles_of_the_past=roles_of_the_past(client, plan.project_id, plan.branch_id, changed.roles_of_the_past),
    )


# ------------------------------------------------------------------------------ what restores leave behind


class Dated(Protocol):
    """A branch, as far as its place in time goes."""

    @property
    def name(self) -> str: ...

    @property
    def created_at(self) -> datetime: ...


D = TypeVar("D", bound=Dated)


def live_at(branch: D, branches: Iterable[D], moment: datetime) -> D:
    """The branch in whose past is what ``branch`` showed at the moment: itself, unless it was restored since. Pure.

    A restored branch has only the past of the state that it took. What it showed in between is the past of what was
    preserved.
    """
    kept = [each for each in branches if is_dated(each.name, branch.name) and each.created_at > moment]
    return min(kept, key=lambda each: each.created_at, default=branch)


def dated_name(branch: str, now: datetime, taken: Collection[str]) -> str:
    """``main-until-2026-11-24T10:42:07Z``: one word for a shell, and not taken. Pure."""
    name = f"{_prefix(branch)}{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def is_dated(name: str, branch: str) -> bool:
    """Whether the name is one of ``dated_name`` for this branch."""
    return name.startswith(_prefix(branch))


def _prefix(branch: str) -> str:
    return f"{branch}-until-"


# ------------------------------------------------------------------------------ shared with restore_snapshot


def default_branch(branches: Sequence[shapes.Branch], project_id: ProjectId) -> shapes.Branch:
    """Raises NotFound."""
    found = next((branch for branch in branches if branch.default), None)
    if found is None:
        raise NotFound(f"project {project_id} has no default branch", project_id=project_id)
    return found


def forget_schema(catalog: Catalog, tenant: Tenant, *, verb: str | None = None, **detail: object) -> None:
    """The next migration asks the tenant's own ledger. ``verb`` is what was done to it, for the log of events."""
    with catalog.transaction() as connection:
        queries.forget_schema(connection, tenant.id)
        if verb is not None:
            events.record(connection, verb, tenant, **detail)


def roles_of_the_past(
    client: NeonClient, project_id: ProjectId, branch_id: BranchId, told: Sequence[str] | None
) -> Sequence[str]:
    """The roles of a restored branch whose password was not carried over: as told, where the provider tells it with
    its answer, as cells do; otherwise those whose password it does not know."""
    if told is not None:
        return told
    return [
        role.name
        for role in client.list_roles(project_id, branch_id)
        if not _stored(client, project_id, branch_id, role)
    ]


def _stored(client: NeonClient, project_id: ProjectId, branch_id: BranchId, role: shapes.Role) -> bool:
    try:
        client.reveal_password(project_id, branch_id, role.name)
    except (Conflict, NotFound):
        return False
    return True


def _named(branches: Sequence[shapes.Branch], name: str, tenant: Tenant) -> shapes.Branch:
    found = next((branch for branch in branches if name in (branch.name, branch.id)), None)
    if found is None:
        raise NotFound(
            f"tenant {tenant.slug} has no branch {name!r}",
            next_step=f"see `tenantry branch list --tenant {tenant.slug}`",
            branch=name,
        )
    return found
