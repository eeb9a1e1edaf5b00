"""Which head wrote which part of a history. Pure.

A head begins at its origin in another head, whose log up to there is also its own past. Positions only grow along
such a lineage, so a position alone says whose log leads there: that of the youngest head that began before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tenantry.cell.model import Head
from tenantry.cell.storage.segments import number_of
from tenantry.errors import Defect
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn, parse_lsn

ANCESTORS_MAX: Final = 10_000
"""A longer lineage is a circle."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The part of a lineage that one head wrote."""

    head: Head
    start: Lsn
    end: Lsn | None
    """Where the next younger head departs; None for the youngest."""

    def holds_base(self, usable_from: Lsn) -> bool:
        """Whether a base of this head is in the lineage's past: one of the moment in which a child departs is."""
        return self.start <= usable_from and (self.end is None or usable_from <= self.end)


Lineage = tuple[Stretch, ...]
"""From the youngest head to the one that began from a template."""


def start_of(head: Head) -> Lsn:
    """Where a head's own log begins; 0 for one that began from a template, whose whole log is its own."""
    return Lsn(0) if head.origin_lsn is None else parse_lsn(head.origin_lsn)


def lineage_of(heads: Mapping[HeadId, Head], head_id: HeadId) -> Lineage:
    """The lineage of a head. Raises Defect when an ancestor is not among ``heads``, or is its own."""
    stretches: list[Stretch] = []
    end: Lsn | None = None
    following: HeadId | None = head_id
    while following is not None:
        head = heads.get(following)
        if head is None or len(stretches) == ANCESTORS_MAX:
            raise Defect(f"the lineage of {head_id} has no beginning; it breaks off at {following}", head=head_id)
        start = start_of(head)
        if end is not None and start > end:
            raise Defect(f"{stretches[-1].head.id} departs from {head.id} before that begins", head=head_id)
        stretches.append(Stretch(head, start, end))
        following, end = head.origin_head_id, start
    return tuple(stretches)


def upto(lineage: Lineage, lsn: Lsn) -> Lineage:
    """The lineage without the heads that begin behind ``lsn``: what leads there, the youngest first.

    A head whose child departs exactly where it begins has written nothing of the child's past; it stays.
    """
    return tuple(stretch for stretch in lineage if stretch.start <= lsn) or lineage[-1:]


def writer_of(lineage: Lineage, number: int) -> Stretch:
    """Whose copy of segment ``number`` leads to the youngest head: the first segment of each head repeats its parent's
    up to where it begins."""
    for stretch in lineage:
        if number_of(stretch.start) <= number:
            return stretch
    return lineage[-1]
