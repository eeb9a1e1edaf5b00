"""A new head from another one's present state: a copy of its files and of the log they need, no recovery to a target.

The child goes on in its parent's timeline, from the end of the log that it was given. A sleeping parent's copy starts
at once; a running parent is held still for the copy, which starts like after a power cut.

Must never link a segment into a child, whose Postgres will write to it, and never copy a head that changes meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.cell.model import Head
from tenantry.cell.storage import archive, checkpoint
from tenantry.cell.storage.clone import Driver, clone_data
from tenantry.cell.storage.directories import OPEN_FILE, inside, spread
from tenantry.cell.storage.freeze import frozen
from tenantry.cell.storage.lineage import start_of
from tenantry.cell.storage.segments import number_of, parse_segment
from tenantry.errors import HistoryDamaged, Unavailable
from tenantry.postgres import postmaster, wal
from tenantry.postgres.lsn import Lsn
from tenantry.runtime import files
from tenantry.runtime.child import Identity
from tenantry.runtime.failpoints import failpoint
from tenantry.runtime.files import Owner

FREEZE_BYTES_MAX: Final = 256 * 1024 * 1024
"""A larger running parent is not held still for a copy that does not share blocks: that would take seconds."""
HEAD_DIRECTORY_MODE: Final = 0o711
"""The directory above ``data`` is the cell's own; the tenant's uid passes through and changes nothing in it."""


@dataclass(frozen=True, slots=True)
class Forked:
    """A new head, durable, not started."""

    timeline: int
    origin_lsn: Lsn
    """Where it departs from its parent; recovery of a copy of a running parent ends here."""
    bytes: int


def may_hold_still(driver: Driver, head_bytes: int) -> bool:
    """Whether a running head of this size is copied as it is; otherwise recover it from its history. Pure."""
    return driver.reflink or head_bytes <= FREEZE_BYTES_MAX


def fork_sleeping(driver: Driver, parent: Head, parent_dir: Path, child_dir: Path, *, owner: Owner | None) -> Forked:
    """Copies a cleanly stopped head, which the caller keeps from starting. Blocking; durable when it returns.

    Raises Unavailable when the parent runs or was not stopped cleanly (start it first), OperatorError for a full disk.
    """
    if postmaster.running_in(parent_dir / "data"):
        raise Unavailable(f"{parent_dir.name} is running", head=parent_dir.name)
    begin = checkpoint.read_checkpoint(parent_dir / "data")
    if not begin.clean:
        raise Unavailable(
            f"{parent_dir.name} was not stopped cleanly",
            next_step="start it once, so that it recovers",
            head=parent_dir.name,
        )
    cloned = _copy(driver, parent_dir, child_dir, owner, contextlib.nullcontext())
    with inside(child_dir, "data", "pg_wal") as pg_wal:
        end = checkpoint.record_end(pg_wal, begin)
    return _keep(parent, parent_dir, child_dir, end, cloned, owner)


def fork_running(
    driver: Driver, parent: Head, parent_dir: Path, child_dir: Path, *, instance: Identity, owner: Owner | None
) -> Forked:
    """Copies a running head within one stand-still. Blocking; durable when it returns.

    Every commit that was acknowledged before the call is in the copy. Raises Unavailable when ``instance`` (the
    postmaster) is gone or does not stand still, OperatorError for a full disk.
    """
    cloned = _copy(driver, parent_dir, child_dir, owner, frozen(instance))
    with inside(child_dir, "data", "pg_wal") as pg_wal:
        end = checkpoint.log_end(pg_wal, parent.timeline)
    return _keep(parent, parent_dir, child_dir, end, cloned, owner)


def _copy(
    driver: Driver, parent_dir: Path, child_dir: Path, owner: Owner | None, hold: AbstractContextManager[None]
) -> int:
    """Data and log of the parent; on failure nothing is left. Returns how much was copied."""
    with prepared(child_dir), hold:
        cloned = clone_data(driver, parent_dir / "data", child_dir / "data", owner=owner)
        # Read from the copy, so that it belongs to what was copied.
        redo = checkpoint.read_checkpoint(child_dir / "data").redo
        with (
            files.explained("cannot copy the log to", child_dir),
            inside(parent_dir, "data", "pg_wal") as source,
            inside(child_dir, "data", "pg_wal") as target,
        ):
            log_bytes = _copy_log(driver, source, target, redo, owner)
    failpoint("fork.copied")
    return cloned.bytes + log_bytes


@contextlib.contextmanager
def prepared(head_dir: Path) -> Generator[None, None, None]:
    """An empty directory for a new head; what an earlier, killed attempt left of it is removed, as is a failed one."""
    with files.explained("cannot make", head_dir):
        files.remove_tree(head_dir)
        spread(head_dir.parent)
        files.make_directory(head_dir, mode=HEAD_DIRECTORY_MODE)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            files.remove_tree(head_dir)
        raise


def _copy_log(driver: Driver, source: Path, target: Path, redo: Lsn, owner: Owner | None) -> int:
    """Segments from ``redo`` on, of whatever timeline, and timeline histories."""
    copied = 0
    for name in sorted(os.listdir(source)):  # noqa: PTH208 - names, not paths
        segment = parse_segment(name)
        if segment is None and wal.history_timeline(name) is None:
            continue
        if segment is not None and segment.number < number_of(redo):
            continue
        copied += _copy_file(driver, source / name, target / name, owner)
    return copied


def _copy_file(driver: Driver, source: Path, target: Path, owner: Owner | None) -> int:
    reading = os.open(source, OPEN_FILE)
    try:
        facts = os.fstat(reading)
        if not stat.S_ISREG(facts.st_mode):
            raise HistoryDamaged(f"{source.name} in pg_wal is not a file", segment=source.name)
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if owner is not None:
                os.fchown(writing, *owner)
            driver.clone_file(reading, writing, facts.st_size)
        finally:
            os.close(writing)
    finally:
        os.close(reading)
    return facts.st_size


def _keep(parent: Head, parent_dir: Path, child_dir: Path, end: Lsn | None, copied: int, owner: Owner | None) -> Forked:
    """Makes the child and the log that leads to it durable."""
    uid = None if owner is None else owner[0]
    try:
        if end is None:
            raise HistoryDamaged(f"the log copied to {child_dir.name} cannot be read", head=child_dir.name)
        # The child's past is the parent's log up to here, so it is kept before anybody relies on it.
        archive.link_new_segments(parent_dir, timeline=parent.timeline, start=start_of(parent), owner_uid=uid)
        archive.link_new_segments(child_dir, timeline=parent.timeline, start=end, owner_uid=uid)
        files.syncfs(child_dir)
        files.fsync_dir(child_dir.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            files.remove_tree(child_dir)
        raise
    failpoint("fork.durable")
    return Forked(parent.timeline, end, copied)
