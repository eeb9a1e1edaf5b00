"""The work on one claimed batch: its items side by side, each begun and finished under the batch's fence.

How it ends is up to what it meets: everything is done; the job was cancelled; another has claimed the batch (all that
is left is forgotten); the worker wants to stop (what is under way ends, the rest is released); or the catalog stays
away, and the batch is left as it is, to be claimed by whoever notices that its worker is silent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DataError

from tenantry.errors import HistoryError, LimitReached, Locked, QuotaExceeded, TenantryError, Unavailable
from tenantry.fleet.catalog import jobs as rows
from tenantry.fleet.catalog.events import acting_for
from tenantry.fleet.catalog.jobs import Claim, Waiting
from tenantry.fleet.jobs.desk import Desk
from tenantry.fleet.jobs.kinds import Item, Kind
from tenantry.fleet.jobs.waiting import in_thread, within
from tenantry.runtime.failpoints import failpoint

T = TypeVar("T")
Outcome = Literal["ended", "released", "lost", "left"]

CATALOG_SECONDS_MAX: Final = 60.0
"""How long a result waits for a catalog that is away."""
AGAIN_SECONDS_MAX: Final = 60.0
"""Between two attempts at an item."""
ERROR_CHARS_MAX: Final = 2_000
RESULT_BYTES_MAX: Final = 64 * 1024

_log: Final = structlog.get_logger("jobs")


@dataclass(slots=True)
class Orders:
    """What a worker's batches share: how many items at a time, and whether to go on."""

    slots: asyncio.Semaphore
    halt: asyncio.Event = field(default_factory=asyncio.Event)
    """Begin nothing more."""
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Wait no longer for what is under way either."""
    strays: int = 0
    """Threads of items that took too long, and may never end."""
    again_seconds: float = 1.0
    """The pause before the second attempt; it doubles."""


def again_after(attempts: int, first_seconds: float) -> float:
    """The pause behind that many attempts. Pure."""
    return min(first_seconds * 2 ** (attempts - 1), AGAIN_SECONDS_MAX)


def worth_another(error: TenantryError) -> bool:
    """Whether the same attempt may succeed a little later. Pure."""
    if isinstance(error, QuotaExceeded | HistoryError):
        return False
    return isinstance(error, Unavailable | Locked | LimitReached)


@dataclass(frozen=True, slots=True)
class _Attempt:
    result: Mapping[str, object] | None = None
    error: str | None = None
    again: bool = False


class BatchWork:
    """One claim of one batch. ``lose`` may be called at any time."""

    def __init__(self, claim: Claim, kind: Kind, desk: Desk, orders: Orders, *, queues: Mapping[str, str]) -> None:
        self.claim = claim
        self._kind = kind
        self._desk = desk
        self._orders = orders
        self._queues = queues
        self._lost = False
        self._cancelled = False
        self._left = False
        """Something of it is not known to have ended: it is not for us to release it."""
        self._log = _log.bind(job=str(claim.job_id), batch=claim.number, kind=claim.kind)

    def lose(self) -> None:
        """Another has claimed the batch."""
        self._lost = True

    async def run(self) -> Outcome:
        """Raises nothing of the catalog's: how it ended is returned, and logged where it is not ``ended``."""
        try:
            outcome = await self._run()
        except (Unavailable, Locked) as error:
            self._log.warning("a batch was left: the catalog is away", reason=str(error))
            return "left"
        if outcome != "ended":
            self._log.info("a batch goes on elsewhere", outcome=outcome)
        return outcome

    async def _run(self) -> Outcome:
        while True:
            waiting = await self._ask(lambda connection: rows.waiting_items(connection, self.claim))
            if not self._cancelled:
                async with asyncio.TaskGroup() as group:
                    for item in waiting:
                        group.create_task(self._item(item), name=f"item {item.subject}")
            if self._lost:
                return "lost"
            if self._left:
                return "left"
            if self._orders.halt.is_set() and not self._cancelled:
                released = await self._ask(
                    lambda connection: rows.release_batch(connection, self.claim, queues=self._queues)
                )
                return "released" if released else "lost"
            ending: Literal["ended", "more", "lost"] = await self._ask(
                lambda connection: rows.finish_batch(connection, self.claim)
            )
            if ending != "more":
                return ending
            self._cancelled = False

    async def _item(self, item: Waiting) -> None:
        try:
            await self._until_recorded(item)
        except (Unavailable, Locked) as error:
            self._left = True
            self._log.warning("an item was left: the catalog is away", subject=item.subject, reason=str(error))

    async def _until_recorded(self, item: Waiting) -> None:
        """Also returns where going on is no use, with the reason noted."""
        while True:
            async with self._orders.slots:
                if self._orders.halt.is_set() or self._lost or self._cancelled or self._left:
                    return
                begun = await self._ask(lambda connection: rows.begin_item(connection, self.claim, item.subject))
                failpoint("job.begun")
                if not begun.held:
                    self._lost = True
                elif begun.cancelled:
                    self._cancelled = True
                if begun.attempts is None:
                    return
                attempt = await self._attempt(item, begun.attempts)
                failpoint("job.worked")
                if attempt is None:
                    self._left = True
                    return
                if not attempt.again or begun.attempts >= self._kind.attempts_max:
                    if not await self._record(item, attempt):
                        self._lost = True
                        self._log.warning("a late result was refused", subject=item.subject)
                    failpoint("job.recorded")
                    return
            self._log.info("an item is tried again", subject=item.subject, reason=attempt.error)
            await within(self._orders.halt, again_after(begun.attempts, self._orders.again_seconds))

    async def _attempt(self, item: Waiting, number: int) -> _Attempt | None:
        """None: the worker is in a hurry, and nobody knows how it ends."""
        if number > self._kind.attempts_max:
            return _Attempt(
                error=f"it was begun {self._kind.attempts_max} times, and its worker died each time;"
                " see the workers' logs, then `tenantry jobs retry`"
            )
        given = Item(subject=item.subject, input=item.input, arguments=self.claim.arguments)
        thread = in_thread(lambda: self._work(given), name=f"{self._kind.name} {item.subject}")
        thread.add_done_callback(_heard)
        hurry = asyncio.ensure_future(self._orders.hurry.wait())
        try:
            await asyncio.wait({thread, hurry}, timeout=self._kind.seconds_max, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
        if thread.done():
            return self._outcome(item, thread)
        if self._orders.hurry.is_set():
            return None
        self._orders.strays += 1
        thread.add_done_callback(self._stray_ended)
        return _Attempt(error=f"it took longer than {self._kind.seconds_max:g} s")

    def _work(self, given: Item) -> Mapping[str, object]:
        """What it does is written down as done for whoever started the job."""
        with acting_for(self.claim.created_by):
            return self._kind.work(given)

    def _outcome(self, item: Waiting, thread: asyncio.Future[Mapping[str, object]]) -> _Attempt:
        try:
            result = thread.result()
            if len(json.dumps(result)) > RESULT_BYTES_MAX:
                return _Attempt(result={"note": f"the result was larger than {RESULT_BYTES_MAX} bytes"})
            return _Attempt(result=result)
        except TenantryError as error:
            return _Attempt(error=str(error), again=worth_another(error))
        except Exception as error:  # noqa: BLE001 - the boundary between items: a defect met at one stops nobody else
            self._log.error("an item failed unexpectedly", subject=item.subject, exc_info=error)
            return _Attempt(error=f"internal error: {type(error).__name__}; the worker's log has the traceback")

    async def _record(self, item: Waiting, attempt: _Attempt) -> bool:
        error = None if attempt.error is None else _storable(attempt.error)
        try:
            return await self._ask(
                lambda connection: rows.finish_item(
                    connection, self.claim, item.subject, result=attempt.result, error=error
                )
            )
        except DataError:
            return await self._ask(
                lambda connection: rows.finish_item(
                    connection, self.claim, item.subject, result=None, error="it was done; its result cannot be stored"
                )
            )

    async def _ask(self, question: Callable[[Connection], T]) -> T:
        return await self._desk.ask(question, patience_seconds=CATALOG_SECONDS_MAX)

    def _stray_ended(self, _: object) -> None:
        self._orders.strays -= 1


def _heard(thread: asyncio.Future[Mapping[str, object]]) -> None:
    """An error that comes when nobody waits any more has been told as the deadline's or the worker's end already."""
    if not thread.cancelled():
        thread.exception()


def _storable(error: str) -> str:
    """As Postgres takes text: no NUL, no half of a character, and not too much."""
    return error[:ERROR_CHARS_MAX].replace("\0", "").encode("utf-8", "replace").decode()
