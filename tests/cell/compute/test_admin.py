"""The cell's own sessions: what an instance that ends does to whoever uses one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.model import ProjectCreate
from tenantry.errors import Unavailable


async def test_an_instance_that_ends_is_no_defect_of_ours(open_cell: Any, workdir: Path) -> None:
    """Whoever works in it tries again: the error is one that passes."""
    async with open_cell(workdir) as bare:
        endpoint = (await bare.cell.create_project(ProjectCreate(name="ACME"))).endpoint.id
        with pytest.raises(Unavailable, match="let the cell down"):
            async with bare.context.instances.admin(endpoint) as admin:
                (instance,) = bare.context.instances.awake()
                os.kill(instance.running.identity.pid, signal.SIGKILL)
                async with asyncio.timeout(60):
                    while True:
                        await admin.execute("select 1")
