"""A head stays on its build until it sleeps cleanly, and then moves to a newer one of its major."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import psycopg

from tenantry.cell.model import BuildId, ProjectCreate


async def test_a_head_moves_at_a_clean_sleep_and_not_before(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        engines, instances = bare.context.engines, bare.context.instances
        created = await bare.cell.create_project(ProjectCreate(name="ACME"))
        old = await engines.for_major(18)
        # The same files under another name stand for a package that was upgraded.
        newer = dataclasses.replace(old, build_id=f"{old.build_id}-newer")
        engines._installed[BuildId(newer.build_id)] = newer
        await bare.cell.start_endpoint(created.project.id, created.endpoint.id)
        engines._chosen[18] = newer

        async def build() -> str:
            heads = await bare.context.state.read(lambda t: t.heads(created.project.id))
            return heads[0].build_id

        assert await build() == old.build_id, "nothing moves under a living postmaster"
        await instances.suspend(created.endpoint.id, insist=True)
        assert await build() == newer.build_id
        lease = await instances.lease(created.endpoint.id, "test")
        async with await psycopg.AsyncConnection.connect(
            host=str(Path(lease.socket_path).parent), user="neondb_owner", dbname="neondb",
            password=created.roles[0].password, autocommit=True,
        ) as connection:  # fmt: skip
            assert await (await connection.execute("select 1")).fetchone() == (1,)


async def test_a_build_that_lacks_an_extension_is_no_successor(workdir: Path, open_cell: Any) -> None:
    async with open_cell(workdir) as bare:
        engines = bare.context.engines
        old = await engines.for_major(18)
        poorer = dataclasses.replace(old, build_id="poorer", extensions=old.extensions[1:])
        older = dataclasses.replace(old, build_id="older", version="18.0")
        for other in (poorer, older):
            engines._chosen[18] = other
            assert engines.successor(BuildId(old.build_id)) is None
