"""Snapshots restored in two steps: looked at first, then put in the place of what there is; and what that leaves."""

from __future__ import annotations

from typing import Any

import pytest

from tenantry.cell.loops.discard import discard_loop
from tenantry.cell.loops.retention import collect
from tenantry.cell.model import (
    BackupSlot,
    BranchChange,
    BranchCreate,
    BranchRestore,
    ConnectionRequest,
    EndpointCreate,
    ProjectChange,
    SnapshotCreate,
    SnapshotRestore,
)
from tenantry.cell.operations.finalize_restore import former_name
from tenantry.errors import Conflict, InvalidInput, NotFound


async def endpoint_of(one: Any, branch: Any) -> Any:
    found = await one.cell.connection(
        one.project, ConnectionRequest(database_name="neondb", role_name="neondb_owner", branch_id=branch)
    )
    return found.endpoint.id


async def test_a_restored_snapshot_takes_its_branchs_place_when_told(tenant: Any) -> None:
    async with tenant() as one:
        child = await one.branch("child")
        taken = (await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name="then"))).snapshot
        await one.run("insert into t values (2)")
        await one.cell.update_branch(one.project, one.main, BranchChange(protected=True))
        await one.cell.set_backup_schedule(one.project, one.main, [BackupSlot(frequency="daily", hour=3)])

        request = SnapshotRestore(name="look", target_branch_id=one.main)
        restored = (await one.cell.restore_snapshot(one.project, taken.id, request)).branch
        assert (restored.restore_status, restored.restored_from, restored.restored_as) == (
            "restored", taken.id, one.main,
        )  # fmt: skip
        assert (await one.rows(restored.id), await one.rows()) == ([1], [1, 2]), "looked at, and nothing has changed"
        preview, production = await endpoint_of(one, restored.id), await endpoint_of(one, one.main)
        # The password changes while the snapshot is looked at; whoever connects as before has today's.
        password = (await one.cell.reset_password(one.project, one.main, "neondb_owner")).password
        held = await one.connect()

        operations = await one.cell.finalize_restore(one.project, restored.id, name=None)
        assert [work.status for work in operations] == ["finished"]
        with pytest.raises(Exception, match=r"terminat|closed"):
            await held.execute("select 1")
        names = {b.name: b for b in await one.cell.list_branches(one.project, deleted=False)}
        assert set(names) == {"main", "main (old)", "child"}
        main, old = names["main"], names["main (old)"]
        assert (main.id, old.id) == (restored.id, one.main)
        assert (main.default, main.protected, main.restore_status) == (True, True, "finalized")
        assert (old.default, old.protected) == (False, False)
        assert names["child"].parent_id == old.id
        assert await endpoint_of(one, None) == production
        assert await endpoint_of(one, old.id) == preview
        assert await one.cell.reveal_password(one.project, main.id, "neondb_owner") == password
        assert (await one.rows(), await one.rows(old.id), await one.rows(child)) == ([1], [1, 2], [1])
        assert await one.cell.backup_schedule(one.project, main.id) == [BackupSlot(frequency="daily", hour=3)]
        assert await one.cell.backup_schedule(one.project, old.id) == []
        with pytest.raises(Conflict, match="no restore to finalize"):
            await one.cell.finalize_restore(one.project, restored.id, name=None)
        # What it replaced may be forgotten, once nothing else needs it.
        await one.cell.delete_branch(one.project, child, hard=True)
        await one.cell.delete_snapshot(one.project, taken.id)
        await one.cell.delete_branch(one.project, old.id, hard=True)
        await discard_loop(one.bare.context)._cycle()
        await one.sleep()
        assert await one.rows() == [1]


