"""A cell without its doors: state, engines, instances and operations, in this process, on real Postgres."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.cell import Cell
from tenantry.cell.compute.admin import Admin
from tenantry.cell.compute.engines import EngineStore
from tenantry.cell.compute.instances import Instances
from tenantry.cell.config import CellConfig, uid_range
from tenantry.cell.model import Uid
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
def shared_engines(new_workdir: Callable[[str], Path]) -> Path:
    """Engines and templates, made once for all tests of a worker."""
    path = new_workdir("eng")
    for name in ("engines", "templates"):
        (path / name).mkdir(mode=0o755)
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
