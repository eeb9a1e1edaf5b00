"""The queue's side of a worker: procrastinate on the catalog, made to live through a catalog that restarts.

What it raises has been tried for OUTAGE_SECONDS_MAX; the worker then ends its session and begins another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, LiteralString, TypeVar

import psycopg
import structlog
from procrastinate import App, PsycopgConnector
from procrastinate.connector import Notify
from procrastinate.exceptions import ConnectorException
from procrastinate.worker import Worker as ProcrastinateWorker
from psycopg import conninfo

from tenantry.fleet.catalog.catalog import CONNECT_SECONDS_MAX
from tenantry.fleet.catalog.jobs import TASK

T = TypeVar("T")

POOL_CONNECTIONS: Final = 1
LISTEN_CONNECTIONS: Final = 1
OUTAGE_SECONDS_MAX: Final = 60.0
CHECKOUT_SECONDS_MAX: Final = 10.0
AGAIN_SECONDS: Final = 0.5
LISTEN_AGAIN_SECONDS: Final = 2.0
"""A worker that cannot listen still looks by itself, only later."""
_POOLER: Final = "-pooler"

_log: Final = structlog.get_logger("jobs")


def direct(dsn: str) -> str:
    """The same database without a pooler in between, which would neither LISTEN nor keep a setting. Pure."""
    fields = conninfo.conninfo_to_dict(dsn)
    for name in ("host", "options"):
        value = fields.get(name)
        if isinstance(value, str):
            fields[name] = _without_pooler(value)
    return conninfo.make_conninfo("", **fields)


def _without_pooler(text: str) -> str:
    """``ep-x-1-pooler.region.example`` and ``endpoint=ep-x-1-pooler``: the first label, and words of options."""
    words = text.split(" ")
    return " ".join(
        f"{label.removesuffix(_POOLER)}{dot}{rest}" if "ep-" in label else word
        for word in words
        for label, dot, rest in [word.partition(".")]
    )


class Connector(PsycopgConnector):
    """procrastinate's own, patient with a catalog that is away for a moment.

    ``on_end`` hears of what it raises; ``impatient`` ends its patience.
    """

    def __init__(self, dsn: str, on_end: Callable[[], None], impatient: asyncio.Event) -> None:
        async def configure(connection: psycopg.AsyncConnection) -> None:
            await connection.execute("SET search_path = procrastinate")
            await connection.commit()

        super().__init__(  # pyright: ignore[reportUnknownMemberType] - its JSON hooks are untyped, and not used
            conninfo=direct(dsn),
            kwargs={"connect_timeout": CONNECT_SECONDS_MAX, "application_name": "tenantry worker"},
            configure=configure,
            min_size=POOL_CONNECTIONS,
            max_size=POOL_CONNECTIONS,
            timeout=CHECKOUT_SECONDS_MAX,
            name="queue",
        )
        self._on_end = on_end
        self._impatient = impatient

    async def execute_query_async(self, query: LiteralString, **arguments: Any) -> None:
        await self._patiently(lambda: super(Connector, self).execute_query_async(query, **arguments))

    async def execute_query_one_async(self, query: LiteralString, **arguments: Any) -> dict[str, Any]:
        return await self._patiently(lambda: super(Connector, self).execute_query_one_async(query, **arguments))

    async def execute_query_all_async(self, query: LiteralString, **arguments: Any) -> list[dict[str, Any]]:
        return await self._patiently(lambda: super(Connector, self).execute_query_all_async(query, **arguments))

    async def listen_notify(self, on_notification: Notify, channels: Iterable[str]) -> None:
        named = list(channels)
        while True:
            try:
                await super().listen_notify(on_notification, named)
            except ConnectorException as error:
                _log.debug("cannot listen for jobs now", reason=_first_line(error))
            await asyncio.sleep(LISTEN_AGAIN_SECONDS)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OUTAGE_SECONDS_MAX
        while True:
            try:
                return await ask()
            except ConnectorException as error:
                patient = loop.time() < deadline and not self._impatient.is_set()
                if not patient or not isinstance(error.__cause__, psycopg.OperationalError):
                    self._on_end()
                    raise
            await asyncio.sleep(AGAIN_SECONDS)


def make_worker(
    connector: Connector,
    work: Callable[[str, int], Awaitable[None]],
    *,
    name: str,
    queues: Sequence[str] | None,
    batches: int,
    heartbeat_seconds: float,
    stalled_seconds: float,
    poll_seconds: float,
    stop_seconds: float,
) -> tuple[App, ProcrastinateWorker]:
    """``work`` is called with each batch that is found in the queue. Open the app before the worker runs."""
    app = App(connector=connector)

    @app.task(name=TASK)
    async def batch(job_id: str, number: int) -> None:  # pyright: ignore[reportUnusedFunction] - the app has it
        await work(job_id, number)

    return app, ProcrastinateWorker(
        app,
        queues=queues,
        name=name,
        concurrency=batches,
        fetch_job_polling_interval=poll_seconds,
        abort_job_polling_interval=ABORTS_POLL_SECONDS,
        shutdown_graceful_timeout=stop_seconds,
        # What stands in our tables is what counts; entries of the queue are of no use once they were followed.
        delete_jobs="always",
        install_signal_handlers=False,
        update_heartbeat_interval=heartbeat_seconds,
        stalled_worker_timeout=stalled_seconds,
    )


ABORTS_POLL_SECONDS: Final = 3600.0
"""Jobs are cancelled through our own tables, never by aborting a task."""


class _Forward(logging.Handler):
    """Hands what a library logs to our log."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        level = "warning" if record.levelno >= logging.WARNING else "debug"
        getattr(_log, level)(
            record.getMessage(), source=record.name, reason=None if error is None else _first_line(error)
        )


def forward_logs() -> None:
    """Once for the process: procrastinate's and the pool's own lines become lines of ours. Safe twice."""
    for name in ("procrastinate", "psycopg.pool"):
        logger = logging.getLogger(name)
        logger.handlers = [_Forward()]
        logger.propagate = False
        logger.setLevel(logging.INFO)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
