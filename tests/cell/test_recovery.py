"""What is deleted is gone for everyone at once, comes back as it was for a while, and then goes for good."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.door import Door
from tenantry.cell.loops.discard import discard_loop
from tenantry.cell.loops.expiry import expiry_loop, schedule_loop
from tenantry.cell.loops.retention import collect
from tenantry.cell.model import (
    BackupSlot,
    BranchChange,
    BranchRestore,
    ConnectionRequest,
    EndpointChange,
    EndpointCreate,
    ProjectChange,
    ProjectCreate,
    RoleCreate,
    SnapshotCreate,
)
from tenantry.cell.operations import purge
from tenantry.cell.operations.spares import Uids
from tenantry.cell.state.state import State
from tenantry.cell.state.tables import Tables
from tenantry.errors import Conflict, Locked, NotFound
from tenantry.runtime.clock import SystemClock


async def listed(one: Any, *, deleted: bool = True) -> list[str]:
    return sorted(b.name for b in await one.cell.list_branches(one.project, deleted=deleted))


async def recoverable(one: Any) -> list[Any]:
    return list(await one.cell.list_projects(after=None, limit=10, search=None, deleted=True))


async def secrets_of(one: Any, branch: Any) -> list[Any]:
    """Everything that a connection string is made of."""
    found = await one.cell.connection(
        one.project, ConnectionRequest(database_name="neondb", role_name="neondb_owner", branch_id=branch)
    )
    roles = await one.cell.list_roles(one.project, branch)
    return [found.endpoint.id, found.password, [(role.name, role.verifier) for role in roles]]


async def login(one: Any, endpoint: Any) -> Any:
    return await Door(one.bare.context, "test").login(endpoint, "neondb_owner", "127.0.0.1")


async def test_a_deleted_project_is_gone_and_comes_back_as_it_was(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        dev = await one.branch("dev")
        await one.cell.create_role(one.project, one.main, RoleCreate(name="app"))
        await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name="kept"))
        before = [await secrets_of(one, branch) for branch in (one.main, dev)]
        held = await one.connect(dev)
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        assert (await login(one, endpoint.id)).verifier

        assert (await one.cell.delete_project(one.project)).deleted_at is not None
        with pytest.raises(Exception, match=r"terminat|closed"):
            await held.execute("select 1")
        assert context.instances.awake() == []
        for refused in (
            one.cell.get_project(one.project),
            one.cell.list_branches(one.project, deleted=True),
            one.cell.get_endpoint(one.project, endpoint.id),
            one.cell.delete_project(one.project),
            one.cell.start_endpoint(one.project, endpoint.id),
            one.cell.recover_branch(one.project, dev),
            context.instances.lease(endpoint.id, "test"),
            one.connect(),
        ):
            with pytest.raises(NotFound):
                await refused
        assert (await login(one, endpoint.id)).verifier is None, "as for an endpoint that never was"
        assert await one.cell.list_projects(after=None, limit=10, search=None, deleted=False) == []
        assert [p.id for p in await recoverable(one)] == [one.project]
        # Its loops leave it alone, and its files and its uid stay its own.
        assert await discard_loop(context)._cycle() is None
        assert await expiry_loop(context, one.bare.runner)._cycle() is None
        assert await context.instances.sleepers() == []
        (project,) = await recoverable(one)
        if os.geteuid() == 0:
            assert await Uids(context).take() != project.uid

        recovered = await one.cell.recover_project(one.project)
        assert sorted(branch.name for branch in recovered.branches) == ["dev", "main"]
        assert recovered.project.deleted_at is None
        assert [await secrets_of(one, branch) for branch in (one.main, dev)] == before
        assert (await one.rows(), await one.rows(dev)) == ([1], [1])
        assert [s.name for s in await one.cell.list_snapshots(one.project)] == ["kept"]
        assert await recoverable(one) == []
        with pytest.raises(Conflict, match="not deleted"):
            await one.cell.recover_project(one.project)


async def test_a_deleted_branch_is_gone_and_comes_back_as_it_was(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        dev = await one.branch("dev", expires_at=datetime.now(UTC) + timedelta(hours=1))
        await one.run("insert into t values (2)", dev)
        before = await secrets_of(one, dev)
        moment = datetime.now(UTC)
        await one.run("insert into t values (3)", dev)
        (endpoint,) = await one.cell.list_endpoints(one.project, dev)
        await one.cell.set_backup_schedule(one.project, dev, [BackupSlot(frequency="hourly")])

        await one.cell.delete_branch(one.project, dev, hard=False)
        assert (await listed(one, deleted=False), await listed(one)) == (["main"], ["dev", "main"])
        for refused in (
            one.cell.get_branch(one.project, dev),
            one.cell.get_endpoint(one.project, endpoint.id),
            one.cell.update_endpoint(one.project, endpoint.id, EndpointChange(name="x")),
            one.cell.create_endpoint(one.project, EndpointCreate(branch_id=dev, type="read_write")),
            one.cell.list_roles(one.project, dev),
            one.cell.create_snapshot(one.project, dev, SnapshotCreate()),
            one.cell.restore_branch(one.project, one.main, BranchRestore(source_branch_id=dev)),
            one.branch("of-the-dead", parent_id=dev),
            context.instances.lease(endpoint.id, "test"),
        ):
            with pytest.raises(NotFound):
                await refused
        assert await one.cell.delete_endpoint(one.project, endpoint.id) is None
        assert (await login(one, endpoint.id)).verifier is None
        assert [e.branch_id for e in await one.cell.list_endpoints(one.project, None)] == [one.main]
        assert await one.cell.delete_branch(one.project, dev, hard=False) is None
        assert await schedule_loop(context, one.bare.runner)._cycle() is None

        # Another branch may have the name meanwhile; who comes back does not take it away again.
        other = await one.branch("dev")
        with pytest.raises(Conflict, match="dev"):
            await one.cell.recover_branch(one.project, dev)
        await one.cell.update_branch(one.project, other, BranchChange(name="other"))
        recovered = await one.cell.recover_branch(one.project, dev)
        assert [e.id for e in recovered.endpoints] == [endpoint.id]
        assert recovered.branch.expires_at is None
        assert await secrets_of(one, dev) == before
        assert await one.rows(dev) == [1, 2, 3]
        assert await one.rows(await one.branch("past", parent_id=dev, parent_timestamp=moment)) == [1, 2]
        with pytest.raises(Conflict, match="not deleted"):
            await one.cell.recover_branch(one.project, dev)
        with pytest.raises(NotFound):
            await one.cell.recover_branch(one.project, "br-never-was-a1b2c3d4")


async def test_what_a_deleted_branch_needs_of_others_stays(tenant: Any) -> None:
    """Its parent may be restored and lose its history meanwhile, and the window passes over it."""
    async with tenant() as one:
        context = one.bare.context
        dev = await one.branch("dev")
        leaf = await one.branch("leaf", parent_id=dev)
        await one.run("insert into t values (2)", leaf)
        await one.cell.delete_branch(one.project, leaf, hard=False)
        await one.run("insert into t values (3)", dev)
        await one.cell.restore_branch(
            one.project, dev, BranchRestore(source_branch_id=one.main, preserve_under_name="dev-old")
        )
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=0))
        await collect(context, await one.cell.get_project(one.project))
        await discard_loop(context)._cycle()
        old = {b.name: b.id for b in await one.cell.list_branches(one.project, deleted=False)}["dev-old"]
        assert (await one.cell.delete_branch(one.project, old, hard=False)) is not None
        with pytest.raises(Conflict, match="parent"):
            await one.cell.recover_branch(one.project, leaf)
        await one.cell.delete_branch(one.project, old, hard=True)
        await discard_loop(context)._cycle()
        await collect(context, await one.cell.get_project(one.project))
        recovered = await one.cell.recover_branch(one.project, leaf)
        assert recovered.branch.parent_id is None
        assert await one.rows(leaf) == [1, 2]
        # From what it is now another can be made, though nothing of before is kept.
        assert await one.rows(await one.branch("of-leaf", parent_id=leaf)) == [1, 2]


async def test_after_its_time_it_goes_for_good(tenant: Any, workdir: Any, open_cell: Any) -> None:
    async with tenant() as one:
        dev = await one.branch("dev")
        await one.run("select 1", dev)
        await one.cell.delete_branch(one.project, dev, hard=False)
        other = await one.cell.create_project(ProjectCreate(name="Other"))
        await one.cell.delete_project(other.project.id)
    # The same data with another grace period: what has been deleted for longer goes at once.
    async with open_cell(workdir, recover_seconds=0) as bare:
        one.bare, one.cell = bare, bare.cell
        with pytest.raises(NotFound):
            await one.cell.recover_branch(one.project, dev)
        with pytest.raises(NotFound):
            await one.cell.recover_project(other.project.id)
        assert (await listed(one), await recoverable(one)) == (["main"], [])
        assert bare.context.layout.project(other.project.id).exists()
        await discard_loop(bare.context)._cycle()
        assert not bare.context.layout.project(other.project.id).exists()
        (head,) = await bare.context.state.read(lambda t: t.heads(one.project))
        directory = bare.context.layout.project(one.project)
        assert [path.name for path in directory.iterdir()] == [head.id]
        assert await bare.context.state.read(lambda t: t.branch(dev)) is None
        assert await one.rows() == [1]


async def test_a_hard_deletion_waits_for_nothing(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        at_once, later = await one.branch("at-once"), await one.branch("later")
        await one.cell.delete_branch(one.project, at_once, hard=True)
        await one.cell.delete_branch(one.project, later, hard=False)
        assert await listed(one) == ["later", "main"]
        await one.cell.delete_branch(one.project, later, hard=True)
        assert await listed(one) == ["main"]
        assert await one.cell.delete_branch(one.project, later, hard=True) is None
        await one.cell.delete_project(one.project)
        await one.cell.delete_project(one.project, hard=True)
        with pytest.raises(NotFound):
            await one.cell.delete_project(one.project, hard=True)
        assert await recoverable(one) == []
        await discard_loop(context)._cycle()
        assert not context.layout.project(one.project).exists()


async def test_the_earliest_go_when_there_are_too_many(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tenant() as one:
        monkeypatch.setattr(purge, "RECOVERABLE_BRANCHES_MAX", 2)
        for name in "abc":
            await one.cell.delete_branch(one.project, await one.branch(name), hard=False)
        assert await purge.purge(one.bare.context) == 1
        assert await listed(one) == ["b", "c", "main"]


async def test_who_is_at_work_in_a_branch_that_was_recovered_just_before_its_purge_stays(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed_, may_go_on = asyncio.Event(), asyncio.Event()
    read = State.read

    async def slow(state: State, query: Any) -> Any:
        found = await read(state, query)
        if query.__qualname__.startswith("purge.") and not listed_.is_set():
            listed_.set()
            await may_go_on.wait()
        return found

    async with tenant() as one, asyncio.timeout(60):
        dev = await one.branch("dev")
        await one.cell.delete_branch(one.project, dev, hard=False)
        monkeypatch.setattr(purge, "RECOVERABLE_BRANCHES_MAX", 0)
        monkeypatch.setattr(State, "read", slow)
        purging = asyncio.create_task(purge.purge(one.bare.context))
        await listed_.wait()
        await one.cell.recover_branch(one.project, dev)
        async with await one.connect(dev) as session:
            may_go_on.set()
            assert await purging == 0
            await session.execute("insert into t values (2)")
        assert await one.rows(dev) == [1, 2]


async def test_nothing_is_purged_or_recovered_under_a_change(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch that is being made may be reading exactly what would go."""
    async with tenant() as one:
        context = one.bare.context
        await one.cell.delete_branch(one.project, await one.branch("dev"), hard=False)
        monkeypatch.setattr(purge, "RECOVERABLE_BRANCHES_MAX", 0)
        (branch,) = [b for b in await one.cell.list_branches(one.project, deleted=True) if b.deleted_at]
        running = (await context.state.read(lambda t: t.operations(one.project)))[0]
        running = type(running)(**{f: getattr(running, f) for f in running.__slots__} | {"status": "running"})
        await context.state.write(lambda t: t.update(running))
        assert await purge.purge(context) == 0
        with pytest.raises(Locked):
            await one.cell.recover_branch(one.project, branch.id)


