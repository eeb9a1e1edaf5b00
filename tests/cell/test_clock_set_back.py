"""The machine's clock is set back: what was committed lies in its future for a while, and stays in reach; nothing is
let go, put to sleep or called too early for it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.loops.retention import collect
from tenantry.cell.model import (
    BranchCreate,
    BranchEndpointCreate,
    BranchRestore,
    ConnectionRequest,
    ProjectCreate,
    SnapshotCreate,
    SnapshotRestore,
)
from tenantry.errors import InvalidInput
from tenantry.runtime.clock import SystemClock


async def test_a_clock_that_is_set_back(open_cell: Any, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind = timedelta(0)

    def now(_: SystemClock) -> datetime:
        return datetime.now(UTC) - behind

    monkeypatch.setattr(SystemClock, "now", now)
    async with open_cell(workdir) as bare:
        cell, instances = bare.cell, bare.context.instances
        created = await cell.create_project(ProjectCreate(name="ACME", history_retention_seconds=3_600))
        project, main = created.project.id, created.branch.id

        async def run(branch: Any, *statements: str) -> list[Any]:
            request = ConnectionRequest(database_name="neondb", role_name="neondb_owner", branch_id=branch)
            found = await cell.connection(project, request)
            lease = await instances.lease(found.endpoint.id, "test")
            try:
                async with await psycopg.AsyncConnection.connect(
                    host=str(Path(lease.socket_path).parent), user="neondb_owner", password=found.password,
                    dbname="neondb", autocommit=True,
                ) as connection:  # fmt: skip
                    rows: list[Any] = []
                    for statement in statements:
                        cursor = await connection.execute(statement.encode())
                        rows = await cursor.fetchall() if cursor.description else []
                    return rows
            finally:
                instances.release(found.endpoint.id, lease.id)

        async def branch(name: str, **how: Any) -> list[Any]:
            request = BranchCreate(name=name, endpoints=(BranchEndpointCreate(),), **how)
            made = (await cell.create_branch(project, request)).branch
            return await run(made.id, "select n from t order by n")

        await run(main, "create table t (n int)", "insert into t values (1)")
        await asyncio.sleep(0.01)
        moment = datetime.now(UTC)
        await asyncio.sleep(0.01)
        await run(main, "insert into t values (2)")
        # To before the project was made, further than its history reaches.
        behind = timedelta(hours=2)
        assert await collect(bare.context, await cell.get_project(project)) == 0
        assert await branch("of now") == [(1,), (2,)]
        assert await branch("of what comes", parent_timestamp=moment) == [(1,)]
        for wrong in (now(SystemClock()), datetime.now(UTC) + timedelta(minutes=1)):
            with pytest.raises(InvalidInput) as caught:
                await branch("of nothing", parent_timestamp=wrong)
            first, last = caught.value.next_step.removeprefix("choose a time between ").split(" and ")
            assert datetime.fromisoformat(first) <= moment <= datetime.fromisoformat(last), (
                "the answer names the window"
            )
        taken = (await cell.create_snapshot(project, main, SnapshotCreate(name="s"))).snapshot
        await run(main, "insert into t values (3)")
        restored = await cell.restore_snapshot(project, taken.id, SnapshotRestore(name="of a snapshot"))
        assert await run(restored.branch.id, "select n from t order by n") == [(1,), (2,)]
        await cell.restore_branch(
            project, main,
            BranchRestore(source_branch_id=main, source_timestamp=moment, preserve_under_name="before"),
        )  # fmt: skip
        assert await run(main, "select n from t order by n") == [(1,)]
        assert await instances.sleep_the_idle() == 0, "idle time is not the clock's"
        assert await collect(bare.context, await cell.get_project(project)) == 0
