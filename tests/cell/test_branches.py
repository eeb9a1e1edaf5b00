"""Branches and time: from the present, from a moment, in place, of branches of branches; on real Postgres."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.loops.retention import collect
from tenantry.cell.model import (
    BackupSlot,
    BranchChange,
    BranchCreate,
    BranchEndpointCreate,
    BranchRestore,
    EndpointCreate,
    ProjectChange,
    ProjectCreate,
    RoleCreate,
    SchemaPoint,
    SnapshotCreate,
    SnapshotRestore,
)
from tenantry.cell.operations.snapshots import latest
from tenantry.cell.storage import bases
from tenantry.errors import Conflict, HistoryGap, InvalidInput, NotFound, NotSupported
from tenantry.neon.ids import BranchId
from tenantry.postgres import postmaster
from tenantry.runtime import files
from tenantry.runtime.clock import SystemClock


async def moment_between() -> datetime:
    """A moment that no commit shares: commits before are earlier, commits after are later."""
    await asyncio.sleep(0.005)
    now = datetime.now(UTC)
    await asyncio.sleep(0.005)
    return now


async def test_a_branch_of_a_running_and_of_a_sleeping_parent(tenant: Any) -> None:
    async with tenant() as one:
        running = await one.branch("of-running")
        await one.run("insert into t values (2)")
        await one.sleep()
        sleeping = await one.branch("of-sleeping")
        await one.run("insert into t values (3)", sleeping)
        assert (await one.rows(), await one.rows(running), await one.rows(sleeping)) == ([1, 2], [1], [1, 2, 3])
        made = await one.cell.get_branch(one.project, sleeping)
        assert made.state == "ready"
        assert made.parent_lsn is not None
        with pytest.raises(Conflict, match="of-running"):
            await one.branch("of-running")


async def test_a_branch_of_a_moment_and_of_a_branch(tenant: Any) -> None:
    async with tenant() as one:
        first = await moment_between()
        await one.run("insert into t values (2)")
        second = await moment_between()
        await one.run("delete from t")
        past = await one.branch("past", parent_timestamp=first)
        assert await one.rows(past) == [1]
        await one.run("insert into t values (10)", past)
        later = await moment_between()
        await one.run("insert into t values (11)", past)
        of_branch = await one.branch("of-branch", parent_id=past, parent_timestamp=later)
        assert await one.rows(of_branch) == [1, 10]
        assert await one.rows(await one.branch("second", parent_timestamp=second)) == [1, 2]
        assert await one.rows() == []


async def test_moments_that_cannot_be(tenant: Any) -> None:
    async with tenant() as one:
        now = datetime.now(UTC)
        for moment in (now + timedelta(hours=1), now - timedelta(days=400)):
            with pytest.raises(InvalidInput):
                await one.branch("x", parent_timestamp=moment)
        with pytest.raises(InvalidInput):
            await one.branch("x", parent_lsn="FFFF/0")
        assert [b.name for b in await one.cell.list_branches(one.project, deleted=False)] == ["main"]


async def test_somebody_drops_the_table_and_it_comes_back(tenant: Any) -> None:
    async with tenant() as one:
        await one.run("create role app login password 'then'; grant select on t to app; create role readers nologin")
        await one.cell.create_role(one.project, one.main, RoleCreate(name="leaver"))
        await one.cell.create_role(one.project, one.main, RoleCreate(name="stayer"))
        before = await moment_between()
        await one.run("drop table t; alter role app password 'now'")
        old = await one.cell.reveal_password(one.project, one.main, "neondb_owner")
        changed = await one.cell.reset_password(one.project, one.main, "neondb_owner")
        assert changed.password != old
        await one.cell.delete_role(one.project, one.main, "leaver")
        restored = await one.cell.restore_branch(
            one.project,
            one.main,
            BranchRestore(source_branch_id=one.main, source_timestamp=before, preserve_under_name="after-the-drop"),
        )
        assert restored.roles_of_the_past == ("app", "leaver")
        assert await one.rows() == [1], "with today's password, through the same connection string"
        names = {b.name: b for b in await one.cell.list_branches(one.project, deleted=False)}
        assert set(names) == {"main", "after-the-drop"}
        assert restored.branch.parent_id == names["after-the-drop"].id
        assert restored.branch.default
        # What was there before the restore is still there, without an endpoint until somebody makes one.
        again = await one.cell.restore_branch(
            one.project,
            one.main,
            BranchRestore(source_branch_id=one.main, source_timestamp=before, preserve_under_name="second"),
        )
        assert again.branch.id == one.main
        assert await one.rows() == [1]


async def test_a_leaked_password_does_not_come_back_where_none_is_stored(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME", store_passwords=False))
        project, branch, (owner,) = created.project.id, created.branch.id, created.roles
        before = await moment_between()
        changed = await bare.cell.reset_password(project, branch, "neondb_owner")
        back = BranchRestore(source_branch_id=branch, source_timestamp=before, preserve_under_name="old")
        restored = await bare.cell.restore_branch(project, branch, back)
        assert restored.roles_of_the_past == ()
        assert await bare.cell.reveal_password(project, branch, "neondb_owner") is None
        copy = await bare.cell.create_branch(project, BranchCreate(parent_timestamp=datetime.now(UTC)))
        assert [role.password for role in copy.roles] == [None]
        lease = await bare.context.instances.lease(created.endpoint.id, "test")
        where = {"host": str(Path(lease.socket_path).parent), "user": "neondb_owner", "dbname": "neondb"}
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await psycopg.AsyncConnection.connect(**where, password=owner.password)
        await (await psycopg.AsyncConnection.connect(**where, password=changed.password)).close()


async def test_reset_to_the_parent(tenant: Any) -> None:
    async with tenant() as one:
        dev = await one.branch("dev")
        await one.run("insert into t values (99)", dev)
        await one.run("insert into t values (2)")
        await one.cell.restore_branch(one.project, dev, BranchRestore(source_branch_id=one.main))
        assert await one.rows(dev) == [1, 2]
        with pytest.raises(InvalidInput, match="preserve_under_name"):
            await one.cell.restore_branch(
                one.project, dev, BranchRestore(source_branch_id=dev, source_timestamp=datetime.now(UTC))
            )


async def test_deleting_and_choosing(tenant: Any) -> None:
    async with tenant() as one:
        dev = await one.branch("dev")
        leaf = await one.branch("leaf", parent_id=dev)
        with pytest.raises(Conflict, match="leaf"):
            await one.cell.delete_branch(one.project, dev, hard=False)
        with pytest.raises(Conflict, match="default"):
            await one.cell.delete_branch(one.project, one.main, hard=False)
        await one.cell.update_branch(one.project, leaf, BranchChange(protected=True, name="kept"))
        with pytest.raises(Conflict, match="protected"):
            await one.cell.delete_branch(one.project, leaf, hard=False)
        await one.cell.update_branch(one.project, leaf, BranchChange(protected=False))
        await one.cell.set_default_branch(one.project, leaf)
        assert await one.rows() == [1], "without a branch the default one is meant"
        await one.cell.set_default_branch(one.project, one.main)
        assert await one.cell.delete_branch(one.project, leaf, hard=False) is not None
        assert await one.cell.delete_branch(one.project, dev, hard=False) is not None
        assert await one.cell.delete_branch(one.project, dev, hard=False) is None
        with pytest.raises(NotFound):
            await one.cell.get_branch(one.project, dev)
        assert await one.rows() == [1]


async def test_a_read_only_endpoint_is_refused_and_nothing_is_made(tenant: Any) -> None:
    """One that only looked like it would give writes to whoever was promised reads."""
    async with tenant() as one:
        readers = (BranchEndpointCreate(type="read_only"),)
        for refused in (
            one.cell.create_endpoint(one.project, EndpointCreate(branch_id=one.main, type="read_only")),
            one.cell.create_branch(one.project, BranchCreate(name="dev", endpoints=readers)),
            one.cell.create_branch(one.project, BranchCreate(name="dev", endpoints=(BranchEndpointCreate(), *readers))),
        ):
            with pytest.raises(NotSupported, match="read-only endpoints are not available") as said:
                await refused
            assert said.value.http_status == 501
            assert "read-write endpoint" in said.value.next_step
        assert [b.name for b in await one.cell.list_branches(one.project, deleted=True)] == ["main"]
        assert [e.type for e in await one.cell.list_endpoints(one.project, None)] == ["read_write"]
        assert await one.rows() == [1], "and nothing is locked"


async def test_schemas_differ_by_what_was_done(tenant: Any) -> None:
    async with tenant() as one:
        dev = await one.branch("dev")
        await one.run("alter table t add column note text", dev)
        point = SchemaPoint(branch_id=dev, database_name="neondb")
        difference = await one.cell.compare_schema(one.project, point, None)
        assert "+    note text" in difference
        same = SchemaPoint(branch_id=one.main, database_name="neondb")
        assert await one.cell.compare_schema(one.project, same, same) == ""


async def test_a_schema_of_the_past_is_looked_at_in_a_copy_that_leaves_nothing(tenant: Any) -> None:
    def point(branch: BranchId, **at: Any) -> SchemaPoint:
        return SchemaPoint(branch_id=branch, database_name="neondb", **at)

    async with tenant() as one:
        await one.run("create database gone")
        before = await moment_between()
        (position,) = (await one.run("select pg_current_wal_insert_lsn()::text"))[0]
        await one.run("alter table t add column note text")
        await one.run("drop database gone")
        for then in (point(one.main, timestamp=before), point(one.main, lsn=position)):
            assert "note text" not in await one.cell.branch_schema(one.project, then)
            assert "+    note text" in await one.cell.compare_schema(one.project, point(one.main), then)
        gone = SchemaPoint(branch_id=one.main, database_name="gone", timestamp=before)
        assert "PostgreSQL database dump" in await one.cell.branch_schema(one.project, gone)
        with pytest.raises(NotFound, match="gone"):
            await one.cell.branch_schema(one.project, SchemaPoint(branch_id=one.main, database_name="gone"))
        with pytest.raises(NotFound, match="never"):
            never = SchemaPoint(branch_id=one.main, database_name="never", timestamp=before)
            await one.cell.branch_schema(one.project, never)
        with pytest.raises(InvalidInput):
            await one.cell.branch_schema(one.project, point(one.main, timestamp=before - timedelta(days=2)))
        bare = (await one.cell.create_branch(one.project, BranchCreate(name="bare", parent_timestamp=before))).branch.id
        assert "note text" not in await one.cell.branch_schema(one.project, point(bare)), "without any endpoint"
        heads = await one.bare.context.state.read(lambda tables: {head.id for head in tables.heads(one.project)})
        directory = one.bare.context.layout.project(one.project)
        assert {path.parent.name for path in directory.glob("*/data")} == heads


async def test_snapshots_hold_a_state_and_give_it_back(tenant: Any) -> None:
    async with tenant() as one:
        taken = await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name="before"))
        with pytest.raises(Conflict, match="before"):
            await one.cell.create_snapshot(one.project, one.main, SnapshotCreate(name="before"))
        await one.run("insert into t values (2)")
        # Not even a retention of nothing takes away what a snapshot holds.
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=0))
        await one.run("insert into t select generate_series(10, 40000); delete from t where n >= 10")
        assert await collect(one.bare.context, await one.cell.get_project(one.project)) >= 0
        fresh = await one.cell.restore_snapshot(one.project, taken.snapshot.id, SnapshotRestore(name="copy"))
        assert await one.rows(fresh.branch.id) == [1]
        assert await one.rows() == [1, 2]
        back = await one.cell.restore_snapshot(one.project, taken.snapshot.id, SnapshotRestore(finalize_restore=True))
        assert back.branch.id == one.main
        assert await one.rows() == [1]
        assert [s.name for s in await one.cell.list_snapshots(one.project)] == ["before"]
        await one.cell.delete_snapshot(one.project, taken.snapshot.id)
        with pytest.raises(NotFound):
            await one.cell.delete_snapshot(one.project, taken.snapshot.id)


async def test_a_window_that_begins_in_missing_log_lets_nothing_go(
    tenant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tenant() as one:
        context = one.bare.context
        moment = await moment_between()
        # One commit at the end of several segments, of which one is lost.
        await one.run("insert into t select generate_series(10, 60000); delete from t where n >= 10")
        await one.sleep()
        heads = await context.state.read(lambda t: {h.id: h for h in t.heads(one.project)})
        (head,) = heads.values()
        wal = context.layout.head(one.project, head.id) / "wal"
        lost = sorted(path.name for path in wal.iterdir() if len(path.name) == 24)[2]
        for path in (*wal.glob(f"{lost}*"), *wal.parent.glob(f"data/pg_wal/{lost}")):
            path.unlink()
        kept = sorted(path.name for path in wal.iterdir())
        monkeypatch.setattr(SystemClock, "now", lambda _: moment + timedelta(hours=1))
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=3_600))
        with pytest.raises(HistoryGap):
            context.keeper.history(await one.cell.get_project(one.project), head.id, heads).at_time(moment)
        assert await collect(context, await one.cell.get_project(one.project)) == 0
        assert sorted(path.name for path in wal.iterdir()) == kept


async def test_history_is_let_go_and_what_is_kept_still_serves(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        await one.run("insert into t select generate_series(10, 60000); delete from t where n >= 10")
        await one.sleep()
        project = await one.cell.get_project(one.project)
        heads = await context.state.read(lambda t: {h.id: h for h in t.heads(one.project)})
        (head,) = heads.values()
        wal = context.layout.head(one.project, head.id) / "wal"
        before = len(list(wal.iterdir()))
        assert before > 6, "several megabytes of log"
        assert await collect(context, project) == 0, "all of it lies in the window"
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=0))
        base = await asyncio.to_thread(
            bases.take_cold_base,
            context.keeper.driver,
            wal.parent,
            build_id=head.build_id,
            last_commit=context.keeper.history(project, head.id, heads).last_commit,
            now=datetime.now(UTC),
        )
        assert base is not None
        assert await collect(context, await one.cell.get_project(one.project)) > 0
        assert len(list(wal.iterdir())) < before
        await one.cell.update_project(one.project, ProjectChange(history_retention_seconds=3600))
        await one.run("insert into t values (2)")
        moment = await moment_between()
        await one.run("insert into t values (3)")
        assert await one.rows(await one.branch("still", parent_timestamp=moment)) == [1, 2]


async def test_a_discarded_head_stays_as_long_as_a_child_needs_its_past(tenant: Any) -> None:
    async with tenant() as one:
        context = one.bare.context
        dev = await one.branch("dev")
        await one.run("insert into t values (5)", dev)
        moment = await moment_between()
        await one.run("insert into t values (6)", dev)
        leaf = await one.branch("leaf", parent_timestamp=moment, parent_id=dev)
        assert await one.rows(leaf) == [1, 5]
        with pytest.raises(Conflict, match="children"):
            await one.cell.restore_branch(one.project, dev, BranchRestore(source_branch_id=one.main))
        await one.cell.restore_branch(
            one.project, dev, BranchRestore(source_branch_id=one.main, preserve_under_name="dev-old")
        )
        assert await one.rows(dev) == [1]
        names = {b.name: b for b in await one.cell.list_branches(one.project, deleted=False)}
        assert names["leaf"].parent_id == names["dev-old"].id
        assert await one.rows(await one.branch("leaf2", parent_id=leaf, parent_timestamp=moment)) == [1, 5]
        await one.cell.delete_branch(one.project, dev, hard=False)
        assert await collect(context, await one.cell.get_project(one.project)) >= 0
        assert await one.rows(leaf) == [1, 5]


@pytest.mark.parametrize(
    ("slot", "now", "expected"),
    [
        (BackupSlot(frequency="hourly"), "2026-11-24T10:41:00", "2026-11-24T10:00:00"),
        (BackupSlot(frequency="daily", hour=3), "2026-11-24T02:59:00", "2026-11-23T03:00:00"),
        (BackupSlot(frequency="weekly", day=1, hour=0), "2026-11-24T10:00:00", "2026-11-23T00:00:00"),
        (BackupSlot(frequency="monthly", day=31, hour=4), "2026-11-24T10:00:00", "2026-10-31T04:00:00"),
        (BackupSlot(frequency="monthly", day=31, hour=4), "2026-03-01T10:00:00", "2026-02-28T04:00:00"),
        (BackupSlot(frequency="yearly", day=24, month=11, hour=9), "2026-11-24T08:00:00", "2025-11-24T09:00:00"),
    ],
)
def test_when_a_schedule_was_last_due(slot: BackupSlot, now: str, expected: str) -> None:
    assert latest(slot, datetime.fromisoformat(now)) == datetime.fromisoformat(expected)


async def test_a_head_is_synced_whole_before_it_is_anybodys(tenant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance that makes it syncs nothing; who reads a row that names it must find what survives a reset."""
    running: dict[str, bool] = {}
    syncfs = files.syncfs

    def watched(path: Path) -> None:
        running[path.name] = bool(postmaster.running_in(path / "data"))
        syncfs(path)

    monkeypatch.setattr(files, "syncfs", watched)
    async with tenant() as one:
        moment = await moment_between()
        await one.run("insert into t values (2)")
        past = await one.branch("past", parent_timestamp=moment)
        to = BranchRestore(source_branch_id=one.main, source_timestamp=moment, preserve_under_name="kept")
        await one.cell.restore_branch(one.project, one.main, to)
        await one.cell.restore_branch(one.project, past, BranchRestore(source_branch_id=one.main))
        for branch in (past, one.main):
            head = (await one.cell.get_branch(one.project, branch)).head_id
            assert running[head] is False, "synced when its last instance had ended"
            assert await one.run("show fsync", branch) == [("on",)], "and from then on as ever"