async def test_an_expired_branch_says_that_it_expired(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with tenant() as one:
        dev = await one.branch("dev", expires_at=datetime.now(UTC) + timedelta(hours=1))
        expire = expiry_loop(one.bare.context, one.bare.runner)._cycle
        assert await expire() is None
        monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + timedelta(hours=1))
        assert await expire() is not None
        (branch,) = [b for b in await one.cell.list_branches(one.project, deleted=True) if b.id == dev]
        assert branch.deletion_method == "ttl"
        await one.cell.recover_branch(one.project, dev)
        assert await expire() is None
        assert await one.rows(dev) == [1]


async def test_a_uid_whose_row_is_written_while_another_is_looked_for_is_not_given_twice(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cell(workdir) as bare, asyncio.timeout(60):
        uids = Uids(replace(bare.context, uids=range(1_000_000, 1_000_003)))
        looked, may_go_on = asyncio.Event(), asyncio.Event()
        first = await uids.take()
        read = State.read

        async def slow(state: State, query: Any) -> Any:
            found = await read(state, query)
            looked.set()
            await may_go_on.wait()
            return found

        monkeypatch.setattr(State, "read", slow)
        taking = asyncio.create_task(uids.take())
        await looked.wait()
        uids.settle(first)
        may_go_on.set()
        assert await taking != first


async def test_a_snapshot_that_goes_while_it_expires_keeps_no_other_from_it(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant() as one:
        soon = datetime.now(UTC) + timedelta(hours=1)
        first, second = [
            (await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name=name, expires_at=soon))).snapshot
            for name in ("first", "second")
        ]
        expired = await one.bare.context.state.read(lambda tables: tables.snapshots_expired(soon))
        assert {each.id for each in expired} == {first.id, second.id}
        await one.cell.delete_snapshot(one.project, expired[0].id)
        monkeypatch.setattr(Tables, "snapshots_expired", lambda *_: expired)
        assert await expiry_loop(one.bare.context, one.bare.runner)._cycle() is not None
        assert await one.cell.list_snapshots(one.project) == []
