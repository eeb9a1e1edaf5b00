"""The life of each instance: asleep, starting, awake, stopping; leases keep it awake.

    asleep --wake--> starting --ready--> awake --no lease for its timeout--> stopping --> asleep
                        \\--failed--> asleep          \\--died--> asleep (and is recovered at once)

All decisions are made on one event loop, so that granting a lease and deciding to stop cannot interleave. Waking
writes nothing durable. Instances survive the control process: a new one adopts them, and holds a lease for the
unknown sessions of each until every front door worker has said what it has.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final, LiteralString

import structlog

from tenantry.cell import metrics
from tenantry.cell.compute import truth
from tenantry.cell.compute.admin import Admin, AdminConnection
from tenantry.cell.compute.copies import Copies
from tenantry.cell.compute.engines import EngineStore
from tenantry.cell.compute.instance import OPERATION, OPERATORS, Instance, Lease, Status
from tenantry.cell.compute.ports import Facts, History, Paths, Records
from tenantry.cell.compute.settings import effective_settings, pg_settings, suspend_seconds
from tenantry.cell.config import CellConfig
from tenantry.cell.consumption import Reading
from tenantry.cell.model import Endpoint
from tenantry.cell.quotas import reads_only
from tenantry.errors import NotFound, TenantryError, Unavailable
from tenantry.neon.ids import EndpointId, HeadId, ProjectId
from tenantry.postgres import postmaster
from tenantry.postgres.control import clean_shutdown
from tenantry.postgres.postmaster import Postmaster
from tenantry.runtime.child import age_seconds, alive, wait_exit
from tenantry.runtime.clock import Clock
from tenantry.runtime.tasks import Tasks

_log = structlog.get_logger("compute")

ADOPTED: Final = "adopted"
"""The lease that stands for sessions of an adopted instance which nobody has named yet."""
RECOVERIES_MAX: Final = 3
"""Starts in a row after unexpected deaths before the instance is left asleep until somebody connects."""
ADMIN_LINGER_SECONDS: Final = 2.0
"""How long the cell's own session outlives the last lease: connecting again soon finds it open."""
_READ_ONLY: Final = "default_transaction_read_only"
WATCH_SECONDS: Final = 3600.0
MEASURES_MAX: Final = 4
"""Heads whose files are looked through at the same time."""