async def test_without_any_endpoint_to_look_through_and_with_a_name(tenant: Any) -> None:
    async with tenant() as one:
        taken = (await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name="then"))).snapshot
        await one.run("insert into t values (2)")
        restored = await one.cell.restore_snapshot(one.project, taken.id, SnapshotRestore(name="look"))
        assert restored.branch.restored_as == one.main, "its own branch, where none is named"
        (endpoint,) = restored.endpoints
        await one.cell.delete_endpoint(one.project, endpoint.id)
        await one.cell.reset_password(one.project, one.main, "neondb_owner")
        with pytest.raises(Conflict, match="'look'"):
            await one.cell.finalize_restore(one.project, restored.branch.id, name="look")
        await one.cell.finalize_restore(one.project, restored.branch.id, name="before")
        names = {b.name: b for b in await one.cell.list_branches(one.project, deleted=False)}
        assert set(names) == {"main", "before"}
        assert await one.rows() == [1]
        assert await one.cell.list_endpoints(one.project, names["before"].id) == []
        await one.cell.create_endpoint(one.project, EndpointCreate(branch_id=names["before"].id, type="read_write"))
        assert await one.rows(names["before"].id) == [1, 2]


async def test_what_waits_for_nothing_is_refused(tenant: Any) -> None:
    async with tenant() as one:
        dev = await one.branch("dev")
        with pytest.raises(Conflict, match="no restore to finalize"):
            await one.cell.finalize_restore(one.project, dev, name=None)
        taken = (await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name="then"))).snapshot
        with pytest.raises(NotFound):
            await one.cell.restore_snapshot(
                one.project, taken.id, SnapshotRestore(target_branch_id="br-never-was-a1b2c3d4")
            )
        request = SnapshotRestore(name="look", target_branch_id=dev)
        restored = (await one.cell.restore_snapshot(one.project, taken.id, request)).branch
        await one.cell.delete_branch(one.project, dev, hard=False)
        with pytest.raises(Conflict, match="is gone"):
            await one.cell.finalize_restore(one.project, restored.id, name=None)
        assert await one.rows(restored.id) == [1]


async def test_a_former_state_may_be_forgotten(tenant: Any) -> None:
    """After a restore in place the branch is its own former state's child, and must not hold it for ever."""
    async with tenant() as one:
        lsn = (await one.run("select pg_current_wal_lsn()::text"))[0][0]
        await one.run("insert into t values (2)")
        for name in ("first", "second"):
            await one.cell.restore_branch(
                one.project,
                one.main,
                BranchRestore(source_branch_id=one.main, source_lsn=lsn, preserve_under_name=name),
            )
            await one.run("insert into t values (3)")
        kept = {b.name: b.id for b in await one.cell.list_branches(one.project, deleted=False)}
        leaf = (await one.cell.create_branch(one.project, BranchCreate(name="leaf", parent_id=kept["first"]))).branch
        with pytest.raises(Conflict, match="leaf"):
            await one.cell.delete_branch(one.project, kept["first"], hard=False)
        await one.cell.delete_branch(one.project, leaf.id, hard=False)
        for name in ("first", "second"):
            await one.cell.delete_branch(one.project, kept[name], hard=True)
        assert [b.name for b in await one.cell.list_branches(one.project, deleted=False)] == ["main"]
        main = await one.cell.get_branch(one.project, one.main)
        assert (main.parent_id, await one.rows()) == (None, [1, 3])
        # Its history goes on into what was forgotten, as far as the window reaches, and no further.
        past = await one.branch("past", parent_lsn=lsn)
        assert await one.rows(past) == [1]
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=0))
        await collect(one.bare.context, await one.cell.get_project(one.project))
        await discard_loop(one.bare.context)._cycle()
        with pytest.raises((InvalidInput, NotFound, Conflict)):
            await one.cell.recover_branch(one.project, kept["first"])
        assert await one.rows() == [1, 3]


def test_a_former_state_gets_a_name_that_is_free() -> None:
    taken: list[str] = []
    for _ in range(3):
        taken.append(former_name("main", taken))
    assert taken == ["main (old)", "main (old 2)", "main (old 3)"]
