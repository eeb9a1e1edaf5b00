"""The cell's own session in each instance, and the copy of its roles and databases that is made through it.

The copy is behind as soon as somebody has changed something by SQL: ``doubt`` says whether it may be, ``refresh``
makes it fresh. Must never store what one head said for another: whoever looks has the instance's ``admin_lock``, and a
process ends only under it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final, LiteralString

import structlog

from tenantry.cell.compute import truth
from tenantry.cell.compute.admin import Admin, AdminConnection
from tenantry.cell.compute.instance import Instance
from tenantry.cell.compute.ports import History, Paths, Records
from tenantry.errors import Unavailable
from tenantry.runtime.tasks import Tasks

_log = structlog.get_logger("compute")

REFRESH_SECONDS_MAX: Final = 10.0
SESSIONS_END_SECONDS_MAX: Final = 2.0
"""How long sessions that were told to end are waited for; what has not ended then ends with the instance."""
_END_POLL_SECONDS: Final = 0.005

_BUSY: Final = (
    # Who is idle and has no lease is the front door's: a connection that it keeps for the next client.
    "select count(*) from pg_catalog.pg_stat_activity where backend_type in ('client backend', 'walsender')"
    " and state is distinct from 'idle'"
    " and pid <> pg_catalog.pg_backend_pid() and usename is distinct from 'cloud_admin'"
)
_END: Final = (
    "select count(pg_catalog.pg_terminate_backend(pid)) from pg_catalog.pg_stat_activity"
    " where backend_type in ('client backend', 'walsender')"
    " and pid <> pg_catalog.pg_backend_pid() and usename is distinct from 'cloud_admin'"
)


class Copies:
    """Of all instances of the cell."""

    def __init__(self, *, paths: Paths, records: Records, history: History, admin: Admin) -> None:
        self._paths = paths
        self._records = records
        self._history = history
        self._admin = admin
        self._tasks = Tasks("copies")

    async def stop(self) -> None:
        """Safe twice."""
        await self._tasks.stop()

    # -- is it right? ------------------------------------------------------------------------------------

    def doubt(self, instance: Instance) -> Callable[[], bool] | None:
        """Whether the copy of roles and databases may differ from the instance's; None where it cannot.

        The question blocks for a look at the log: it is asked on a thread, at best where the copy is read. A copy
        cannot differ while the instance has written nothing to its log since it was made, as those that are only read
        from have not. A change that was committed without waiting for the log (``synchronous_commit``) is in it within
        the second.
        """
        # One that is just being stopped has yet to be looked at for the last time.
        if instance.status not in ("awake", "stopping") or not instance.stale:
            return None
        facts, copied_at = instance.facts, instance.copied_at
        if facts is None or copied_at is None:
            return lambda: True
        return lambda: self._history.log_mark(facts) != copied_at

    async def refresh(self, instance: Instance, *, surely: bool = False) -> None:
        """Makes the copy as fresh as this call; ``surely``, without a look at the log.

        Calls that come while one looks share the next look, so the rate is bounded by the instance's own answer.
        """
        doubt = self.doubt(instance)
        if doubt is None or not (surely or await asyncio.to_thread(doubt)):
            return
        if instance.refresh_next is None:
            instance.refresh_next = self._tasks.start(self._next(instance), f"refresh {instance.endpoint_id}")
        await asyncio.shield(instance.refresh_next)

    async def _next(self, instance: Instance) -> None:
        async with instance.admin_lock:
            instance.refresh_next = None  # whoever comes from now on may know of more than this look finds
            await self._look(instance)

    async def look(self, instance: Instance) -> None:
        """Reads the truth; an instance that cannot answer keeps its copy, which stays marked stale."""
        async with instance.admin_lock:
            await self._look(instance)

    async def _look(self, instance: Instance) -> None:
        # Read under the lock: whoever waited for it may find another head, or nothing that runs.
        facts, running = instance.facts, instance.running
        if facts is None or running is None:
            return
        quiet_since = None if instance.leases else instance.idle_since
        # Taken before the look: what is written during it is looked at again.
        mark = await asyncio.to_thread(self._history.log_mark, facts)
        try:
            async with asyncio.timeout(REFRESH_SECONDS_MAX):
                found = await truth.read(await self._session(instance))
        except (Unavailable, OSError, truth.QUERY_ERRORS) as error:
            _log.warning("roles not refreshed", endpoint_id=instance.endpoint_id, error=str(error))
            await self._drop(instance)
            return
        # The lock is held until it is written: an older answer must not be stored over a newer one.
        await self._records.store_truth(facts.branch.id, found)
        instance.copied_at = mark
        # Whoever came and left meanwhile may have changed what was read already.
        if not instance.leases and instance.idle_since == quiet_since:
            instance.stale = False

    # -- the session -------------------------------------------------------------------------------------

    async def _session(self, instance: Instance) -> AdminConnection:
        """The cell's session in this instance, opened when there is none; only under ``admin_lock``."""
        assert instance.facts is not None
        if instance.admin is None or instance.admin.closed:
            instance.admin = await self._admin.open(
                instance.facts.project.id, self._paths.socket_dir(instance.endpoint_id)
            )
        return instance.admin

    async def busy(self, instance: Instance) -> bool:
        """Whether somebody works in it, with a lease or without."""
        # An instance that refuses even the cell cannot be shown to be idle: it is left alone.
        return await self._count(instance, _BUSY, "cannot ask whether busy") != 0

    async def end_sessions(self, instance: Instance) -> bool:
        """Ends the clients' sessions (57P01), so that nothing is changed after the last look at roles and databases.

        False where the instance does not answer.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + SESSIONS_END_SECONDS_MAX
        while left := await self._count(instance, _END, "cannot end sessions"):
            if loop.time() >= until:
                _log.warning("sessions do not end", endpoint_id=instance.endpoint_id, sessions=left)
                break
            await asyncio.sleep(_END_POLL_SECONDS)
        return left is not None

    async def _count(self, instance: Instance, query: LiteralString, failed: str) -> int | None:
        """None where the instance does not answer."""
        async with instance.admin_lock:
            try:
                async with asyncio.timeout(REFRESH_SECONDS_MAX):
                    connection = await self._session(instance)
                    row = await (await connection.execute(query)).fetchone()
                    return None if row is None else int(row[0])
            except (Unavailable, OSError, truth.QUERY_ERRORS) as error:
                _log.warning(failed, endpoint_id=instance.endpoint_id, error=str(error))
                await self._drop(instance)
                return None

    @asynccontextmanager
    async def closed(self, instance: Instance) -> AsyncGenerator[None]:
        """Without a session of the cell's own, and nobody opens one or stores a copy during the block."""
        async with instance.admin_lock:
            await self._drop(instance)
            yield

    async def close(self, instance: Instance) -> None:
        async with self.closed(instance):
            pass

    async def _drop(self, instance: Instance) -> None:
        admin, instance.admin = instance.admin, None
        if admin is not None:
            await admin.close()
