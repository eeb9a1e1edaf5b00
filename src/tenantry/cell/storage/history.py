"""The history that leads to one head: which moments it holds, and the position in the log of each.

A moment becomes the position before the first commit, in log order, that is later than it: what Postgres' own
``recovery_target_time`` does. Where a clock was set back that is the first passage of the moment, and commits that
followed with earlier times are left out with it. Only a commit makes a moment different from the one before, so a
moment in which the instance slept is the state in which it fell asleep.

Must never guess across a gap, and never answer for a moment outside of what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tenantry.cell.model import Head
from tenantry.cell.storage import archive, bases
from tenantry.cell.storage.archive import Gap
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.checkpoint import log_end
from tenantry.cell.storage.lineage import Lineage, Stretch, lineage_of, upto, writer_of
from tenantry.cell.storage.segments import Segment, SegmentReader, number_of
from tenantry.errors import Defect, HistoryError, HistoryGap, InvalidInput
from tenantry.neon.ids import HeadId
from tenantry.postgres import wal
from tenantry.postgres.lsn import Lsn, format_lsn
from tenantry.postgres.template import WAL_SEGMENT_BYTES


@dataclass(frozen=True, slots=True)
class Point:
    """One state of a lineage: everything before ``lsn``, and nothing from there on."""

    head_id: HeadId
    """Whose log leads there: the asked head or an ancestor of it."""
    lsn: Lsn
    record_end: Lsn | None
    """The end of the record that begins at ``lsn``, which recovery stops before; None where the log ends."""
    last_commit: datetime | None
    """When the newest commit that it includes was made, as far as that was looked for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recovery to ``point`` is made from."""

    point: Point
    source: Head
    """The point's head, whose timeline is followed."""
    base_head_id: HeadId
    base: Base
    segments: tuple[tuple[HeadId, Segment], ...]
    """The log from the base to the point, in order, each with the head that keeps it."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """The part of one segment that one head of a lineage wrote."""

    stretch: Stretch
    number: int
    holder: Stretch | None
    """Whose file has it; None when nobody's."""
    begin: Lsn
    end: Lsn
    newest: bool
    """Nothing follows it: it need not be full."""

    def segment_of(self, holder: Stretch) -> Segment:
        return Segment(holder.head.timeline, self.number)


def check_moment(moment: datetime, *, earliest: datetime, now: datetime) -> None:
    """Raises InvalidInput for a moment outside of the window ``earliest``..``now``, which it names. Pure."""
    if moment > now:
        raise InvalidInput(
            f"{moment.isoformat()} is in the future",
            next_step=f"choose a time between {earliest.isoformat()} and {now.isoformat()}",
            field="timestamp",
        )
    if moment < earliest:
        raise InvalidInput(
            f"{moment.isoformat()} is before the history that is kept",
            next_step=f"choose a time between {earliest.isoformat()} and {now.isoformat()}",
            field="timestamp",
        )


