"""A new head from the past: a base, the log behind it, and a Postgres that replays it up to one position.

The replaying Postgres runs in the new head's own directory with a private socket and becomes the first instance of
the new head, on a new timeline. Where it really ended is compared with where it should have.

Must never recover by time, never link a segment that the new head will own, and never take less than was asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from tenantry.cell.storage import archive, bases, checkpoint
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.clone import Driver, clone_data
from tenantry.cell.storage.directories import inside, read_regular
from tenantry.cell.storage.fork import prepared
from tenantry.cell.storage.history import History, Plan, Point
from tenantry.cell.storage.segments import SegmentReader
from tenantry.cell.storage.threads import in_thread
from tenantry.errors import Defect, HistoryDamaged, StartFailed, TenantryError
from tenantry.neon.ids import HeadId
from tenantry.postgres import postmaster, wal
from tenantry.postgres.engines import Engine
from tenantry.postgres.lsn import Lsn, format_lsn
from tenantry.postgres.postmaster import Postmaster
from tenantry.postgres.template import WAL_SEGMENT_BYTES, Template
from tenantry.runtime import files
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.files import Owner

_log = structlog.get_logger("storage")

ABORT_SECONDS_MAX: Final = 10.0
UNSYNCED: Final = {"fsync": "off"}
"""For an instance that works on a head which is not anybody's yet: after a crash that head is made anew, so one sync of
all of it at the end (``make_durable``) does what hundreds would do on the way."""
_ENDED_EARLY: Final = "recovery ended before configured recovery target was reached"


@dataclass(frozen=True, slots=True)
class Recovered:
    """A new head whose first instance runs, without syncing anything.

    The caller makes its slot, stops it, and then ``make_durable``; only after that it may be anybody's head.
    """

    postmaster: Postmaster
    timeline: int
    origin_lsn: Lsn
    """Where its own log begins and the source's ends for it."""
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every recovery is made with."""

    driver: Driver
    directory_of: Callable[[HeadId], Path]
    template_of: Callable[[Base], Template]
    """The template that a base of kind ``template`` was cloned from. May block; raises OperatorError when it is gone.
    """


async def recover(
    history: History,
    point: Point,
    *,
    workshop: Workshop,
    engine: Engine,
    head_dir: Path,
    socket_dir: Path,
    settings: Mapping[str, str],
    owner: Owner | None,
    log_path: Path,
    timeout_seconds: float,
) -> Recovered:
    """Makes ``head_dir`` a new head in the state of ``point`` and returns with its instance ready.

    ``settings`` are the instance's; those of recovery are added for this start only. A damaged base is passed over
    for an older one. Nothing is durable yet (``make_durable``), and nothing is left after a failure, also not after a
    cancellation; what a killed attempt left in ``head_dir`` is removed first, its process included.
    Raises HistoryGap, HistoryDamaged (which name the file), HistoryError, StartFailed, OperatorError.
    """
    await end_leftover(head_dir, socket_dir)
    without: frozenset[tuple[HeadId, int]] = frozenset()
    damage: HistoryDamaged | None = None
    while True:
        try:
            plan = await asyncio.to_thread(history.plan, point, without=without)
        except Exception as error:
            raise damage or error from error
        try:
            target = await in_thread(lambda plan=plan: _lay_out(plan, workshop, head_dir, owner))
            break
        except _BaseDamaged as problem:
            damage = problem.error
            _log.error("base passed over", error=str(damage), base=plan.base.number, head=plan.base_head_id)
            without |= {(plan.base_head_id, plan.base.number)}
        except asyncio.CancelledError:
            await asyncio.to_thread(files.remove_tree, head_dir)
            raise
    failpoint("recover.laid_out")
    running: Postmaster | None = None
    try:
        running = await postmaster.start(
            engine,
            head_dir / "data",
            socket_dir=socket_dir,
            settings={**settings, **recovery_settings(plan.source.timeline, target)},
            owner=owner,
            log_path=log_path,
            timeout_seconds=timeout_seconds,
        )
        failpoint("recover.promoted")
        timeline, origin = await in_thread(lambda: _look_back(plan, workshop, head_dir, owner))
    except BaseException as error:
        if running is not None:
            await postmaster.stop(running, mode="immediate", timeout_seconds=ABORT_SECONDS_MAX)
        await asyncio.to_thread(files.remove_tree, head_dir)
        if isinstance(error, StartFailed):
            raise _explained(error, plan) from error
        raise
    failpoint("recover.checked")
    return Recovered(running, timeline, origin, plan)


def _explained(error: StartFailed, plan: Plan) -> TenantryError:
    """What is behind a recovery that failed, where it is not about starting."""
    log = str(error.fields.get("log_tail"))
    if _ENDED_EARLY in log:
        return HistoryDamaged(
            f"the log of {plan.source.id} ends before {format_lsn(plan.point.lsn)}: a record is not what was written",
            next_step="look for disk errors in the kernel log; an earlier point can be reached",
            client_text="the history of this branch is damaged before that point",
            head=plan.source.id,
        )
    return error


def recovery_settings(timeline: int, target: Lsn | None) -> dict[str, str]:
    """Settings of one recovery: to ``target`` exclusively, or to the end of the log when it is None. Pure."""
    settings = {
        # All of the log is in pg_wal already; Postgres wants a command and believes its failure.
        "restore_command": "false",
        "recovery_target_timeline": str(timeline),
        "recovery_target_action": "promote",
        "recovery_target_inclusive": "off",
        "hot_standby": "off",
        "archive_mode": "off",
        **UNSYNCED,
    }
    if target is not None:
        settings["recovery_target_lsn"] = format_lsn(target)
    return settings


async def end_leftover(head_dir: Path, socket_dir: Path) -> None:
    """Ends the instance that a killed attempt at ``head_dir`` left, if there is one, and removes the directory."""
    await end_instance(head_dir, socket_dir)
    await asyncio.to_thread(files.remove_tree, head_dir)


async def end_instance(head_dir: Path, socket_dir: Path) -> None:
    """Ends what runs in a head that is nobody's any more, if anything does."""
    running = await asyncio.to_thread(postmaster.adopt, head_dir / "data", socket_dir)
    if running is not None:
        await postmaster.stop(running, mode="immediate", timeout_seconds=ABORT_SECONDS_MAX)


