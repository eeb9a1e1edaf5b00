"""A worker: takes batches from the queue and works on them, looks for what nobody works on, begins passes that are due.

It lives in sessions. A session has one fleet and one registration in the queue, and ends when it is told to stop, when
the catalog was away for too long, or when the others have given this worker up; the next session asks again where the
fleet is. What a session has in hand ends before it does, within bounds.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

import psycopg_pool
import structlog
from procrastinate.exceptions import ConnectorException
from sqlalchemy import Connection

from tenantry.errors import NotFound, OperatorError, TenantryError, Unavailable
from tenantry.fleet.catalog import jobs as rows
from tenantry.fleet.catalog.catalog import CONNECTIONS_MAX
from tenantry.fleet.catalog.jobs import QUEUE_PASSES, JobId
from tenantry.fleet.jobs.batch import CATALOG_SECONDS_MAX, BatchWork, Orders
from tenantry.fleet.jobs.desk import DESK_CONNECTIONS, Desk
from tenantry.fleet.jobs.jobs import queues_of
from tenantry.fleet.jobs.kinds import Kind, Pass
from tenantry.fleet.jobs.queue import LISTEN_CONNECTIONS, POOL_CONNECTIONS, Connector, forward_logs, make_worker
from tenantry.fleet.jobs.schedule import is_due
from tenantry.fleet.jobs.waiting import in_thread, within
from tenantry.runtime.tasks import Tasks

CONCURRENCY_DEFAULT: Final = 4
CONCURRENCY_MAX: Final = 64
BATCHES_MAX: Final = 3
"""Batches in hand: while one waits for its last item, the next has begun, and a pass need not wait for either. Never
more than items at a time: what could not be begun is better claimed by somebody else."""
OFFER_AGAIN_SECONDS: Final = 1.0
"""Before batches that are meant for other workers are offered again; it doubles, since there may be no other."""
STRAYS_MAX: Final = 8
"""Threads that took too long before a worker gives itself up: only its end frees them."""
AGAIN_SECONDS: Final = 1.0
AGAIN_SECONDS_MAX: Final = 30.0
"""Between two sessions; it doubles up to this, and a session that worked for this long starts it anew."""
CATALOG_CONNECTIONS_MAX: Final = CONNECTIONS_MAX + DESK_CONNECTIONS + POOL_CONNECTIONS + LISTEN_CONNECTIONS
"""What one worker may hold of the catalog's connections, whatever its concurrency."""

_log: Final = structlog.get_logger("jobs")


def offer_after(times: int, look_seconds: float) -> float | None:
    """The pause before batches that were offered so often are offered again. None: the next look does it. Pure."""
    pause = OFFER_AGAIN_SECONDS * 2**times
    return pause if pause < look_seconds else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """What a session works with. ``close`` is called once, at its end."""

    catalog_url: str
    kinds: Sequence[Kind]
    passes: Sequence[Pass]
    close: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    concurrency: int = CONCURRENCY_DEFAULT
    """Items at a time."""
    heartbeat_seconds: float = 10.0
    stalled_seconds: float = 45.0
    """A worker that was silent for so long loses its batches to others."""
    look_seconds: float = 10.0
    """How often a worker looks for what nobody works on, and for passes that are due."""
    poll_seconds: float = 10.0
    """How often it looks into the queue where it was not told."""
    stop_seconds: float = 20.0
    """What items under way may take when the worker is to stop."""
    again_seconds: float = 1.0
    """Before the second attempt at an item that could not be done just now."""


