"""The copy of roles and databases, while it is made and somebody changes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.compute import instances as instances_module
from tenantry.cell.compute import truth
from tenantry.cell.compute.instances import Instances
from tenantry.cell.compute.truth import Truth
from tenantry.cell.model import ProjectCreate, RoleCreate, SnapshotCreate, SnapshotRestore
from tenantry.cell.operations import new_head

NOTICED_SECONDS_MAX = 20.0
CONCURRENT_SECONDS = 1.0


@asynccontextmanager
async def _reading(
    bare: Any, project: Any, branch: Any, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[asyncio.Event]:
    """Somebody asks for the roles of an awake instance, and it has answered: until the event it is not heard."""
    answered, may_end = asyncio.Event(), asyncio.Event()
    read = truth.read

    async def slow(connection: Any) -> Truth:
        found = await read(connection)
        if not answered.is_set():
            answered.set()
            async with asyncio.timeout(NOTICED_SECONDS_MAX):
                await may_end.wait()
        return found

    instances = bare.context.instances
    instances.release(endpoint, (await instances.lease(endpoint, "test")).id)
    monkeypatch.setattr(truth, "read", slow)
    asking = asyncio.create_task(bare.cell.list_roles(project, branch))
    async with asyncio.timeout(NOTICED_SECONDS_MAX):
        await answered.wait()
        yield may_end
        may_end.set()
        await asking


async def test_a_role_that_was_made_while_roles_were_read_is_not_forgotten(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, branch = created.project.id, created.branch.id
        async with _reading(bare, project, branch, created.endpoint.id, monkeypatch) as may_end:
            making = asyncio.create_task(bare.cell.create_role(project, branch, RoleCreate(name="late")))
            await asyncio.wait([making], timeout=CONCURRENT_SECONDS)  # it may have to wait for who reads, or not
            may_end.set()
            made = await making
        assert await bare.cell.reveal_password(project, branch, "late") == made.password


async def test_what_sql_changed_while_roles_were_read_is_seen_by_the_next(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, branch, endpoint = created.project.id, created.branch.id, created.endpoint.id
        reading = _reading(bare, project, branch, endpoint, monkeypatch)
        async with reading, bare.context.instances.admin(endpoint) as session:
            await session.execute("create role by_sql")
        roles = await bare.cell.list_roles(project, branch)
        assert "by_sql" in {role.name for role in roles}


async def test_the_session_that_roles_were_read_by_is_closed_when_nobody_is_there(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances_module, "ADMIN_LINGER_SECONDS", 0.0)
    async with open_cell(workdir) as bare:
        instances = bare.context.instances
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        instances.release(created.endpoint.id, (await instances.lease(created.endpoint.id, "test")).id)
        await bare.cell.list_roles(created.project.id, created.branch.id)
        (instance,) = instances.awake()
        assert instance.admin is not None
        await instances.sleep_the_idle()
        assert instance.admin is None and instance.status == "awake"


async def test_a_password_that_moves_while_roles_were_read_is_not_forgotten(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant() as one:
        snapshot = (await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name="then"))).snapshot
        restored = await one.cell.restore_snapshot(one.project, snapshot.id, SnapshotRestore(name="look"))
        branch, (endpoint,) = restored.branch.id, restored.endpoints
        password = (await one.cell.reset_password(one.project, one.main, "neondb_owner")).password
        async with _reading(one.bare, one.project, branch, endpoint.id, monkeypatch) as may_end:
            moving = asyncio.create_task(one.cell.finalize_restore(one.project, branch, name=None))
            await asyncio.wait([moving], timeout=CONCURRENT_SECONDS)
            may_end.set()
            await moving
        assert await one.cell.reveal_password(one.project, branch, "neondb_owner") == password


async def test_a_project_whose_roles_are_read_while_it_is_made_keeps_its_password(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, may_go_on = asyncio.Event(), asyncio.Event()
    admin = Instances.admin

    @asynccontextmanager
    async def slow(*arguments: Any) -> AsyncGenerator[Any]:
        async with admin(*arguments) as session:
            entered.set()
            await may_go_on.wait()
            yield session

    monkeypatch.setattr(Instances, "admin", slow)
    async with open_cell(workdir) as bare, asyncio.timeout(NOTICED_SECONDS_MAX):
        making = asyncio.create_task(bare.cell.create_project(ProjectCreate(name="ACME", role_name="acme")))
        await entered.wait()
        (project,) = await bare.cell.list_projects(after=None, limit=10, search=None, deleted=False)
        (branch,) = await bare.cell.list_branches(project.id, deleted=False)
        await bare.cell.list_roles(project.id, branch.id)
        may_go_on.set()
        created = await making
        assert [role.name for role in await bare.cell.list_roles(project.id, branch.id)] == ["acme"]
        assert await bare.cell.reveal_password(project.id, branch.id, "acme") == created.roles[0].password


async def test_a_role_that_sql_made_just_before_a_branch_was_copied_is_known_there(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant() as one:
        fork_running = new_head.fork.fork_running

        def slow(*arguments: Any, **named: Any) -> Any:
            asyncio.run_coroutine_threadsafe(change(), loop).result(NOTICED_SECONDS_MAX)
            return fork_running(*arguments, **named)

        async def change() -> None:
            for statement in ("alter role neondb_owner password 'by SQL'", "create role late", "drop database side"):
                await session.execute(statement)

        loop = asyncio.get_running_loop()
        await one.run("create database side")
        monkeypatch.setattr(new_head.fork, "fork_running", slow)
        async with await one.connect() as session:
            await session.execute("create role early")
            branch = await one.branch("dev")
        assert one.bare.context.instances.status((await one.cell.list_endpoints(one.project, branch))[0].id) == "asleep"
        parent, child = [
            (
                [(role.name, role.verifier) for role in await one.cell.list_roles(one.project, i)],
                [database.name for database in await one.cell.list_databases(one.project, i)],
            )
            for i in (one.main, branch)
        ]
        assert child == parent
        assert "late" in dict(child[0])
        assert await one.cell.reveal_password(one.project, branch, "neondb_owner") is None
