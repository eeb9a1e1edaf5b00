"""The past of heads, kept and asked: log linked while instances run and when they fall asleep, bases by policy, and
from a moment or a position to a point that a new head can be made from.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, LiteralString

import structlog

from tenantry.cell.compute.engines import EngineStore
from tenantry.cell.compute.ports import Facts, Measured
from tenantry.cell.model import Branch, BuildId, Head, Project
from tenantry.cell.state.state import State
from tenantry.cell.state.tables import Tables
from tenantry.cell.storage import archive, bases, checkpoint, sizes, slot
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.clone import Driver
from tenantry.cell.storage.directories import inside
from tenantry.cell.storage.history import History, Point, check_moment
from tenantry.cell.storage.layout import Layout
from tenantry.cell.storage.lineage import start_of
from tenantry.cell.storage.recover import Workshop
from tenantry.cell.storage.segments import last_written
from tenantry.errors import TenantryError
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn, parse_lsn
from tenantry.runtime.clock import Clock

_log = structlog.get_logger("history")
SLOT_NAME: Final = "tenantry_history"
LOG_SETTLED_NANOSECONDS: Final = 50_000_000
"""Longer than a tick of the clock that files' times come from."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps the past of every head of the cell; implements ``compute.ports.History``."""

    layout: Layout
    state: State
    engines: EngineStore
    clock: Clock
    driver: Driver
    root: bool

    # -- for instances -----------------------------------------------------------------------------------

    def guarded(self, data: Path) -> bool:
        return (data / "pg_replslot" / SLOT_NAME).exists()

    @property
    def guard(self) -> Sequence[LiteralString]:
        return slot.ENSURE

    @property
    def settings(self) -> Mapping[str, str]:
        return slot.SETTINGS

    async def slept(self, facts: Facts) -> None:
        """Links the last of the log, and moves the head to a newer build of its major.

        A failure is told and never keeps anyone awake.
        """
        try:
            await asyncio.to_thread(self.link, facts.project, facts.head)
        except (TenantryError, OSError) as error:
            _log.error("history not kept at sleep", head_id=facts.head.id, error=str(error))
            return

        successor = self.engines.successor(facts.head.build_id)
        if successor is None:
            return
        build_id = BuildId(successor.build_id)

        def move(tables: Tables) -> None:
            head = tables.head(facts.head.id)
            if head is not None:
                tables.update(replace(head, build_id=build_id))
                _log.info("head moved to a newer build", head_id=head.id, build_id=build_id)

        await self.state.write(move)

    def log_begin(self, data: Path) -> int | None:
        try:
            return checkpoint.read_checkpoint(data).location
        except (TenantryError, OSError) as error:
            _log.warning("pg_control does not say where the log is", path=str(data), error=str(error))
            return None

    def log_mark(self, facts: Facts) -> object:
        """While a later mark is equal to this one, nothing was written to the head's log. None equals none. Blocking.

        None also right after a write: a file's time moves in ticks, and the next write may be in the same one.
        """
        try:
            with inside(self.directory(facts.project, facts.head.id), "data", "pg_wal") as pg_wal:
                mark = last_written(pg_wal)
        except (TenantryError, OSError):
            return None
        return mark if mark is not None and time.time_ns() - mark[1] > LOG_SETTLED_NANOSECONDS else None

    def measure(self, facts: Facts, *, since: object, after: int | None) -> Measured:
        """What cannot be read is unknown: whoever meters goes on with what is known."""
        directory = self.directory(facts.project, facts.head.id)
        try:
            with inside(directory, "data", "pg_wal") as pg_wal:
                # Taken first: what is written during the look is found by the next one.
                mark = last_written(pg_wal)
                if mark == since:
                    return Measured(mark)
                end = checkpoint.log_end(pg_wal, facts.head.timeline, after=None if after is None else Lsn(after))
            return Measured(mark, end, sizes.logical_bytes(directory / "data"), sizes.history_bytes(directory))
        except (TenantryError, OSError) as error:
            _log.warning("head cannot be measured", head_id=facts.head.id, error=str(error))
            return Measured()

    # -- keeping -----------------------------------------------------------------------------------------

    def directory(self, project: Project, head_id: HeadId) -> Path:
        return self.layout.head(project.id, head_id)

    def link(self, project: Project, head: Head) -> archive.Linked:
        """Links the head's new segments. Blocking; raises HistoryError or OperatorError."""
        return archive.link_new_segments(
            self.directory(project, head.id),
            timeline=head.timeline,
            start=start_of(head),
            owner_uid=project.uid if self.root else None,
        )

    def take_base_if_due(self, project: Project, head: Head, heads: Mapping[HeadId, Head]) -> Base | None:
        """A new base of a sleeping head whose log since the last one has become long. Blocking.

        None when it is not due, when the instance was woken meanwhile, or died and has not recovered yet.
        """
        directory = self.directory(project, head.id)
        own = bases.bases(directory)
        history = self.history(project, head.id, heads)
        newest = max((base.usable_from for base in own), default=start_of(head))
        if not bases.due(history.end() - newest, sizes.head_bytes(directory)):
            return None
        return bases.take_cold_base(
            self.driver,
            directory,
            build_id=head.build_id,
            last_commit=history.last_commit,
            now=self.clock.now(),
        )

    # -- asking ------------------------------------------------------------------------------------------

    def history(self, project: Project, head_id: HeadId, heads: Mapping[HeadId, Head]) -> History:
        return History(head_id, heads=heads, directory_of=lambda i: self.directory(project, i))

    def workshop(self, project: Project) -> Workshop:
        return Workshop(
            driver=self.driver,
            directory_of=lambda i: self.directory(project, i),
            # Whether it still is the one that the base was cloned from is checked by the recovery, by its digest.
            template_of=lambda base: self.engines.template_now(base.build_id),
        )

    def earliest(self, project: Project, history: History) -> datetime:
        """The first moment that can be asked for: the retention's, or where the history begins. Blocking."""
        window = self.clock.now() - timedelta(seconds=project.history_retention_seconds)
        return max(window, history.oldest().last_commit)

    def point(
        self,
        project: Project,
        head: Head,
        heads: Mapping[HeadId, Head],
        *,
        lsn: str | None,
        moment: datetime | None,
    ) -> Point:
        """The point that a position or a moment means; everything acknowledged before the call is in reach.

        Blocking. Raises InvalidInput for what lies outside of the window, HistoryGap where the log is missing.
        """
        self.link(project, head)
        history = self.history(project, head.id, heads)
        if lsn is not None:
            return history.at_lsn(parse_lsn(lsn))
        assert moment is not None
        earliest, latest = self.earliest(project, history), self.clock.now()
        if not earliest <= moment <= latest:
            # Where the clock was set back the log holds commits that are still to come by it.
            latest = max(latest, history.last_commit())
        check_moment(moment, earliest=earliest, now=latest)
        return history.at_time(moment)


def heads_by_id(tables: Tables, project: Project) -> dict[HeadId, Head]:
    """All heads of the project that have files, ancestors included."""
    return {head.id: head for head in tables.heads(project.id)}


def head_of(tables: Tables, branch: Branch) -> Head:
    """The head that the branch runs; there always is one."""
    head = tables.head(branch.head_id)
    assert head is not None, f"branch {branch.id} has no head"
    return head