# ------------------------------------------------------------------------------------------------ laying out


class _BaseDamaged(Exception):
    """The base cannot be used; another one may."""

    def __init__(self, error: HistoryDamaged) -> None:
        super().__init__(str(error))
        self.error = error


def _lay_out(plan: Plan, workshop: Workshop, head_dir: Path, owner: Owner | None) -> Lsn | None:
    """Puts base, log and histories in place. Returns the target, None for the end of what is there."""
    data = head_dir / "data"
    with prepared(head_dir), files.explained("cannot recover into", head_dir):
        try:
            _place_base(plan, workshop, data, owner)
        except HistoryDamaged as error:
            raise _BaseDamaged(error) from error
        source_dir = workshop.directory_of(plan.source.id)
        with inside(data, "pg_wal") as pg_wal:
            for head_id, segment in plan.segments:
                content = archive.read_verified(workshop.directory_of(head_id), segment)
                files.unlink(pg_wal / segment.name)  # the template's own first segment
                files.write_new(str(pg_wal / segment.name), content, mode=0o600, owner=owner)
            for name in archive.histories(source_dir):
                content = read_regular(source_dir / "wal", name, bytes_max=archive.HISTORY_BYTES_MAX)
                files.write_new(str(pg_wal / name), content, mode=0o600, owner=owner)
            target = plan.point.lsn
            if plan.point.record_end is None and not _has_record(pg_wal, plan, target):
                target = None
        with inside(head_dir, "data") as place:
            files.write_new(str(place / "recovery.signal"), b"", mode=0o600, owner=owner)
    return target


def _place_base(plan: Plan, workshop: Workshop, data: Path, owner: Owner | None) -> None:
    base, base_dir = plan.base, workshop.directory_of(plan.base_head_id)
    if base.kind != "template":
        bases.verify(base_dir, base)
        clone_data(workshop.driver, base_dir / "bases" / base.directory_name / "data", data, owner=owner)
        if base.label:
            files.write_new(str(data / "backup_label"), base.label.encode(), mode=0o600, owner=owner)
        return
    workshop.template_of(base).clone(
        data, system_identifier=base.system_identifier, verifiers=dict(base.verifiers), owner=owner
    )
    if bases.control_digest(data) != base.digest:
        raise HistoryDamaged(
            f"the template of {base.build_id} is another one than {plan.base_head_id} was cloned from",
            next_step="bring the template back from a backup of the data directory",
            client_text="the first base image of this branch's history is gone",
            head=plan.base_head_id,
            base=base.number,
        )
    with inside(data, "global") as directory:
        control = checkpoint.replayable((directory / "pg_control").read_bytes())
        files.write_atomic(directory / "pg_control", control, owner=owner, durable=False)


def _has_record(pg_wal: Path, plan: Plan, lsn: Lsn) -> bool:
    """Whether the log that was copied goes on at ``lsn``: the source may have written since the point was found."""
    read = SegmentReader(pg_wal, plan.source.timeline)
    scan = wal.Scan(read, lsn, segment_bytes=WAL_SEGMENT_BYTES, verify_from=lsn)
    return next(iter(scan), None) is not None


# ------------------------------------------------------------------------------------------------ looking back


def _look_back(plan: Plan, workshop: Workshop, head_dir: Path, owner: Owner | None) -> tuple[int, Lsn]:
    """Timeline and origin of the promoted head, once it is sure that it is what was asked for, and kept."""
    timeline, lsn = plan.source.timeline + 1, plan.point.lsn
    with inside(head_dir, "data", "pg_wal") as pg_wal:
        history = read_regular(pg_wal, wal.history_name(timeline), bytes_max=archive.HISTORY_BYTES_MAX)
    ancestor = wal.parse_history(history.decode())[-1]
    if ancestor.timeline != plan.source.timeline or ancestor.end > lsn:
        raise Defect(
            f"recovery to {format_lsn(lsn)} of timeline {plan.source.timeline} ended at {format_lsn(ancestor.end)} of"
            f" {ancestor.timeline}",
            head=head_dir.name,
        )
    read = SegmentReader(workshop.directory_of(plan.source.id) / "wal", plan.source.timeline)
    missed = next(iter(wal.Scan(read, ancestor.end, segment_bytes=WAL_SEGMENT_BYTES, until=lsn)), None)
    if missed is not None:
        raise HistoryDamaged(
            f"recovery of {plan.source.id} ended at {format_lsn(ancestor.end)} and not at {format_lsn(lsn)}: a record"
            " is not what was written",
            next_step="look for disk errors in the kernel log; an earlier point can be reached",
            client_text="the history of this branch is damaged before that point",
            head=plan.source.id,
        )
    archive.link_new_segments(
        head_dir, timeline=timeline, start=ancestor.end, owner_uid=owner[0] if owner is not None else None
    )
    return timeline, ancestor.end


def make_durable(head_dir: Path) -> None:
    """Makes all of a head durable whose instance has stopped. Blocking; raises OperatorError for a full disk."""
    files.syncfs(head_dir)
    files.fsync_dir(head_dir.parent)
    failpoint("recover.durable")
