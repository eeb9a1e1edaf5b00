from __future__ import annotations

import asyncio

import httpx
from starlette.applications import Starlette

from tenantry.cell.api.health import Check, Counted, health_routes
from tenantry.errors import Unavailable


async def _fine() -> None:
    pass


async def _broken() -> None:
    raise Unavailable("a secret reason", client_text="no worker takes connections")


async def _hangs() -> None:
    await asyncio.Event().wait()


async def _never() -> Counted:
    raise AssertionError("nobody asked for numbers")


async def ask(path: str, **checks: Check) -> httpx.Response:
    app = Starlette(routes=health_routes(checks, _never))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://cell") as client:
        return await client.get(path)


async def test_a_part_that_fails_or_hangs_is_named_and_its_neighbours_are_not() -> None:
    answer = await ask("/readyz", fine=_fine, door=_broken, state=_hangs)
    assert answer.status_code == 503
    assert answer.json()["problems"] == {
        "door": "no worker takes connections",
        "state": "has not answered for 2 s",
    }


async def test_whoever_is_alive_says_so_whatever_its_parts_do() -> None:
    assert (await ask("/healthz", door=_broken)).status_code == 200
    assert (await ask("/readyz", fine=_fine)).status_code == 200
