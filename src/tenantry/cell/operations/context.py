"""What every operation works with, and how an operation is written down and waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tenantry.cell.compute.admin import Admin
from tenantry.cell.compute.engines import EngineStore
from tenantry.cell.compute.instances import Instances
from tenantry.cell.config import CellConfig
from tenantry.cell.model import Branch, Endpoint, JsonObject, Operation, OperationAction, Project, Uid
from tenantry.cell.operations.history import Keeper
from tenantry.cell.state.state import State
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage.layout import Layout
from tenantry.errors import Locked, NotFound
from tenantry.neon.ids import BranchId, EndpointId, ProjectId, new_operation_id
from tenantry.runtime.clock import Clock
from tenantry.runtime.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Context:
    config: CellConfig
    layout: Layout
    state: State
    engines: EngineStore
    instances: Instances
    keeper: Keeper
    admin: Admin
    sealer: Sealer
    clock: Clock
    uids: range | None
    """The uids for projects; None when the cell is not root and everything runs as its own user."""
    own_uid: Uid

    def owner(self, uid: Uid) -> tuple[int, int] | None:
        """User and group for a project's files and processes; None leaves them the cell's own."""
        return (uid, uid) if self.uids is not None else None


Step = Callable[[Context, Operation], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Verb:
    """A kind of operation: its steps in order, each harmless when it runs again."""

    name: str
    steps: tuple[Step, ...]
    undo: Step | None = None
    """What removes the traces of an operation that failed for good."""


def operation(
    context: Context,
    verb: Verb,
    action: OperationAction,
    project_id: ProjectId,
    *,
    branch_id: BranchId | None = None,
    endpoint_id: EndpointId | None = None,
    argument: JsonObject | None = None,
) -> Operation:
    """A new operation, not yet written down."""
    now = context.clock.now()
    return Operation(
        id=new_operation_id(),
        project_id=project_id,
        branch_id=branch_id,
        endpoint_id=endpoint_id,
        action=action,
        verb=verb.name,
        argument=argument or {},
        created_at=now,
        updated_at=now,
    )


def living_project(tables: Tables, project_id: ProjectId) -> Project:
    """Raises NotFound for a project that does not exist or is deleted."""
    project = tables.project(project_id)
    if project is None or project.deleted_at is not None:
        raise NotFound(f"project {project_id} does not exist", project_id=project_id)
    return project


def idle_project(tables: Tables, project_id: ProjectId) -> Project:
    """The living project, if no change of it is under way. Raises NotFound, Locked."""
    project = living_project(tables, project_id)
    check_idle(tables, project_id)
    return project


def check_idle(tables: Tables, project_id: ProjectId) -> None:
    """Raises Locked while a change of the project is under way, as Neon answers 423."""
    if tables.operations_unfinished(project_id):
        raise Locked(
            f"project {project_id} already has running operations, scheduling of new ones is prohibited",
            project_id=project_id,
        )


def branch_of(tables: Tables, project_id: ProjectId, branch_id: BranchId) -> Branch:
    """Raises NotFound for a branch that is not the project's, or is deleted."""
    living_project(tables, project_id)
    branch = tables.branch(branch_id)
    if branch is None or branch.project_id != project_id or branch.deleted_at is not None:
        raise NotFound(f"branch {branch_id} does not exist", branch_id=branch_id)
    return branch


def endpoint_of(tables: Tables, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint:
    """Raises NotFound for an endpoint that is not the project's."""
    living_project(tables, project_id)
    endpoint = tables.living_endpoint(endpoint_id)
    if endpoint is None or endpoint.project_id != project_id:
        raise NotFound(f"endpoint {endpoint_id} does not exist", endpoint_id=endpoint_id)
    return endpoint


def read_write_endpoint(tables: Tables, branch: Branch) -> Endpoint | None:
    """The branch's read-write endpoint, if it has one."""
    return next((e for e in tables.endpoints_of_branch(branch.id) if e.type == "read_write"), None)
