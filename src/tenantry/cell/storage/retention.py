"""What of all histories of a project must be kept, and what may go. Pure.

Two things ask for history: a head's window (every state from some position on) and pins (single states: snapshots,
work under way). Each needs the newest base before its first state, and the log from that base on, from whichever
heads of the lineage wrote it. What nobody asks for may go.

Must never let go of a file without which a state that was promised cannot be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tenantry.cell.model import Head
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.lineage import Lineage, Stretch, lineage_of, upto, writer_of
from tenantry.cell.storage.segments import Segment, number_of
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Kept:
    """What one head has on disk."""

    bases: tuple[Base, ...] = ()
    segments: Mapping[int, Segment] = field(default_factory=dict[int, Segment])


@dataclass(frozen=True, slots=True)
class Pin:
    """One state that must stay reachable."""

    head_id: HeadId
    lsn: Lsn


@dataclass(frozen=True, slots=True)
class Retention:
    """What may go, by head."""

    bases: Mapping[HeadId, tuple[Base, ...]]
    segments: Mapping[HeadId, tuple[Segment, ...]]
    unreachable: tuple[Pin, ...]
    """Starts of windows, and pins, that no base leads to: a loss that happened earlier and is to be told."""


def retain(
    heads: Mapping[HeadId, Head],
    kept: Mapping[HeadId, Kept],
    *,
    windows: Mapping[HeadId, Lsn],
    pins: Iterable[Pin] = (),
) -> Retention:
    """What of ``kept`` may go so that every state from the start of each window on, and each pin, stays reachable.

    ``heads`` are all heads of a project that still have files, ancestors included. ``windows`` holds, for each living
    head, the position of the earliest state that may be asked for, in its own log or an ancestor's.
    """
    needed = _Needed(kept)
    unreachable = [
        Pin(head_id, begin)
        for head_id, begin in windows.items()
        if not needed.window(lineage_of(heads, head_id), begin)
    ]
    unreachable += [pin for pin in pins if not needed.state(upto(lineage_of(heads, pin.head_id), pin.lsn), pin.lsn)]
    return Retention(
        bases={
            head_id: tuple(base for base in has.bases if (head_id, base.number) not in needed.bases)
            for head_id, has in kept.items()
        },
        segments={
            head_id: tuple(
                segment for n, segment in sorted(has.segments.items()) if (head_id, n) not in needed.segments
            )
            for head_id, has in kept.items()
        },
        unreachable=tuple(unreachable),
    )


class _Needed:
    """Collects what must stay."""

    def __init__(self, kept: Mapping[HeadId, Kept]) -> None:
        self._kept = kept
        self.bases: set[tuple[HeadId, int]] = set()
        self.segments: set[tuple[HeadId, int]] = set()

    def window(self, lineage: Lineage, begin: Lsn) -> bool:
        """Every state of the lineage from ``begin`` on. False when no base leads to the first."""
        first = self._newest(upto(lineage, begin), begin)
        # Without a base for its start, a window is served from where its oldest base is: all of that stays.
        usable_from, redo = (Lsn(0), Lsn(0)) if first is None else (first[1].usable_from, first[1].lsn)
        for younger, stretch in zip((None, *lineage), lineage, strict=False):
            self.bases |= {
                (stretch.head.id, base.number)
                for base in self._of(stretch).bases
                if stretch.holds_base(base.usable_from) and base.usable_from > usable_from
            }
            low = max(number_of(redo), number_of(stretch.start))
            if younger is None:
                high = max(self._of(stretch).segments, default=low)
            elif max(begin, stretch.start) < younger.start:
                high = number_of(Lsn(younger.start - 1))
            else:
                high = number_of(younger.start) - 1  # the younger head's own first segment repeats the rest
            self.segments |= {(stretch.head.id, number) for number in range(low, high + 1)}
        if first is not None:
            self.bases.add((first[0], first[1].number))
        return first is not None

    def state(self, lineage: Lineage, lsn: Lsn) -> bool:
        """The state before ``lsn``, where ``lineage`` ends. False when no base leads to it."""
        first = self._newest(lineage, lsn)
        if first is None:
            return False
        head_id, base = first
        self.bases.add((head_id, base.number))
        self.segments |= {
            (writer_of(lineage, number).head.id, number)
            for number in range(number_of(base.lsn), number_of(Lsn(lsn - 1)) + 1)
        }
        return True

    def _of(self, stretch: Stretch) -> Kept:
        return self._kept.get(stretch.head.id, Kept())

    def _newest(self, lineage: Lineage, lsn: Lsn) -> tuple[HeadId, Base] | None:
        """The newest base of the lineage that leads to ``lsn``, with its head."""
        found = [
            (base.usable_from, base.number, stretch.head.id, base)
            for stretch in lineage
            for base in self._of(stretch).bases
            if stretch.holds_base(base.usable_from) and base.usable_from <= lsn
        ]
        if not found:
            return None
        _, _, head_id, base = max(found, key=lambda each: each[:2])
        return head_id, base
