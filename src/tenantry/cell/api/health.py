"""``/healthz``, ``/readyz`` and ``/metrics``: for whoever watches the cell. None of them wakes or creates anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tenantry.cell.metrics import REGISTRY
from tenantry.errors import TenantryError

METRICS_PATH: Final = "/metrics"
CHECK_SECONDS_MAX: Final = 2.0
"""A part that does not answer for so long is not ready."""

Check = Callable[[], Awaitable[None]]
"""Returns when the part answers; raises a TenantryError that says what is wrong."""


class Counted(Protocol):
    """How much there is of everything, as ``operations.numbers`` tells it."""

    @property
    def rows(self) -> Mapping[str, int]: ...
    @property
    def instances(self) -> Mapping[str, int]: ...
    @property
    def disk_free_bytes(self) -> int: ...
    @property
    def disk_total_bytes(self) -> int: ...


def health_routes(checks: Mapping[str, Check], count: Callable[[], Awaitable[Counted]]) -> list[BaseRoute]:
    """The three routes. ``checks`` names the parts that must answer before traffic may come."""

    async def alive(_: Request) -> Response:
        """The control process runs and its loop turns: nothing more is asked, for killing it would not help."""
        return _json(200, {"status": "ok"})

    async def ready(_: Request) -> Response:
        problems = [problem for problem in await asyncio.gather(*map(_problem, checks.items())) if problem is not None]
        if not problems:
            return _json(200, {"status": "ready", "checks": sorted(checks)})
        return _json(503, {"status": "not ready", "problems": dict(problems)})

    async def metrics(_: Request) -> Response:
        once = _Once(await count())
        registry = CollectorRegistry()
        registry.register(once)
        text = await asyncio.to_thread(lambda: generate_latest(REGISTRY) + generate_latest(registry))
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    return [Route("/healthz", alive), Route("/readyz", ready), Route(METRICS_PATH, metrics)]


async def _problem(named: tuple[str, Check]) -> tuple[str, str] | None:
    name, check = named
    try:
        async with asyncio.timeout(CHECK_SECONDS_MAX):
            await check()
    except TimeoutError:
        return name, f"has not answered for {CHECK_SECONDS_MAX:g} s"
    except TenantryError as error:
        return name, error.client_text
    return None


def _json(status: int, document: object) -> Response:
    return Response(json.dumps(document), status, media_type="application/json", headers={"cache-control": "no-store"})


class _Once:
    """A collector of one moment's numbers."""

    def __init__(self, counted: Counted) -> None:
        self._counted = counted

    def collect(self) -> Iterable[GaugeMetricFamily]:
        counted = self._counted
        for name, count in counted.rows.items():
            yield GaugeMetricFamily(f"tenantry_{name}", f"{name.replace('_', ' ').capitalize()} of this cell.", count)
        instances = GaugeMetricFamily("tenantry_instances", "Endpoints by what their instance does.", labels=["status"])
        for status, count in counted.instances.items():
            instances.add_metric([status], count)
        yield instances
        yield GaugeMetricFamily("tenantry_disk_free_bytes", "Free where the data is.", counted.disk_free_bytes)
        yield GaugeMetricFamily("tenantry_disk_total_bytes", "Size of the file system.", counted.disk_total_bytes)
