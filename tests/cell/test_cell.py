"""The main job without doors: create, wake, sleep, change by API and by SQL, delete; on real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.compute import truth
from tenantry.cell.door import Door
from tenantry.cell.model import (
    ConnectionRequest,
    CreatedProject,
    DatabaseCreate,
    EndpointChange,
    ProjectCreate,
    RoleCreate,
)
from tenantry.errors import Conflict, Locked, NotFound
from tenantry.neon.ids import ProjectId


async def login(
    bare: Any, created: CreatedProject, role: str, password: str, database: str
) -> psycopg.AsyncConnection[Any]:
    lease = await bare.context.instances.lease(created.endpoint.id, "test")
    return await psycopg.AsyncConnection.connect(
        host=str(Path(lease.socket_path).parent), user=role, password=password, dbname=database, autocommit=True
    )


async def test_create_wake_write_sleep_wake(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME Corp"))
        assert created.operations[0].status == "finished"
        (role,) = created.roles
        assert role.password is not None
        async with await login(bare, created, "neondb_owner", role.password, "neondb") as connection:
            await connection.execute("create table t (n int); insert into t values (41)")
            row = await (
                await connection.execute(
                    "select current_user, session_user, (select rolsuper from pg_roles where rolname = current_user)"
                )
            ).fetchone()
            assert row == ("neondb_owner", "neondb_owner", False)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await login(bare, created, "neondb_owner", "wrong", "neondb")
        assert not await bare.context.instances.suspend(created.endpoint.id, insist=False), "a lease keeps it awake"
        assert await bare.context.instances.suspend(created.endpoint.id, insist=True)
        assert (await bare.cell.get_endpoint(created.project.id, created.endpoint.id)).state == "idle"
        async with await login(bare, created, "neondb_owner", role.password, "neondb") as connection:
            assert await (await connection.execute("select n from t")).fetchone() == (41,)


async def test_names_of_ones_own_and_the_uri(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="Pay", role_name="pay", database_name="Payroll db"))
        (role,) = created.roles
        assert role.password is not None
        async with await login(bare, created, "pay", role.password, "Payroll db") as connection:
            assert await (await connection.execute("select current_database()")).fetchone() == ("Payroll db",)
        found = await bare.cell.connection(
            created.project.id, ConnectionRequest(database_name="Payroll db", role_name="pay")
        )
        assert found.password == role.password
        with pytest.raises(NotFound, match="neondb"):
            await bare.cell.connection(created.project.id, ConnectionRequest(database_name="neondb", role_name="pay"))


async def test_a_spare_is_taken_and_the_pool_refilled(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        assert await bare.newborn.fill_pool(2, 18) == 2
        spares = {spare.project_id for spare in await bare.context.state.read(lambda t: t.spares())}
        first, second = await asyncio.gather(
            bare.cell.create_project(ProjectCreate(name="one")), bare.cell.create_project(ProjectCreate(name="two"))
        )
        assert {first.project.id, second.project.id} == spares
        assert await bare.newborn.fill_pool(1, 18) == 1
        async with await login(bare, first, "neondb_owner", first.roles[0].password or "", "neondb") as connection:
            assert await (await connection.execute("select 1")).fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await login(bare, first, "neondb_owner", second.roles[0].password or "", "neondb")


async def test_roles_and_databases_by_api_and_by_sql(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, branch = created.project.id, created.branch.id
        owner = created.roles[0].password or ""
        made = await bare.cell.create_role(project, branch, RoleCreate(name="app"))
        with pytest.raises(Conflict):
            await bare.cell.create_role(project, branch, RoleCreate(name="app"))
        await bare.cell.create_database(project, branch, DatabaseCreate(name="orders", owner_name="app"))
        async with await login(bare, created, "app", made.password or "", "orders") as connection:
            await connection.execute("create table t (n int)")
            # What SQL does is seen by the API at once.
            async with await login(bare, created, "neondb_owner", owner, "neondb") as other:
                await other.execute("create role by_sql login password 'x'")
                await other.execute("create database by_sql")
        assert {r.name for r in await bare.cell.list_roles(project, branch)} == {"app", "by_sql", "neondb_owner"}
        assert {d.name for d in await bare.cell.list_databases(project, branch)} == {"neondb", "orders", "by_sql"}
        assert await bare.cell.reveal_password(project, branch, "by_sql") is None
        assert await bare.cell.reveal_password(project, branch, "app") == made.password
        async with await login(bare, created, "app", made.password or "", "orders") as connection:
            await connection.execute("alter role app password 'changed'")
        assert await bare.cell.reveal_password(project, branch, "app") is None
        again = await bare.cell.reset_password(project, branch, "app")
        async with await login(bare, created, "app", again.password or "", "orders"):
            pass
        with pytest.raises(Conflict, match="orders"):
            await bare.cell.delete_role(project, branch, "app")
        assert await bare.cell.delete_database(project, branch, "orders") is not None
        assert await bare.cell.delete_role(project, branch, "app") is not None
        assert await bare.cell.delete_role(project, branch, "app") is None


HOSTILE = [
    "grant pg_execute_server_program to current_user",
    "grant pg_read_server_files to current_user",
    "grant pg_write_server_files to neon_superuser",
    "alter role current_user superuser",
    "alter role current_user replication",
    "create role evil superuser",
    "create role evil replication",
    "create role evil in role pg_execute_server_program",
    "set role cloud_admin",
    "alter role cloud_admin password 'x'",
    "grant cloud_admin to current_user",
    "copy (select 1) to program 'id'",
    "copy (select 1) to '/tmp/x'",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "alter system set archive_command = 'id'",
    "create extension dblink; select dblink_connect('host=/tmp')",
    "create function f() returns int language c as '/lib/x86_64-linux-gnu/libc.so.6', 'system'",
    "select pg_reload_conf()",
    "select * from pg_create_physical_replication_slot('x')",
]


async def test_hostile_sql_gains_nothing(workdir: Path, open_cell: Any) -> None:
    """Tenant SQL is hostile code: none of these may succeed for the most powerful role that a tenant has."""
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="Mallory"))
        succeeded: list[str] = []
        async with await login(bare, created, "neondb_owner", created.roles[0].password or "", "neondb") as hostile:
            for statement in HOSTILE:
                try:
                    await hostile.execute(statement)
                    succeeded.append(statement)
                except psycopg.Error:
                    continue
        assert succeeded == []


async def test_endpoint_changes_and_restart(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, endpoint, owner = created.project.id, created.endpoint.id, created.roles[0].password or ""
        await bare.cell.start_endpoint(project, endpoint)
        assert (await bare.cell.get_endpoint(project, endpoint)).state == "active"
        await bare.cell.update_endpoint(
            project, endpoint, EndpointChange(max_cu=2, settings={"pg_settings": {"work_mem": "7MB"}})
        )
        async with await login(bare, created, "neondb_owner", owner, "neondb") as connection:
            assert await (await connection.execute("show work_mem")).fetchone() == ("7MB",)
        changed = await bare.cell.restart_endpoint(project, endpoint)
        assert [o.action for o in changed.operations] == ["suspend_compute", "start_compute"]
        await bare.cell.update_endpoint(project, endpoint, EndpointChange(disabled=True))
        assert bare.context.instances.status(endpoint) == "asleep"
        with pytest.raises(Exception, match="disabled"):
            await bare.context.instances.lease(endpoint, "test")


async def test_delete_leaves_nothing(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir, recover_seconds=0) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        await bare.cell.start_endpoint(created.project.id, created.endpoint.id)
        one, two = await asyncio.gather(
            bare.cell.delete_project(created.project.id),
            bare.cell.delete_project(created.project.id),
            return_exceptions=True,
        )
        assert {type(one), type(two)} & {Locked, NotFound}, "the second hears that the first is at it"
        with pytest.raises(NotFound):
            await bare.cell.get_project(created.project.id)
        with pytest.raises(NotFound):
            await bare.context.instances.lease(created.endpoint.id, "test")
        assert await bare.context.state.read(lambda t: t.doomed()) == [f"projects/{created.project.id}"]
        assert await bare.cell.list_projects(after=None, limit=10, search=None, deleted=False) == []
        with pytest.raises(NotFound):
            await bare.cell.delete_project(ProjectId("never-was-1"))


async def test_eight_who_ask_at_once_share_one_start(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        leases = await asyncio.gather(*(bare.context.instances.lease(created.endpoint.id, "w") for _ in range(8)))
        assert len({lease.id for lease in leases}) == 8
        (instance,) = bare.context.instances.awake()
        for lease in leases:
            bare.context.instances.release(created.endpoint.id, lease.id)
        assert not instance.leases
        log = bare.context.layout.log(created.endpoint.id).read_text()
        assert log.count("database system is ready") == 1


def counted_looks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the cell has asked an instance for its roles from now on."""
    looks: list[None] = []
    read = truth.read

    async def counted(connection: Any) -> truth.Truth:
        looks.append(None)
        return await read(connection)

    monkeypatch.setattr(truth, "read", counted)
    return lambda: len(looks)


