"""A new head with everything that another one is but its rows: its catalogs are copied, its tables come to be empty.

What is copied is named, and everything else is left behind: no file of a table, an index or a large object is ever
read, so what is forgotten is missing and not leaked. The log that is copied is one checkpoint record. What a table's
statistics say of its rows stands in catalogs too; whoever calls has emptied those first.

Must never copy a file for which nobody has said that it holds no row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantry.cell.storage import checkpoint
from tenantry.cell.storage.archive import HISTORY_BYTES_MAX
from tenantry.cell.storage.clone import Driver, clone_data
from tenantry.cell.storage.directories import inside, read_regular
from tenantry.cell.storage.fork import prepared
from tenantry.cell.storage.segments import Segment, number_of, parse_segment
from tenantry.errors import HistoryDamaged, Unavailable
from tenantry.postgres import wal
from tenantry.postgres.template import WAL_SEGMENT_BYTES
from tenantry.runtime import files
from tenantry.runtime.files import Owner

_CLUSTER: Final = re.compile(r"PG_VERSION|global/.+|pg_xact/.+|pg_multixact/.+|pg_commit_ts/.+")
"""Files of the whole cluster: catalogs that all databases share, and which transactions are committed."""
_DATABASE: Final = re.compile(r"base/\d+/(PG_VERSION|pg_filenode\.map)")
_RELATION: Final = re.compile(r"(base/\d+/\d+)(_[a-z]+)?(\.\d+)?")


@dataclass(frozen=True, slots=True)
class Outline:
    """Which relations have files, as ``pg_relation_filepath`` says it, in all databases."""

    catalogs: frozenset[str]
    """Those of Postgres itself and sequences: they are copied."""
    tables: frozenset[str]
    """All others, their indexes among them: they come to be empty files."""

    def copies(self, relative: str) -> bool:
        """Whether a file of the data directory is copied. Pure."""
        if _CLUSTER.fullmatch(relative) or _DATABASE.fullmatch(relative):
            return True
        found = _RELATION.fullmatch(relative)
        if found is None:
            return False
        # From its init fork an unlogged relation begins anew after a crash: it is what an empty one looks like.
        return found[1] in self.catalogs or (found[1] in self.tables and found[2] == "_init")


def copy_outline(driver: Driver, source: Path, target_dir: Path, outline: Outline, *, owner: Owner | None) -> None:
    """Makes ``target_dir`` a head whose data directory has the outline of ``source``, which was stopped cleanly.

    Its indexes are no indexes yet: it is to be started with system indexes only, and all others are to be built.
    Blocking, not durable; what an earlier attempt left there is removed, and nothing is left after a failure. Raises
    Unavailable for a source that was not stopped cleanly, OperatorError for a full disk.
    """
    with prepared(target_dir), files.explained("cannot make", target_dir):
        data = target_dir / "data"
        clone_data(driver, source, data, owner=owner, only=outline.copies)
        for relation in sorted(outline.tables):
            with inside(data, *relation.split("/")[:-1]) as directory:
                files.write_new(str(directory / relation.rpartition("/")[2]), b"", mode=0o600, owner=owner)
        name, content = last_checkpoint(source)
        with inside(source, "pg_wal") as log, inside(data, "pg_wal") as pg_wal:
            files.write_new(str(pg_wal / name), content, mode=0o600, owner=owner)
            for path in log.iterdir():
                # Without the file of a later timeline nothing can be recovered in it; it holds positions only.
                if wal.history_timeline(path.name) is not None:
                    history = read_regular(log, path.name, bytes_max=HISTORY_BYTES_MAX)
                    files.write_new(str(pg_wal / path.name), history, mode=0o600, owner=owner)


def begin_history(data: Path, *, owner: Owner | None) -> None:
    """Leaves of a cleanly stopped head's log its last checkpoint, where its history begins. Blocking.

    Call it before any of the log is linked.
    """
    name, content = last_checkpoint(data)
    with files.explained("cannot begin the log of", data), inside(data, "pg_wal") as pg_wal:
        for path in sorted(pg_wal.iterdir()):
            if path.name != name and parse_segment(path.name) is not None:
                files.unlink(path)
        files.write_atomic(pg_wal / name, content, owner=owner)


def last_checkpoint(data: Path) -> tuple[str, bytes]:
    """Name and content of the segment with the last checkpoint of a cleanly stopped head, without what is behind it."""
    begin = checkpoint.read_checkpoint(data)
    if not begin.clean:
        raise Unavailable(f"{data.parent.name} was not stopped cleanly", head=data.parent.name)
    segment = Segment(begin.timeline, number_of(begin.location))
    with inside(data, "pg_wal") as pg_wal:
        end = checkpoint.record_end(pg_wal, begin)
        content = read_regular(pg_wal, segment.name, bytes_max=WAL_SEGMENT_BYTES)
    if end is None or end > segment.end:
        raise HistoryDamaged(f"{data} has no checkpoint where pg_control says", path=str(data))
    return segment.name, content[: end - segment.start].ljust(WAL_SEGMENT_BYTES, b"\0")
