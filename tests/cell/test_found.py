"""What random lives (tests/crash/test_time_machine.py) have found, each in its smallest form."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from tenantry.cell.model import BranchRestore


async def test_a_restore_ends_although_clients_come_back_at_once(tenant: Any) -> None:
    async with tenant() as one:
        (endpoint,) = await one.cell.list_endpoints(one.project, one.main)
        instances = one.bare.context.instances

        async def come_back() -> None:
            while True:
                lease = await instances.lease(endpoint.id, "test")
                while instances.awake():
                    await asyncio.sleep(0.001)
                instances.release(endpoint.id, lease.id)

        clients = [asyncio.create_task(come_back()) for _ in range(2)]
        async with asyncio.timeout(60):
            to = BranchRestore(
                source_branch_id=one.main, source_timestamp=datetime.now(UTC), preserve_under_name="before"
            )
            await one.cell.restore_branch(one.project, one.main, to)
        for client in clients:
            client.cancel()
        await asyncio.wait(clients)
        assert await one.rows() == [1]
