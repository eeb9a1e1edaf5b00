"""``/projects/{id}/branches/{id}/roles``: list, get, create, delete, and their passwords."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from tenantry.cell import model
from tenantry.cell.api import presenters
from tenantry.cell.api.bodies import Body, PostgresName, json_body
from tenantry.cell.api.desk import API_PREFIX, AtDesk, BranchIdInPath, NameInPath, ProjectIdInPath, answer, nothing
from tenantry.cell.api.problems import PasswordNotStored
from tenantry.neon import shapes

router = APIRouter(prefix=API_PREFIX + "/projects/{project_id}/branches/{branch_id}/roles")


class _NewRole(Body):
    name: PostgresName
    no_login: bool | None = None


class RoleCreateBody(Body):
    role: _NewRole


@router.get("")
async def list_roles(desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath) -> Response:
    records = await desk.cell.list_roles(project_id, branch_id)
    return answer(shapes.RolesResponse(roles=[presenters.role(record) for record in records]))


@router.post("")
async def create_role(
    desk: AtDesk,
    project_id: ProjectIdInPath,
    branch_id: BranchIdInPath,
    body: Annotated[RoleCreateBody, Depends(json_body(RoleCreateBody))],
) -> Response:
    request = model.RoleCreate(name=body.role.name, no_login=bool(body.role.no_login))
    return _changed(await desk.cell.create_role(project_id, branch_id, request), 201)


# A name may hold a slash, so the paths that say more than a name come first and the plain ones take the rest.


@router.get("/{role_name:path}/reveal_password")
@router.post("/{role_name:path}/reveal_password")  # not of the contract; neon-api asks so
async def reveal_password(
    desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath, role_name: NameInPath
) -> Response:
    password = await desk.cell.reveal_password(project_id, branch_id, role_name)
    if password is None:
        raise PasswordNotStored(
            f"the password of role {role_name} is not stored here, or was changed by SQL since",
            next_step="reset the password to get a new one",
            branch_id=branch_id,
            role=role_name,
        )
    return answer(shapes.RolePassword(password=password))


@router.post("/{role_name:path}/reset_password")
async def reset_password(
    desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath, role_name: NameInPath
) -> Response:
    return _changed(await desk.cell.reset_password(project_id, branch_id, role_name))


@router.get("/{role_name:path}")
async def get_role(
    desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath, role_name: NameInPath
) -> Response:
    record = await desk.cell.get_role(project_id, branch_id, role_name)
    return answer(shapes.RoleResponse(role=presenters.role(record)))


@router.delete("/{role_name:path}")
async def delete_role(
    desk: AtDesk, project_id: ProjectIdInPath, branch_id: BranchIdInPath, role_name: NameInPath
) -> Response:
    changed = await desk.cell.delete_role(project_id, branch_id, role_name)
    return nothing() if changed is None else _changed(changed)


def _changed(changed: model.RoleChanged, status: int = 200) -> Response:
    return answer(
        shapes.RoleOperations(
            role=presenters.role(changed.role, changed.password), operations=presenters.operations(changed.operations)
        ),
        status,
    )
