"""Keys on a real database: whose they are, what they reach, and that both survive a restart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tenantry.cell.model import ProjectCreate
from tenantry.errors import NotFound
from tenantry.neon.ids import ProjectId


async def test_whose_a_key_is_and_what_it_reaches_survives_a_restart(
    open_cell: Any, new_workdir: Callable[[str], Path]
) -> None:
    data = new_workdir("keys") / "d"
    async with open_cell(data) as bare:
        project_id = (await bare.cell.create_project(ProjectCreate(name="ACME"))).project.id
        mine = await bare.cell.create_key("mine", "account")
        everywhere = await bare.cell.create_key("everywhere", "organization")
        acme = await bare.cell.create_key("acme", "organization", project_id)
        revoked = await bare.cell.create_key("revoked", "organization", project_id)
        await bare.cell.revoke_key(revoked.key.id, "organization")
        assert await bare.cell.authenticate(revoked.clear) is None
        with pytest.raises(NotFound, match="never-was"):
            await bare.cell.create_key("x", "organization", ProjectId("never-was-12345678"))

    async with open_cell(data) as bare:
        for made, reach in ((mine, "account"), (everywhere, "organization"), (acme, "project")):
            key = await bare.cell.authenticate(made.clear)
            assert key is not None
            assert (key.name, key.reach) == (made.key.name, reach)
        assert (await bare.cell.authenticate(acme.clear)).project_id == project_id
        assert await bare.cell.authenticate(revoked.clear) is None
        assert [key.name for key in await bare.cell.list_keys("account")] == ["mine"]
        assert [key.name for key in await bare.cell.list_keys("organization")] == ["everywhere", "acme"]
        for key, stranger in ((mine, "organization"), (acme, "account")):
            with pytest.raises(NotFound):
                await bare.cell.revoke_key(key.key.id, stranger)
        await bare.cell.delete_project(project_id, hard=True)
        key = await bare.cell.authenticate(acme.clear)
        assert key is not None, "it is still there to be revoked"
        assert (await bare.cell.revoke_key(acme.key.id, "organization")).revoked_at is not None