class History:
    """The history of one head in files. Every method blocks for milliseconds.

    Whatever asks for the newest state first links what Postgres has written meanwhile: commits in a segment that is
    not kept yet are not overlooked. Ancestors need no such care, their log was kept when the child departed.
    """

    def __init__(
        self,
        head_id: HeadId,
        *,
        heads: Mapping[HeadId, Head],
        directory_of: Callable[[HeadId], Path],
        owner_uid: int | None = None,
    ) -> None:
        """``heads`` holds at least the head's lineage. Raises Defect when it does not.

        With ``owner_uid`` only files of this user are taken into the log.
        """
        self.lineage: Final[Lineage] = lineage_of(heads, head_id)
        self._directory_of = directory_of
        self._owner_uid = owner_uid

    def catch_up(self) -> archive.Linked:
        """Keeps what Postgres has written to the head's log; as ``archive.link_new_segments``."""
        youngest = self.lineage[0]
        return archive.link_new_segments(
            self._directory(youngest),
            timeline=youngest.head.timeline,
            start=youngest.start,
            owner_uid=self._owner_uid,
        )

    # -- what is there -----------------------------------------------------------------------------------

    def bases(self) -> list[tuple[Stretch, Base]]:
        """All bases from which this head's past can be reached, by position, oldest first."""
        found = [
            (stretch, base)
            for stretch in self.lineage
            for base in bases.bases(self._directory_of(stretch.head.id))
            if stretch.holds_base(base.usable_from)
        ]
        return sorted(found, key=lambda pair: (pair[1].usable_from, pair[1].number))

    def oldest(self) -> Base:
        """The base where this history begins. Raises HistoryError when there is none at all."""
        found = self.bases()
        if not found:
            raise HistoryError(
                f"no base image leads to {self.lineage[0].head.id}",
                next_step="a new base is taken at the next suspend",
                client_text="this branch has no history yet",
                head=self.lineage[0].head.id,
            )
        return found[0][1]

    def end(self) -> Lsn:
        """Where the head's log ends now."""
        self.catch_up()
        youngest = self.lineage[0]
        found = log_end(self._wal(youngest), youngest.head.timeline)
        return youngest.start if found is None else Lsn(max(found, youngest.start))

    def last_commit(self, before: Lsn | None = None) -> datetime:
        """When the newest commit in the head's log (``before`` a position) was made; when its history began, if none.

        Where a gap may hide it, a time that it was not later than.
        """
        self.catch_up()
        oldest = self.oldest()
        for piece in reversed(self._pieces(oldest.usable_from)):
            holder = piece.holder
            if before is not None and piece.begin >= before:
                continue
            if holder is not None:
                known = archive.facts(self._directory(holder), piece.segment_of(holder))
                if known is not None and known.commits == 0:
                    continue
            commits, whole = self._commits(piece)
            if not whole:
                # What is missing may hold a later one; nothing was committed after the log was last written.
                return self._last_written()
            commits = [commit for commit in commits if before is None or commit.start < before]
            if commits:
                return wal.from_micros(commits[-1].micros)
        return oldest.last_commit

    def _last_written(self) -> datetime:
        youngest = self.lineage[0]
        segments = archive.segments(self._directory(youngest), youngest.head.timeline)
        newest = self._wal(youngest) / segments[max(segments)].name
        return datetime.fromtimestamp(newest.lstat().st_mtime, UTC)

    def gaps(self, begin: Lsn) -> list[Gap]:
        """What is missing of the log from ``begin`` on, whichever head should have it."""
        self.catch_up()
        return archive.gaps(self._numbers(begin), begin)

    def _numbers(self, begin: Lsn) -> Iterator[int]:
        for stretch in self.lineage:
            for number in archive.segments(self._directory(stretch), stretch.head.timeline):
                if number >= number_of(begin) and writer_of(self.lineage, number) is stretch:
                    yield number

    def _directory(self, stretch: Stretch) -> Path:
        return self._directory_of(stretch.head.id)

    def _wal(self, stretch: Stretch) -> Path:
        return self._directory(stretch) / "wal"

    # -- from a moment to a position ---------------------------------------------------------------------

    def at_time(self, moment: datetime) -> Point:
        """The state at ``moment``. The caller has checked that it lies in the window (``check_moment``).

        Raises HistoryGap when the log that would tell is missing.
        """
        # Before the commits are looked at: what is written meanwhile may be later than the moment.
        end = self.end()
        target = wal.to_micros(moment)
        based = self.bases()
        begin = self.oldest().usable_from
        # A base whose commits are all before the moment shows that what is missing before it was earlier still.
        earlier = {number_of(base.lsn) for _, base in based if wal.to_micros(base.last_commit) <= target}
        last: int | None = None
        uncertain: Gap | None = None
        for piece in self._pieces(begin):
            if piece.number in earlier:
                uncertain = None
            before, later, whole = self._around(piece, target)
            if before is not None:
                last, uncertain = before, None
            if later is not None:
                self._certain(uncertain, moment)
                return self._verified(piece.stretch, later, last)
            if not whole:
                uncertain = _with(uncertain, piece.number)
        self._certain(uncertain, moment)
        return Point(self.lineage[0].head.id, end, None, None if last is None else wal.from_micros(last))

    def _certain(self, uncertain: Gap | None, moment: datetime) -> None:
        if uncertain is not None:
            self._still_kept(writer_of(self.lineage, number_of(uncertain.start)), uncertain.start, field="timestamp")
            raise HistoryGap(
                f"whether {moment.isoformat()} lies in the missing log {uncertain} cannot be known",
                next_step="choose an earlier time, or one after the next commit",
                client_text="part of this branch's history is missing around that time",
                head=self.lineage[0].head.id,
            )

    def _pieces(self, begin: Lsn) -> list[_Piece]:
        """The lineage's log from ``begin`` on, segment by segment, each with who keeps it."""
        kept = {s.head.id: archive.segments(self._directory(s), s.head.timeline) for s in self.lineage}
        found: list[_Piece] = []
        for index, stretch in reversed(list(enumerate(self.lineage))):
            low = Lsn(max(stretch.start, begin))
            if stretch.end is not None and stretch.end <= low:
                continue
            final = max(kept[stretch.head.id], default=-1) if stretch.end is None else number_of(Lsn(stretch.end - 1))
            for number in range(number_of(low), final + 1):
                # A younger head that departs in this segment has a copy of what comes before.
                holders = [stretch, *(s for s in reversed(self.lineage[:index]) if number_of(s.start) == number)]
                holder = next((s for s in holders if number in kept[s.head.id]), None)
                segment = Segment(stretch.head.timeline, number)
                end = segment.end if stretch.end is None else Lsn(min(segment.end, stretch.end))
                newest = stretch.end is None and number == final
                found.append(_Piece(stretch, number, holder, Lsn(max(segment.start, low)), end, newest))
        return found

    def _around(self, piece: _Piece, target: int) -> tuple[int | None, Lsn | None, bool]:
        """Of a piece: the time of the last commit before the first later than ``target``, where that one is, and
        whether the piece could be read up to there."""
        if piece.holder is not None and piece.end - piece.begin == WAL_SEGMENT_BYTES:
            known = archive.facts(self._directory(piece.holder), piece.segment_of(piece.holder))
            if known is not None and (known.max_micros is None or known.max_micros <= target):
                return known.last_micros, None, True
        commits, whole = self._commits(piece)
        before: int | None = None
        for commit in commits:
            if commit.micros > target:
                return before, commit.start, True
            before = commit.micros
        return before, None, whole

    def _commits(self, piece: _Piece) -> tuple[list[wal.Transaction], bool]:
        """The commits in a piece, and whether all of it could be read."""
        if piece.holder is None:
            return [], False
        read = SegmentReader(self._wal(piece.holder), piece.holder.head.timeline)
        first = wal.first_record(read, piece.number, segment_bytes=WAL_SEGMENT_BYTES)
        if first is None:
            return [], piece.newest
        scan = wal.Scan(read, first, segment_bytes=WAL_SEGMENT_BYTES, until=piece.end)
        commits = [each for each in scan.transactions() if each.committed and each.start >= piece.begin]
        # Where a record is cut off at the end of a segment its commit is in sight all the same.
        return commits, piece.newest or scan.complete or scan.stopped_at >= piece.end

    def _verified(self, stretch: Stretch, lsn: Lsn, last: int | None) -> Point:
        """The point before the record at ``lsn``; where that is not whole yet, the log ends there."""
        read = SegmentReader(self._wal(stretch), stretch.head.timeline)
        record = next(iter(wal.Scan(read, lsn, segment_bytes=WAL_SEGMENT_BYTES, verify_from=lsn)), None)
        return Point(
            stretch.head.id,
            lsn,
            None if record is None else record.end,
            None if last is None else wal.from_micros(last),
        )

    # -- from any position to the state it means ---------------------------------------------------------

    def at_lsn(self, lsn: Lsn) -> Point:
        """The state in which everything that begins before ``lsn`` is included.

        Raises InvalidInput for a position that this history does not hold, HistoryGap when the log there is missing.
        """
        self.catch_up()
        oldest = self.oldest()
        if lsn < oldest.usable_from:
            raise InvalidInput(
                f"{format_lsn(lsn)} is before the history that is kept",
                next_step=f"choose a position from {format_lsn(oldest.usable_from)} on",
                field="lsn",
            )
        stretch = upto(self.lineage, lsn)[0]
        if lsn == stretch.start and stretch.head.origin_head_id is not None:
            # Nothing of its own log is needed, which may not even have begun.
            return self._behind(stretch, lsn)
        number = number_of(Lsn(lsn - 1))
        read = SegmentReader(self._wal(stretch), stretch.head.timeline)
        first = wal.first_record(read, number, segment_bytes=WAL_SEGMENT_BYTES)
        if first is None:
            raise self._not_there(stretch, lsn)
        scan = wal.Scan(read, first, segment_bytes=WAL_SEGMENT_BYTES, until=stretch.end)
        for record in scan:
            if record.start >= lsn:
                return self._verified(stretch, record.start, None)
        if stretch.end is not None and scan.position >= stretch.end:
            child = self.lineage[self.lineage.index(stretch) - 1]
            return self._behind(child, child.start)
        if lsn > scan.position:
            raise self._not_there(stretch, lsn)
        return Point(stretch.head.id, scan.position, None, None)

    def _behind(self, stretch: Stretch, lsn: Lsn) -> Point:
        """The point where a head begins: before its first own record, if it has one."""
        read = SegmentReader(self._wal(stretch), stretch.head.timeline)
        record = next(iter(wal.Scan(read, lsn, segment_bytes=WAL_SEGMENT_BYTES, verify_from=lsn)), None)
        return Point(stretch.head.id, lsn if record is None else record.start, record and record.end, None)

    def _still_kept(self, stretch: Stretch, lsn: Lsn, *, field: str = "lsn") -> None:
        """Raises InvalidInput for log that retention has let go of: the point was within the history when it was asked
        for, and has left it since."""
        if lsn < archive.let_go(self._wal(stretch)):
            raise InvalidInput(
                f"{format_lsn(lsn)} is before the history that is kept",
                next_step="choose a later time",
                field=field,
            )

    def _not_there(self, stretch: Stretch, lsn: Lsn) -> InvalidInput | HistoryGap:
        self._still_kept(stretch, lsn)
        end = self.end()
        if lsn > end:
            return InvalidInput(
                f"{format_lsn(lsn)} is ahead of the branch, which ends at {format_lsn(end)}",
                next_step="choose a position up to there",
                field="lsn",
            )
        return HistoryGap(
            f"the log of {stretch.head.id} around {format_lsn(lsn)} is missing",
            client_text=f"the history of this branch is missing at {format_lsn(lsn)}",
            head=stretch.head.id,
        )

    # -- from a point to what it is made from ------------------------------------------------------------

    def plan(self, point: Point, *, without: frozenset[tuple[HeadId, int]] = frozenset()) -> Plan:
        """The newest base before the point and the log from there on; ``without`` names bases not to use.

        Raises HistoryGap, with what is missing, or HistoryError when no base leads there.
        """
        lineage = self._leading_to(point)
        ids = {stretch.head.id: stretch for stretch in lineage}
        usable = [
            (stretch, base)
            for stretch, base in self.bases()
            if stretch.head.id in ids
            and base.usable_from <= point.lsn
            and (stretch.head.id, base.number) not in without
        ]
        if not usable:
            raise HistoryError(
                f"no usable base image leads to {format_lsn(point.lsn)} of {point.head_id}",
                client_text="no base image of this branch's history reaches back that far",
                head=point.head_id,
            )
        base_stretch, base = usable[-1]
        last = number_of(Lsn((point.record_end or point.lsn) - 1))
        return Plan(
            point=point,
            source=lineage[0].head,
            base_head_id=base_stretch.head.id,
            base=base,
            segments=tuple(self._chain(lineage, number_of(base.lsn), last)),
        )

    def _leading_to(self, point: Point) -> Lineage:
        lineage = upto(self.lineage, point.lsn)
        while lineage and lineage[0].head.id != point.head_id:
            lineage = lineage[1:]
        if not lineage:
            raise Defect(f"{format_lsn(point.lsn)} of {point.head_id} is not in the past of {self.lineage[0].head.id}")
        return lineage

    def _chain(self, lineage: Lineage, first: int, last: int) -> Iterator[tuple[HeadId, Segment]]:
        kept = {
            stretch.head.id: archive.segments(self._directory(stretch), stretch.head.timeline) for stretch in lineage
        }
        for number in range(first, last + 1):
            stretch = writer_of(lineage, number)
            writer = stretch.head
            segment = kept[writer.id].get(number)
            if segment is None:
                missing = Segment(writer.timeline, number)
                self._still_kept(stretch, missing.start)
                name = missing.name
                raise HistoryGap(
                    f"segment {name} of {writer.id} is missing",
                    next_step="choose a time after the next base image, or before the gap",
                    client_text="part of this branch's history is missing before that point",
                    head=writer.id,
                    segment=name,
                )
            yield writer.id, segment


def _with(uncertain: Gap | None, number: int) -> Gap:
    segment = Segment(1, number)
    return Gap(segment.start if uncertain is None else uncertain.start, segment.end)
