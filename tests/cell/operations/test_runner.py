"""Operations that are written down at a bad moment, take long, or come to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.model import DatabaseCreate, ProjectCreate, RoleCreate
from tenantry.cell.operations import runner as runner_module
from tenantry.cell.storage.layout import Layout
from tenantry.errors import Defect, Unavailable

LOOKED_SECONDS_MAX = 20.0


async def test_what_is_written_down_while_the_last_look_ends_is_carried_out(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, may_end, poked = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        read, poke = bare.context.state.read, bare.runner.poke

        async def slow(query: Callable[[Any], Any]) -> Any:
            found = await read(query)
            if found == [] and not looked.is_set():
                looked.set()
                async with asyncio.timeout(LOOKED_SECONDS_MAX):
                    await may_end.wait()
            return found

        def spied(project_id: Any) -> Any:
            if looked.is_set():
                poked.set()
            return poke(project_id)

        monkeypatch.setattr(bare.context.state, "read", slow)
        monkeypatch.setattr(bare.runner, "poke", spied)
        async with asyncio.timeout(LOOKED_SECONDS_MAX):
            first = asyncio.create_task(bare.cell.suspend_endpoint(created.project.id, created.endpoint.id))
            await looked.wait()  # the first is done, and nothing else was found
            second = asyncio.create_task(bare.cell.suspend_endpoint(created.project.id, created.endpoint.id))
            await poked.wait()
            may_end.set()
            for changed in await asyncio.gather(first, second):
                assert [operation.status for operation in changed.operations] == ["finished"]


async def test_what_takes_longer_than_anybody_waits_is_no_defect(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        project, branch = created.project.id, created.branch.id
        monkeypatch.setattr(runner_module, "WAIT_SECONDS_MAX", 0.0)
        with pytest.raises(Unavailable, match="role 'app'"):
            await bare.cell.create_role(project, branch, RoleCreate(name="app"))
        await bare.runner.poke(project)
        with pytest.raises(Unavailable, match="database 'appdb'"):
            await bare.cell.create_database(project, branch, DatabaseCreate(name="appdb", owner_name="app"))
        await bare.runner.poke(project)
        assert (await bare.cell.get_database(project, branch, "appdb")).owner_name == "app"


async def test_an_endpoint_that_could_not_be_deleted_wakes_as_before(
    workdir: Path, open_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no way")

    async with open_cell(workdir) as bare:
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        with monkeypatch.context() as broken:
            broken.setattr(Layout, "remove_traces", fail)
            with pytest.raises(Defect, match="no way"):
                await bare.cell.delete_endpoint(created.project.id, created.endpoint.id)
        await bare.context.instances.lease(created.endpoint.id, "test")
        await bare.cell.delete_endpoint(created.project.id, created.endpoint.id)
