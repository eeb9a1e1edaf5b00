"""What happens at an instance while it is started, stopped or looked at, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.compute import instances as instances_module
from tenantry.cell.compute import truth
from tenantry.cell.compute.truth import Truth
from tenantry.cell.door import Door
from tenantry.cell.loops import history
from tenantry.cell.model import BranchRestore, EndpointChange, ProjectCreate
from tenantry.cell.operations.history import Keeper
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn, parse_lsn

NOTICED_SECONDS_MAX = 20.0
CONCURRENT_SECONDS = 0.5


class Gate:
    """Somebody is at it from ``reached`` on, until ``opened``; once."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            async with asyncio.timeout(NOTICED_SECONDS_MAX):
                await self.opened.wait()


@pytest.fixture
def slow_truth(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Gate]:
    """From the call on: the next look at roles has been answered, and is not heard until the gate opens."""
    read = truth.read

    def set_up() -> Gate:
        gate = Gate()

        async def slow(connection: Any) -> Truth:
            found = await read(connection)
            await gate.wait()
            return found

        monkeypatch.setattr(truth, "read", slow)
        return gate

    return set_up


@asynccontextmanager
async def beside(work: Any, gate: Gate) -> AsyncGenerator[asyncio.Task[Any]]:
    """Runs ``work`` up to the gate, then the block; then the gate opens."""
    task = asyncio.create_task(work)
    try:
        async with asyncio.timeout(NOTICED_SECONDS_MAX):
            await gate.reached.wait()
        yield task
    finally:
        gate.opened.set()
        await asyncio.wait([task])
    await task


async def test_who_came_and_went_while_it_was_to_be_put_to_sleep_has_not_been_idle(
    workdir: Path, open_cell: Any
) -> None:
    async with open_cell(workdir) as bare:
        instances = bare.context.instances
        endpoint = (await bare.cell.create_project(ProjectCreate(name="ACME"))).endpoint.id
        instances.release(endpoint, (await instances.lease(endpoint, "test")).id)
        (instance,) = instances.awake()
        instance.idle_since -= 1_000_000.0
        async with instances.held(endpoint):
            sleeping = asyncio.create_task(instances.sleep_the_idle())
            await asyncio.wait([sleeping], timeout=CONCURRENT_SECONDS)  # until it waits for us
            instances.release(endpoint, (await instances.lease(endpoint, "test")).id)
        assert await sleeping == 0
        assert instances.status(endpoint) == "awake"
        instance.idle_since -= 1_000_000.0
        assert await instances.sleep_the_idle() == 1, "that it was idle is seen when it was"


async def test_a_password_set_by_sql_lets_in_while_the_instance_goes_to_sleep(
    tenant: Any, slow_truth: Callable[[], Gate]
) -> None:
    async with tenant() as one:
        await one.run("alter role neondb_owner password 'by SQL'")
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        context = one.bare.context
        before = await context.state.read(lambda tables: tables.role(one.main, "neondb_owner").verifier)
        gate = slow_truth()
        async with beside(context.instances.suspend(endpoint.id, insist=False), gate):
            door = Door(context, "w")
            coming = asyncio.create_task(door.login(endpoint.id, "neondb_owner", "127.0.0.1"))
            await asyncio.wait([coming], timeout=CONCURRENT_SECONDS)  # it may have to wait for who looks, or not
        assert (await coming).verifier != before
        assert context.instances.status(endpoint.id) == "asleep"


async def test_what_a_session_commits_before_it_is_ended_is_in_the_copy(
    tenant: Any, slow_truth: Callable[[], Gate]
) -> None:
    async with tenant() as one:
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        async with await one.connect() as session:
            await session.execute("create role early")
            gate = slow_truth()
            committed = False
            async with beside(one.bare.context.instances.suspend(endpoint.id, insist=True), gate):
                with contextlib.suppress(psycopg.OperationalError):
                    await session.execute("create role late")
                    committed = True
        roles = {role.name for role in await one.cell.list_roles(one.project, one.main)}
        assert ("early" in roles, "late" in roles) == (True, committed)


async def test_a_timeout_that_is_changed_while_the_instance_starts_holds(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    start = instances_module.postmaster.start

    async def slow(*arguments: Any, **named: Any) -> Any:
        await gate.wait()
        return await start(*arguments, **named)

    async with open_cell(workdir) as bare:
        instances = bare.context.instances
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, endpoint = created.project.id, created.endpoint.id
        await instances.suspend(endpoint, insist=True)
        monkeypatch.setattr(instances_module.postmaster, "start", slow)
        async with beside(instances.lease(endpoint, "test"), gate):
            change = EndpointChange(suspend_timeout_seconds=-1)
            changing = asyncio.create_task(bare.cell.update_endpoint(project, endpoint, change))
            await asyncio.wait([changing], timeout=CONCURRENT_SECONDS)  # it may have to wait for the start, or not
        await changing
        (instance,) = instances.awake()
        assert instance.facts.endpoint.suspend_timeout_seconds == -1


async def test_the_log_of_a_head_is_not_let_go_by_what_was_kept_of_the_head_before(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot of a restored branch's new head stays where it is while the old head's log is being linked."""
    begun, may_end = threading.Event(), threading.Event()
    link = Keeper.link

    def slow(*arguments: Any) -> Any:
        linked = link(*arguments)
        if not begun.is_set():
            begun.set()
            assert may_end.wait(NOTICED_SECONDS_MAX)
        return linked

    async def slot_at(one: Any, endpoint: Any) -> Lsn:
        async with one.bare.context.instances.admin(endpoint) as admin:
            found = await admin.execute("select restart_lsn::text from pg_replication_slots")
            return parse_lsn((await found.fetchone())[0])

    async with tenant() as one:
        context = one.bare.context
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        (then,) = (await one.run("select pg_current_wal_insert_lsn()::text"))[0]
        async with context.instances.admin(endpoint.id) as admin:
            for n in range(3):  # so that the old head's log ends far behind the new one's
                await admin.execute("select pg_switch_wal()")
                await admin.execute(f"create table public.later{n} ()")  # pyright: ignore
        (instance,) = context.instances.awake()
        advanced: dict[HeadId, Lsn] = {}
        monkeypatch.setattr(Keeper, "link", slow)
        keeping = asyncio.create_task(history._keep(context, instance, advanced))
        assert await asyncio.to_thread(begun.wait, NOTICED_SECONDS_MAX)
        try:
            back = BranchRestore(source_branch_id=one.main, source_lsn=then, preserve_under_name="before")
            await one.cell.restore_branch(one.project, one.main, back)
            await one.run("insert into t values (2)")
            async with context.instances.admin(endpoint.id) as admin:
                await admin.execute("select pg_switch_wal()")
                await admin.execute("create table public.new ()")
            before = await slot_at(one, endpoint.id)
        finally:
            may_end.set()
            await asyncio.wait([keeping])
        await keeping
        assert await slot_at(one, endpoint.id) == before
        assert not advanced, "nobody was told"
        (instance,) = context.instances.awake()
        assert await history._keep(context, instance, advanced) > 0
        assert await slot_at(one, endpoint.id) > before
        assert list(advanced) == [instance.facts.head.id]