class Instances:
    """All instances of the cell."""

    def __init__(
        self,
        *,
        config: CellConfig,
        paths: Paths,
        records: Records,
        history: History,
        engines: EngineStore,
        admin: Admin,
        clock: Clock,
        root: bool,
    ) -> None:
        self._config = config
        self._paths = paths
        self._records = records
        self._history = history
        self._engines = engines
        self._admin = admin
        self._clock = clock
        self._root = root
        self._starts = asyncio.Semaphore(config.starts_max)
        self._measures = asyncio.Semaphore(MEASURES_MAX)
        self._copies = Copies(paths=paths, records=records, history=history, admin=admin)
        self._tasks = Tasks("compute")
        self._known: dict[EndpointId, Instance] = {}
        self._numbers = itertools.count(1)
        self._closing = False

    # -- looking -----------------------------------------------------------------------------------------

    def _instance(self, endpoint_id: EndpointId) -> Instance:
        instance = self._known.get(endpoint_id)
        if instance is None:
            instance = self._known[endpoint_id] = Instance(endpoint_id)
        return instance

    def status(self, endpoint_id: EndpointId) -> Status:
        instance = self._known.get(endpoint_id)
        return instance.status if instance else "asleep"

    def statuses(self) -> list[Status]:
        """What each known instance does; one that is not known sleeps."""
        return [instance.status for instance in self._known.values()]

    def awake(self) -> list[Instance]:
        """Instances that run now."""
        return [instance for instance in self._known.values() if instance.status == "awake"]

    def overlay(self, endpoint: Endpoint) -> Endpoint:
        """The stored endpoint with what is true this moment."""
        instance = self._known.get(endpoint.id)
        if instance is None or instance.status in ("asleep", "gone"):
            return dataclasses.replace(endpoint, state="idle" if endpoint.state == "active" else endpoint.state)
        return dataclasses.replace(
            endpoint,
            state="active" if instance.status in ("awake", "stopping") else "init",
            started_at=instance.started_at or endpoint.started_at,
            last_active=self._clock.now() if instance.leases else instance.last_active or endpoint.last_active,
        )

    def last_active(self) -> Iterator[tuple[Facts, datetime]]:
        """Of all that ran since this control process began: when somebody was last there. What is stored says so only
        once they sleep."""
        now = self._clock.now()
        for instance in self._known.values():
            if instance.facts is not None and instance.last_active is not None:
                yield instance.facts, now if instance.leases else instance.last_active

    # -- waking ------------------------------------------------------------------------------------------

    async def lease(self, endpoint_id: EndpointId, holder: str, *, operator: bool = False) -> Lease:
        """Wakes the instance if it sleeps and keeps it awake until ``release``.

        Everyone who asks while it starts shares the one start. Raises NotFound, Unavailable (disabled, or the cell
        stops) or StartFailed.
        """
        instance = self._instance(endpoint_id)
        while True:
            if self._closing:
                raise Unavailable("the cell is stopping", client_text="the database is shutting down; try again")
            if instance.status == "gone":
                raise NotFound(f"endpoint {endpoint_id} does not exist")
            if instance.status == "awake" and instance.running is not None:
                # In the id, because a later control process hears no more of it than that.
                mark = OPERATORS if operator else ""
                lease = Lease(f"{holder}/{next(self._numbers)}{mark}", str(instance.running.socket_path))
                instance.leases[lease.id] = holder
                instance.stale = True
                return lease
            await self._started(instance)

    async def _started(self, instance: Instance) -> None:
        if instance.starting is None:
            instance.starting = self._tasks.start(self._start(instance), f"start {instance.endpoint_id}")
            instance.starting.add_done_callback(lambda _: setattr(instance, "starting", None))
        await asyncio.shield(instance.starting)

    async def _start(self, instance: Instance) -> None:
        async with instance.lock:
            if instance.status in ("awake", "gone"):
                return
            facts = await self._records.facts(instance.endpoint_id)
            if facts is None:
                self._known.pop(instance.endpoint_id, None)
                raise NotFound(f"endpoint {instance.endpoint_id} does not exist")
            if not facts.head.made:
                raise Unavailable(
                    f"branch {facts.branch.id} is still being made",
                    client_text="the branch is still being created; try again",
                )
            if facts.endpoint.disabled:
                raise Unavailable(
                    f"endpoint {instance.endpoint_id} is disabled",
                    client_text="the endpoint is disabled; enable it through the API",
                )
            instance.status = "starting"
            began = self._clock.monotonic()
            try:
                async with self._starts:
                    await self._start_process(instance, facts)
            except BaseException:
                instance.status = "asleep"
                metrics.wakes.labels("failed").inc()
                raise
            metrics.wakes.labels("awake").inc()
            metrics.wake_seconds.observe(self._clock.monotonic() - began)

    async def _start_process(self, instance: Instance, facts: Facts) -> None:
        engine = self._engines.get(facts.head.build_id)
        data = self._paths.head_data(facts.project.id, facts.head.id)
        clean, begin = await asyncio.to_thread(lambda: (clean_shutdown(data), self._history.log_begin(data)))
        over_size = reads_only(facts.project.settings, facts.branch.logical_size)
        running = await postmaster.start(
            engine,
            data,
            socket_dir=self._paths.socket_dir(instance.endpoint_id),
            settings={
                **effective_settings(facts.endpoint, engine.major),
                **self._history.settings,
                **({_READ_ONLY: "on"} if over_size else {}),
            },
            owner=(facts.project.uid, facts.project.uid) if self._root else None,
            log_path=self._paths.log(instance.endpoint_id),
            timeout_seconds=self._config.start_seconds_max,
        )
        if not await asyncio.to_thread(self._history.guarded, data):
            await self._guard(facts, running)
        self._run(instance, running, facts, stale=not clean, log_begin=begin)
        instance.reads_only = over_size
        if not clean:
            # What was committed just before an unclean stop may be news to us: learn it before anyone asks.
            self._tasks.start(self._copies.look(instance), f"refresh {instance.endpoint_id}")

    async def _guard(self, facts: Facts, running: Postmaster) -> None:
        """Before any client enters a head that has no guard of its log yet."""
        try:
            async with self._admin.session(facts.project.id, running.socket_path.parent) as connection:
                for statement in self._history.guard:
                    await connection.execute(statement)
        except BaseException:
            await postmaster.stop(running, mode="fast", timeout_seconds=self._config.stop_seconds_max)
            raise

    def _run(
        self,
        instance: Instance,
        running: Postmaster,
        facts: Facts,
        *,
        stale: bool,
        log_begin: int | None,
        age_seconds: float = 0.0,
    ) -> None:
        instance.running, instance.facts, instance.status = running, facts, "awake"
        instance.started_at = instance.last_active = self._clock.now()
        instance.idle_since = self._clock.monotonic()
        instance.ready_at = instance.idle_since - age_seconds
        instance.cu, instance.measured = facts.endpoint.max_cu, None
        instance.log_begin, instance.log_end = log_begin, None
        instance.reads_only = None
        instance.stale, instance.copied_at = stale, None
        self._tasks.start(self._watch(instance, running), f"watch {instance.endpoint_id}")

    async def _watch(self, instance: Instance, running: Postmaster) -> None:
        while not await wait_exit(running.identity, WATCH_SECONDS):
            pass
        # Under the lock: whoever stops or starts it meanwhile neither finds it gone, nor has the next one forgotten.
        async with instance.lock:
            if instance.running is not running or instance.status != "awake":
                return
            instance.deaths += 1
            metrics.deaths.inc()
            _log.warning("instance died", endpoint_id=instance.endpoint_id, deaths=instance.deaths)
            try:
                await self.meter([instance])
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody must be led to the dead one
                _log.error(
                    "the last reading of a dead instance is lost", endpoint_id=instance.endpoint_id, error=str(error)
                )
            await self._forget_process(instance)
        if instance.deaths <= RECOVERIES_MAX and not self._closing:
            try:
                await self._started(instance)
            except TenantryError as error:
                _log.error("recovery failed", endpoint_id=instance.endpoint_id, error=str(error))

    async def _forget_process(self, instance: Instance) -> None:
        instance.running, instance.status, instance.stale = None, "asleep", True
        instance.leases.clear()
        await self._copies.close(instance)

    # -- leases ------------------------------------------------------------------------------------------

    def release(self, endpoint_id: EndpointId, lease_id: str) -> None:
        """Gives a lease back; unknown ones are ignored."""
        instance = self._known.get(endpoint_id)
        if instance is None or instance.leases.pop(lease_id, None) is None:
            return
        self._became_idle(instance)

    def _became_idle(self, instance: Instance) -> None:
        instance.last_active = self._clock.now()
        instance.idle_since = self._clock.monotonic()
        instance.deaths = 0

    def restore_lease(self, endpoint_id: EndpointId, lease_id: str, holder: str) -> bool:
        """A worker names a lease of an earlier control process. False when its instance does not run."""
        instance = self._known.get(endpoint_id)
        if instance is None or instance.status != "awake":
            return False
        instance.leases[lease_id] = holder
        instance.stale = True
        return True

    def holder_gone(self, holder: str) -> None:
        """All leases of a dead worker are given back."""
        for instance in self._known.values():
            gone = [lease for lease, owner in instance.leases.items() if owner == holder]
            for lease in gone:
                del instance.leases[lease]
            if gone:
                self._became_idle(instance)

    def settle_adopted(self) -> None:
        """Every worker has registered or is proved dead: the leases that stood for the unknown end."""
        self.holder_gone(ADOPTED)

    # -- sleeping ----------------------------------------------------------------------------------------

    async def suspend(self, endpoint_id: EndpointId, *, insist: bool) -> bool:
        """Puts an instance to sleep; True when it sleeps at the end.

        Without ``insist`` a lease or a busy backend keeps it awake. With it sessions are ended (57P01), as Neon's
        suspend does.
        """
        instance = self._known.get(endpoint_id)
        if instance is None:
            return True
        async with instance.lock:
            return await self._suspend(instance, insist=insist)

    async def _suspend(self, instance: Instance, *, insist: bool) -> bool:
        """``suspend`` for whoever holds the instance's lock."""
        if instance.status != "awake" or instance.running is None:
            return True
        if instance.leases and not insist:
            return False
        instance.status = "stopping"
        try:
            if not insist and await self._copies.busy(instance):
                instance.status = "awake"
                self._became_idle(instance)
                return False
            if not insist or await self._copies.end_sessions(instance):
                await self._copies.look(instance)
            await self._stop_process(instance)
        except BaseException:
            # Stopping failed half-way: what is true is what still runs.
            instance.status = "awake" if self._runs(instance) else "asleep"
            raise
        return True

    @staticmethod
    def _runs(instance: Instance) -> bool:
        return instance.running is not None and alive(instance.running.identity)

    async def _stop_process(self, instance: Instance) -> None:
        running = instance.running
        assert running is not None
        async with self._copies.closed(instance):
            await postmaster.stop(running, mode="fast", timeout_seconds=self._config.stop_seconds_max)
            began = instance.reading(self._clock)
            instance.running, instance.status, instance.stale = None, "asleep", False
        metrics.sleeps.inc()
        instance.leases.clear()
        if instance.facts is not None:
            await self._history.slept(instance.facts)
        await self._records.note_sleep(
            instance.endpoint_id,
            at=self._clock.now(),
            started=instance.started_at,
            last_active=instance.last_active,
            reading=None if began is None else (await self._measured(instance, began))[0],
        )

    async def restart(self, endpoint_id: EndpointId) -> None:
        """Stops (ending sessions) and starts again, so that new settings take hold."""
        await self.suspend(endpoint_id, insist=True)
        lease = await self.lease(endpoint_id, "restart")
        self.release(endpoint_id, lease.id)

    @asynccontextmanager
    async def held(self, endpoint_id: EndpointId) -> AsyncGenerator[Postmaster | None]:
        """Lets nothing start or stop this instance during the block; yields its process, or None where it sleeps.

        For milliseconds only: whoever wants to wake it waits. Sessions go on.
        """
        instance = self._instance(endpoint_id)
        async with instance.lock:
            yield instance.running if self._runs(instance) else None

    @asynccontextmanager
    async def asleep(self, endpoint_ids: list[EndpointId]) -> AsyncGenerator[None]:
        """Keeps these endpoints asleep for the block: their heads may be swapped or read as files.

        Whoever wants to wake one waits. Sessions are ended. Locks are taken in the ids' order.
        """
        async with AsyncExitStack() as taken:
            for endpoint_id in sorted(endpoint_ids):
                instance = self._instance(endpoint_id)
                # Stopped and kept in one hold: clients that come back at once would else start it in between, for ever.
                await taken.enter_async_context(instance.lock)
                await self._suspend(instance, insist=True)
            yield

    async def retire(self, endpoint_id: EndpointId) -> None:
        """Stops the instance for good: whoever asks for it later hears that it does not exist."""
        instance = self._instance(endpoint_id)
        async with instance.lock:
            await self._suspend(instance, insist=True)
            instance.status = "gone"

    def forget(self, endpoint_id: EndpointId) -> None:
        """Drops what is remembered of a deleted endpoint."""
        self._known.pop(endpoint_id, None)

    def forget_retired(self, endpoint_id: EndpointId) -> None:
        """The endpoint is there again: whoever asks for it starts it."""
        if self.status(endpoint_id) == "gone":
            self.forget(endpoint_id)

    # -- the truth of roles and databases ----------------------------------------------------------------

    def doubt(self, endpoint_id: EndpointId) -> Callable[[], bool] | None:
        """As ``Copies.doubt``: blocks, and is asked on a thread."""
        instance = self._known.get(endpoint_id)
        return None if instance is None else self._copies.doubt(instance)

    async def refresh(self, endpoint_id: EndpointId, *, surely: bool = False) -> None:
        """As ``Copies.refresh``; nothing for one that sleeps."""
        instance = self._known.get(endpoint_id)
        if instance is not None:
            await self._copies.refresh(instance, surely=surely)

    @asynccontextmanager
    async def copying(self, endpoint_id: EndpointId) -> AsyncGenerator[None]:
        """For who writes into the copy what it has changed: nothing that was read before is stored after the block."""
        async with self._instance(endpoint_id).admin_lock:
            yield

    @asynccontextmanager
    async def admin(self, endpoint_id: EndpointId, database: str = "postgres") -> AsyncGenerator[AdminConnection]:
        """Wakes the instance and opens a session of the cell's own; for operations, not for the connect path."""
        lease = await self.lease(endpoint_id, OPERATION)
        try:
            facts = self._instance(endpoint_id).facts
            assert facts is not None
            async with self._admin.session(
                facts.project.id, self._paths.socket_dir(endpoint_id), database
            ) as connection:
                yield connection
        finally:
            self.release(endpoint_id, lease.id)

    async def ask(
        self,
        endpoint_id: EndpointId,
        statements: Sequence[LiteralString | tuple[LiteralString, Mapping[str, str]]],
        *,
        head_id: HeadId,
    ) -> bool:
        """Runs statements of the cell's own on an awake instance of this head, without a lease; False when it does not
        answer, or runs another head by now."""
        instance = self._known.get(endpoint_id)
        if instance is None or instance.status != "awake" or instance.facts is None:
            return False
        facts, running = instance.facts, instance.running
        if facts.head.id != head_id:
            return False
        try:
            async with self._admin.session(facts.project.id, self._paths.socket_dir(endpoint_id)) as connection:
                if instance.running is not running:  # another process has taken its socket's place meanwhile
                    return False
                for statement in statements:
                    if isinstance(statement, tuple):
                        await connection.execute(*statement)
                    else:
                        await connection.execute(statement)
        except (Unavailable, truth.QUERY_ERRORS) as error:
            # It may be falling asleep this moment; whoever asks asks again.
            _log.warning("instance did not answer the cell", endpoint_id=endpoint_id, error=str(error))
            return False
        return True

    async def sleepers(self) -> list[Facts]:
        """Every endpoint that sleeps now, on a whole head."""
        everything = await self._records.all_facts()
        return [
            facts
            for facts in everything
            if facts.head.made and not facts.deleted and self.status(facts.endpoint.id) == "asleep"
        ]

    # -- the loops' part ---------------------------------------------------------------------------------

    def readings(self, project_id: ProjectId | None = None) -> list[Reading]:
        """What those that are awake (of one project, or all) have used of time; logs and sizes are not looked at."""
        wanted = (
            instance
            for instance in self.awake()
            if project_id is None or (instance.facts is not None and instance.facts.project.id == project_id)
        )
        return [reading for instance in wanted if (reading := instance.reading(self._clock)) is not None]

    async def _measured(self, instance: Instance, reading: Reading) -> tuple[Reading, object]:
        """The reading with what the head's files say, and the mark of the look at them."""
        assert instance.facts is not None
        async with self._measures:
            after = instance.log_begin if instance.log_end is None else instance.log_end
            found = await asyncio.to_thread(self._history.measure, instance.facts, since=instance.measured, after=after)
        if instance.facts.head.id != reading.head_id:
            return reading, None  # it has another one by now: these files say nothing of what is read
        whole = dataclasses.replace(
            reading,
            log_end=found.log_end,
            logical_bytes=found.logical_bytes,
            history_bytes=found.history_bytes,
        )
        return whole, found.mark

    async def meter(self, instances: Sequence[Instance]) -> None:
        """Reads these and notes it, in one transaction. Harmless at any time, and twice."""
        taken = [(one, reading) for one in instances if (reading := one.reading(self._clock)) is not None]
        found = await asyncio.gather(*(self._measured(instance, reading) for instance, reading in taken))
        if found:
            await self._records.note_readings([reading for reading, _ in found])
        for (instance, _), (reading, mark) in zip(taken, found, strict=True):
            running = instance.running
            if running is not None and (running.identity.pid, running.identity.start_ticks) == (
                reading.pid,
                reading.start_ticks,
            ):
                instance.measured = mark
                instance.log_end = reading.log_end or instance.log_end

    async def sleep_the_idle(self) -> int:
        """Looks at all instances and puts those to sleep that were idle for their timeout. How many it did."""
        slept = 0
        for instance in self.awake():
            idle = self._idle_seconds(instance)
            # Where somebody uses the session, it is not idle, and one that hangs must not keep the others awake.
            if instance.admin is not None and idle > ADMIN_LINGER_SECONDS and not instance.admin_lock.locked():
                await self._copies.close(instance)
            if self._idle_enough(instance):
                async with instance.lock:
                    # Looked at again: somebody may have come and gone while it was waited for.
                    slept += self._idle_enough(instance) and await self._suspend(instance, insist=False)
        return slept

    def _idle_seconds(self, instance: Instance) -> float:
        return 0.0 if instance.leases else self._clock.monotonic() - instance.idle_since

    def _idle_enough(self, instance: Instance) -> bool:
        if instance.status != "awake" or instance.leases or instance.facts is None:
            return False
        timeout = suspend_seconds(instance.facts, self._config)
        return 0 <= timeout <= self._idle_seconds(instance)

    async def read_only(self, endpoint_id: EndpointId, *, on: bool) -> None:
        """Makes transactions of an awake instance read only by default, or as its settings say; from the next one on.

        Until it sleeps. A session that says otherwise writes: else nothing could be deleted.
        """
        instance = self._known.get(endpoint_id)
        if instance is None or instance.reads_only == on:
            return
        async with instance.lock:
            facts, running = instance.facts, instance.running
            if instance.status != "awake" or facts is None or running is None:
                return
            usual = pg_settings(facts.endpoint.settings).get(_READ_ONLY, "off")
            owner = (facts.project.uid, facts.project.uid) if self._root else None
            await asyncio.to_thread(postmaster.override, running, {_READ_ONLY: "on" if on else usual}, owner=owner)
            instance.reads_only = on

    async def settings_changed(self, endpoint_id: EndpointId) -> None:
        """Reads an endpoint's rows again, so that a new timeout holds at once."""
        instance = self._known.get(endpoint_id)
        if instance is None:
            return
        # Under the lock: one that is just being started has read them before, and would set those.
        async with instance.lock:
            facts = await self._records.facts(endpoint_id)
            if instance.facts is not None:
                instance.facts = facts or instance.facts

    # -- the cell's start and stop -----------------------------------------------------------------------

    async def adopt(self) -> int:
        """Finds the postmasters that outlived an earlier control process, and recovers heads that died uncleanly.

        Returns how many instances were adopted. Each holds the lease ``adopted`` until ``settle_adopted``.
        """
        everything = await self._records.all_facts()
        adopted, unclean = await asyncio.to_thread(self._survey, everything)
        for facts, running in adopted:
            instance = self._instance(facts.endpoint.id)
            begin = await asyncio.to_thread(self._history.log_begin, running.data)
            self._run(instance, running, facts, stale=True, log_begin=begin, age_seconds=age_seconds(running.identity))
            instance.leases[f"{ADOPTED}/{facts.endpoint.id}"] = ADOPTED
        for facts in unclean:
            instance = self._instance(facts.endpoint.id)
            self._tasks.start(self._recover(instance), f"recover {facts.endpoint.id}")
        return len(adopted)

    def _survey(self, everything: list[Facts]) -> tuple[list[tuple[Facts, Postmaster]], list[Facts]]:
        adopted: list[tuple[Facts, Postmaster]] = []
        unclean: list[Facts] = []
        for facts in everything:
            if not facts.head.made:
                continue  # what lies there belongs to the operation that makes it, which begins anew
            data = self._paths.head_data(facts.project.id, facts.head.id)
            running = postmaster.adopt(data, self._paths.socket_dir(facts.endpoint.id))
            if running is not None:
                adopted.append((facts, running))
            elif not facts.deleted and not facts.endpoint.disabled and data.exists() and not clean_shutdown(data):
                unclean.append(facts)
        return adopted, unclean

    async def _recover(self, instance: Instance) -> None:
        try:
            await self._started(instance)
        except TenantryError as error:
            _log.error("recovery failed", endpoint_id=instance.endpoint_id, error=str(error))

    async def close(self) -> None:
        """Stops every instance cleanly. Safe twice."""
        self._closing = True
        while busy := [i for i in self._known.values() if i.status in ("awake", "starting", "stopping")]:
            results = await asyncio.gather(
                *(self.suspend(instance.endpoint_id, insist=True) for instance in busy), return_exceptions=True
            )
            for instance, result in zip(busy, results, strict=True):
                if isinstance(result, BaseException):
                    _log.error("instance not stopped", endpoint_id=instance.endpoint_id, error=str(result))
                    instance.status = "gone"
        await self._tasks.stop()
        await self._copies.stop()