async def test_roles_are_looked_at_again_only_where_the_log_has_grown(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = counted_looks(monkeypatch)
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, branch = created.project.id, created.branch.id
        owner = created.roles[0].password or ""
        async with await login(bare, created, "neondb_owner", owner, "neondb") as connection:
            for change, known in (("select 1", owner), ("alter role current_user password 'by SQL'", None)):
                await connection.execute(change.encode())
                # What is told is right at once; when the log has come to rest, nobody is asked any more.
                async with asyncio.timeout(30):
                    before = -1
                    while before != looks():
                        before = looks()
                        await connection.execute("select count(*) from pg_class")
                        assert await bare.cell.reveal_password(project, branch, "neondb_owner") == known
                        await asyncio.sleep(0.06)
            # Not in the log yet, perhaps: whoever was refused is looked at surely.
            await connection.execute("set synchronous_commit = off; create role hasty login password 'x'")
            await bare.context.instances.refresh(created.endpoint.id, surely=True)
            assert "hasty" in {role.name for role in await bare.cell.list_roles(project, branch)}
            assert looks() > before


async def test_an_operator_comes_by_what_is_known_and_nobody_is_asked_first(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = counted_looks(monkeypatch)
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, endpoint = created.project.id, created.endpoint.id
        owner = created.roles[0].password or ""
        door = Door(bare.context, "w")
        wanted = [(project, ConnectionRequest(database_name="neondb", role_name="neondb_owner"))]
        token = (await bare.cell.operator_access(project, 60)).token
        async with await login(bare, created, "neondb_owner", owner, "neondb") as connection:
            await connection.execute("alter role current_user password 'by SQL'")
            before = looks()
            (found,) = await bare.cell.known_connections(wanted)
            assert found is not None
            assert found.password == owner, "what was true when it was last looked at"
            old = await door.login(endpoint, "neondb_owner", "127.0.0.1", token)
            assert old.operator
            assert looks() == before
            # Its instance refuses that; then it is looked at, and everybody hears what is true.
            await door.login_failed(endpoint, "neondb_owner", "127.0.0.1")
            assert looks() == before + 1
            (found,) = await bare.cell.known_connections(wanted)
            assert found is not None
            assert found.password is None
            assert (await door.login(endpoint, "neondb_owner", "127.0.0.1", token)).verifier != old.verifier
            # A tenant's own client is told of whatever SQL has changed.
            await connection.execute("create role late login password 'x'")
            assert (await door.login(endpoint, "late", "127.0.0.1")).verifier is not None
        gone = (ProjectId("gone-sun-1"), wanted[0][1])
        other = (project, ConnectionRequest(database_name="nothing", role_name="neondb_owner"))
        assert [each is None for each in await bare.cell.known_connections([gone, *wanted, other])] == [
            True,
            False,
            True,
        ]
