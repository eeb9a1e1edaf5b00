"""A cell without its doors: state, engines, instances and operations, in this process, on real Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.cell.cell import Cell
from tenantry.cell.compute.admin import Admin
from tenantry.cell.compute.engines import EngineStore
from tenantry.cell.compute.instances import Instances
from tenantry.cell.config import CellConfig, uid_range
from tenantry.cell.model import BranchCreate, BranchEndpointCreate, ConnectionRequest, ProjectCreate, Uid
from tenantry.cell.operations.context import Context
from tenantry.cell.operations.history import Keeper
from tenantry.cell.operations.keys import Keys
from tenantry.cell.operations.records import StateRecords
from tenantry.cell.operations.runner import Runner
from tenantry.cell.operations.spares import Newborn
from tenantry.cell.operations.verbs import VERBS
from tenantry.cell.state.state import State
from tenantry.cell.storage.clone import probe
from tenantry.cell.storage.layout import Layout, prepare, run_directory
from tenantry.neon.ids import BranchId, ProjectId
from tenantry.runtime.clock import SystemClock
from tenantry.runtime.sealing import Sealer


@dataclasses.dataclass
class Bare:
    """The parts of one opened cell."""

    context: Context
    cell: Cell
    runner: Runner
    newborn: Newborn


OpenCell = Callable[..., AbstractAsyncContextManager[Bare]]


@pytest.fixture(scope="session")
def shared_engines(new_workdir: Callable[[str], Path], prepare: Callable[[Path], None]) -> Path:
    """Engines and templates for all tests of a worker: the default ones are there."""
    path = new_workdir("eng")
    prepare(path)
    for name in ("engines", "templates"):
        (path / name).chmod(0o755)
    return path


@pytest.fixture
def open_cell(shared_engines: Path) -> OpenCell:
    @asynccontextmanager
    async def opened(data: Path, **settings: Any) -> AsyncGenerator[Bare]:
        root = os.geteuid() == 0
        config = CellConfig(data=data, **settings)
        layout = Layout(data=data, run=run_directory(data, root=root))
        await asyncio.to_thread(prepare, layout, root=root)
        async with contextlib.AsyncExitStack() as stack:
            state = State(layout.database)
            stack.push_async_callback(state.close)
            sealer = Sealer.from_file(layout.key)
            engines = EngineStore(
                shared_engines / "engines", shared_engines / "templates", prefer_source=config.engine_source
            )
            engines.load()
            admin, clock = Admin(sealer), SystemClock()
            keeper = Keeper(
                layout=layout,
                state=state,
                engines=engines,
                clock=clock,
                driver=await asyncio.to_thread(probe, layout.projects),
                root=root,
            )
            instances = Instances(
                config=config,
                paths=layout,
                records=StateRecords(state, clock),
                history=keeper,
                engines=engines,
                admin=admin,
                clock=clock,
                root=root,
            )
            context = Context(
                config=config,
                layout=layout,
                state=state,
                engines=engines,
                instances=instances,
                keeper=keeper,
                admin=admin,
                sealer=sealer,
                clock=clock,
                uids=uid_range(config, Path("/proc/self/uid_map").read_text()) if root else None,
                own_uid=Uid(os.getuid()),
            )
            stack.push_async_callback(instances.close)
            runner = Runner(context, VERBS)
            stack.push_async_callback(runner.stop)
            newborn, keys = Newborn(context), Keys(context)
            await keys.load()
            yield Bare(context, Cell(context, runner, newborn, keys), runner, newborn)

    return opened


@pytest.fixture
def well_into_the_month(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the tests run: what ran in the last hours ran in this month, and what ran in the last minutes, in this
    hour."""
    now = datetime.now(UTC)
    then = (now + timedelta(hours=1)).replace(minute=30)
    while then.day == 1:
        then += timedelta(days=1)
    ahead = then - now
    monkeypatch.setattr(SystemClock, "now", lambda _: datetime.now(UTC) + ahead)


class Tenant:
    """One project and quick ways into its branches."""

    def __init__(self, bare: Any, created: Any) -> None:
        self.bare, self.cell = bare, bare.cell
        self.project: ProjectId = created.project.id
        self.main: BranchId = created.branch.id

    async def connect(self, branch: BranchId | None = None) -> psycopg.AsyncConnection[Any]:
        found = await self.cell.connection(
            self.project, ConnectionRequest(database_name="neondb", role_name="neondb_owner", branch_id=branch)
        )
        lease = await self.bare.context.instances.lease(found.endpoint.id, "test")
        connection = await psycopg.AsyncConnection.connect(
            host=str(Path(lease.socket_path).parent), user="neondb_owner", password=found.password,
            dbname="neondb", autocommit=True,
        )  # fmt: skip
        self.bare.context.instances.release(found.endpoint.id, lease.id)
        return connection

    async def run(self, sql: str, branch: BranchId | None = None) -> list[Any]:
        async with await self.connect(branch) as connection:
            cursor = await connection.execute(sql)  # pyright: ignore
            return await cursor.fetchall() if cursor.description else []

    async def rows(self, branch: BranchId | None = None) -> list[int]:
        return [row[0] for row in await self.run("select n from t order by n", branch)]

    async def sleep(self, branch: BranchId | None = None) -> None:
        for endpoint in await self.cell.list_endpoints(self.project, branch):
            await self.bare.context.instances.suspend(endpoint.id, insist=True)

    async def branch(self, name: str, **how: Any) -> BranchId:
        request = BranchCreate(name=name, endpoints=(BranchEndpointCreate(),), **how)
        return (await self.cell.create_branch(self.project, request)).branch.id


@pytest.fixture
def tenant(workdir: Path, open_cell: Any) -> Any:
    """Opens a cell with one project, whose main branch has a table ``t`` with a row."""

    @asynccontextmanager
    async def opened(**settings: Any) -> Any:
        async with open_cell(workdir, **settings) as bare:
            one = Tenant(bare, await bare.cell.create_project(ProjectCreate(name="ACME")))
            await one.run("create table t (n int); insert into t values (1)")
            yield one

    return opened