def worker_name() -> str:
    """As operators see it: which machine, which process."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Worker:
    """``run`` once. ``stop`` lets it end, a second ``stop`` at once; both from the event loop only."""

    def __init__(
        self,
        workplace: Callable[[], Workplace],
        *,
        queues: Sequence[str] | None = None,
        bounds: Bounds | None = None,
        name: str | None = None,
    ) -> None:
        """``workplace`` may block. ``queues``: None takes work from all."""
        self._workplace = workplace
        self._queues = list(queues) if queues else None
        self._bounds = bounds or Bounds()
        self._name = name or worker_name()
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    def stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def run(self) -> None:
        """Until it is stopped. A fleet that cannot be reached is waited for.

        Raises what waiting does not mend: a wrong setting, a catalog of another release, too many threads that hang.
        """
        forward_logs()
        pause = AGAIN_SECONDS
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_unheard)
        while not self._stopping.is_set():
            began = loop.time()
            try:
                await self._session()
            except (Unavailable, NotFound) as error:
                _log.warning("the fleet cannot be reached", reason=error.message, next_step=error.next_step)
            except (ConnectorException, psycopg_pool.PoolTimeout) as error:
                _log.warning("the catalog's queue cannot be reached", reason=str(error.__cause__ or error))
            if loop.time() - began > AGAIN_SECONDS_MAX:
                pause = AGAIN_SECONDS
            if await within(self._stopping, pause):
                break
            pause = min(2 * pause, AGAIN_SECONDS_MAX)
        _log.info("the worker has stopped")

    async def _session(self) -> None:
        asking = in_thread(self._workplace, name="workplace")
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([asking, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not asking.done():
            return  # whoever is to stop does not wait for an answer
        place = asking.result()
        with ExitStack() as closing:
            closing.callback(place.close)
            orders = Orders(asyncio.Semaphore(self._bounds.concurrency), again_seconds=self._bounds.again_seconds)
            desk = Desk(place.catalog_url, orders.hurry)
            closing.callback(desk.close)
            session = _Session(place, desk, orders, self._bounds, name=self._name, queues=self._queues)
            await session.run(self._stopping, self._hurry)


class _Session:
    def __init__(
        self,
        place: Workplace,
        desk: Desk,
        orders: Orders,
        bounds: Bounds,
        *,
        name: str,
        queues: Sequence[str] | None,
    ) -> None:
        known = [*place.kinds, *(each.as_kind() for each in place.passes)]
        self._place = place
        self._desk = desk
        self._bounds = bounds
        self._name = name
        self._only = queues
        self._kinds: Mapping[str, Kind] = {kind.name: kind for kind in known}
        self._queues = queues_of(known)
        self._orders = orders
        self._passes = place.passes if queues is None or QUEUE_PASSES in queues else ()
        self._in_hand: dict[tuple[JobId, int], BatchWork] = {}
        self._offered: dict[JobId, int] = {}
        """Jobs of which this worker has a batch in hand, and may not have two: how often it has offered the others."""
        self._tasks = Tasks("worker")
        self._ended = asyncio.Event()
        """The queue has given up, or this worker has."""

    async def run(self, stopping: asyncio.Event, hurry: asyncio.Event) -> None:
        bounds, orders = self._bounds, self._orders
        await self._desk.ask(lambda connection: rows.last_runs(connection, []))  # whether it answers, and is ours
        app, hands = make_worker(
            Connector(self._place.catalog_url, self._ended.set, orders.hurry),
            self._work,
            name=self._name,
            queues=self._only,
            batches=min(BATCHES_MAX, bounds.concurrency),
            heartbeat_seconds=bounds.heartbeat_seconds,
            stalled_seconds=bounds.stalled_seconds,
            poll_seconds=bounds.poll_seconds,
            stop_seconds=bounds.stop_seconds + CATALOG_SECONDS_MAX,
        )
        async with AsyncExitStack() as closing:
            await closing.enter_async_context(app.open_async())
            tasks = self._tasks
            closing.push_async_callback(tasks.stop)
            running = asyncio.ensure_future(hands.run())
            closing.push_async_callback(asyncio.wait, [running])
            closing.callback(hands.stop)
            _log.info("the worker is ready", worker=self._name, queues=self._only or "all", items=bounds.concurrency)
            tasks.start(self._keep(), "keep")
            tasks.start(self._look(), "look")
            ends = [tasks.start(stopping.wait(), "stop"), tasks.start(self._ended.wait(), "end")]
            await asyncio.wait([running, *ends], return_when=asyncio.FIRST_COMPLETED)
            orders.halt.set()
            hands.stop()
            tasks.start(self._hasten(hurry), "hasten")
            await running
        if orders.strays >= STRAYS_MAX:
            raise OperatorError(
                f"{orders.strays} items took longer than they may, and their threads hang",
                next_step="start the worker again, which frees them; `tenantry jobs list` shows what failed",
            )

    async def _hasten(self, hurry: asyncio.Event) -> None:
        await within(hurry, self._bounds.stop_seconds)
        self._orders.hurry.set()

    async def _work(self, job_id: str, number: int) -> None:
        """What an entry of the queue asks for. Returns also where there is nothing to do, or no longer."""
        job = JobId(UUID(job_id))
        if self._orders.halt.is_set():
            return  # nobody has claimed it: the next look puts it back
        if (job, number) in self._in_hand:
            return  # put back as if we were dead, and we are not: should we lose it, the next look puts it back again

        has_part = self._has_part(job)

        def claim(connection: Connection) -> rows.Claim | Literal["for another"] | None:
            kind = rows.kind_of(connection, job)
            if kind is None:
                return None
            if has_part and kind in self._kinds and self._kinds[kind].apart:
                return "for another"
            if kind not in self._kinds:
                _log.warning(
                    "this worker does not know this kind of job: a newer one must do it", kind=kind, job=job_id
                )
                return None
            return rows.claim_batch(
                connection, job, number, worker=self._name, stalled_seconds=self._bounds.stalled_seconds
            )

        claimed = await self._desk.ask(claim, patience_seconds=CATALOG_SECONDS_MAX)
        if claimed is None:
            return
        if claimed == "for another":
            self._offer_later(job)
            return
        kind = self._kinds[claimed.kind]
        if kind.apart and self._has_part(job):  # both were asked for at once
            await self._desk.ask(lambda connection: rows.release_batch(connection, claimed, queues=self._queues))
            return
        batch = BatchWork(claimed, kind, self._desk, self._orders, queues=self._queues)
        self._in_hand[job, number] = batch
        try:
            await batch.run()
        finally:
            # Two entries may be followed at once, and the later claim has then taken this one's place.
            if self._in_hand.get((job, number)) is batch:
                del self._in_hand[job, number]
        if self._offered.pop(job, None) is not None:
            await self._offer(job)  # what nobody else took is for this worker again
        if self._orders.strays >= STRAYS_MAX:
            self._ended.set()

    def _has_part(self, job: JobId) -> bool:
        return any(other == job for other, _ in self._in_hand)

    def _offer_later(self, job: JobId) -> None:
        """Nobody waits for it here: what waits is in a task of its own, one for each job at a time."""
        if job in self._offered:
            return  # they are offered together
        self._offered[job] = 0
        self._tasks.start(self._offer_again(job), "offer")

    async def _offer_again(self, job: JobId) -> None:
        while (times := self._offered.get(job)) is not None:
            pause = offer_after(times, self._bounds.look_seconds)
            if pause is None or await within(self._orders.halt, pause) or job not in self._offered:
                return
            self._offered[job] = times + 1
            await self._offer(job)

    async def _offer(self, job: JobId) -> None:
        """To whoever is free. What does not reach the catalog the next look does."""
        try:
            await self._desk.ask(lambda connection: rows.queue_job(connection, job, queues=self._queues))
        except TenantryError as error:
            _log.debug("could not offer the other parts of a job", job=str(job), reason=str(error))

    async def _keep(self) -> None:
        """Says that this worker lives, and learns what others have claimed."""
        while True:
            await asyncio.sleep(self._bounds.heartbeat_seconds)
            held = dict(self._in_hand)
            if not held:
                continue
            try:
                claims = [batch.claim for batch in held.values()]
                kept = await self._desk.ask(lambda connection, claims=claims: rows.keep_batches(connection, claims))
            except TenantryError as error:
                _log.debug("the catalog did not hear that this worker lives", reason=str(error))
                continue
            except Exception as error:  # noqa: BLE001 - as in a look: who goes on working must go on saying so
                _log.error("the catalog did not hear that this worker lives", exc_info=error)
                continue
            for key, batch in held.items():
                if key not in kept:
                    batch.lose()

    async def _look(self) -> None:
        while True:
            try:
                queued, begun = await self._desk.ask(self._look_once)
                if queued or begun:
                    _log.debug("looked", queued=queued, begun=begun)
            except TenantryError as error:
                _log.debug("could not look for what is left to do", reason=str(error))
            except Exception as error:  # noqa: BLE001 - the boundary of the loop: one look that fails is not the last
                _log.error("could not look for what is left to do", exc_info=error)
            await asyncio.sleep(self._bounds.look_seconds)

    def _look_once(self, connection: Connection) -> tuple[int, list[str]]:
        """Looks at all jobs and passes, takes no input, and can be done by anybody at any time."""
        if not rows.try_look(connection):
            return 0, []
        now, last = rows.last_runs(connection, [each.name for each in self._passes])
        due = [each for each in self._passes if is_due(each.cron, now, last.get(each.name))]
        for each in due:
            kind = self._kinds[each.name]
            rows.add_job(
                connection,
                kind=each.name,
                arguments={},
                created_by="schedule",
                items=[(each.name, {})],
                batch_items=kind.batch_items,
                queue=kind.queue,
            )
        queued = rows.queue_again(connection, queues=self._queues, stalled_seconds=self._bounds.stalled_seconds)
        return queued, [each.name for each in due]


def _unheard(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What nobody awaited: mostly procrastinate's own tasks, whose entries were taken away by somebody else."""
    error = context.get("exception")
    _log.warning(str(context.get("message")), reason=None if error is None else f"{type(error).__name__}: {error}")
