"""Retention against brute force: after it every promised state can still be made, and nothing is kept in vain.

The oracle knows nothing of lineages as ranges: it walks from a state backwards, byte position by byte position, asking
which head wrote the byte, until it stands at a base.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.cell.model import BuildId, Head
from tenantry.cell.storage.bases import Base
from tenantry.cell.storage.retention import Kept, Pin, Retention, retain
from tenantry.cell.storage.segments import Segment
from tenantry.neon.ids import BranchId, HeadId, ProjectId
from tenantry.postgres.lsn import Lsn, format_lsn
from tenantry.postgres.template import WAL_SEGMENT_BYTES

NOW = datetime(2030, 1, 1, tzinfo=UTC)
STEP = WAL_SEGMENT_BYTES // 4
"""Positions are multiples of a quarter of a segment, so that edges of segments are often hit."""
FIRST = Lsn(WAL_SEGMENT_BYTES + STEP)
INSIDE = 16
"""States also lie a little behind those positions."""


@dataclass
class World:
    """Heads with how far each has written, and what each has on disk."""

    heads: dict[HeadId, Head] = field(default_factory=dict)
    ends: dict[HeadId, Lsn] = field(default_factory=dict)
    bases: dict[HeadId, list[Base]] = field(default_factory=dict)
    segments: dict[HeadId, dict[int, Segment]] = field(default_factory=dict)
    windows: dict[HeadId, Lsn] = field(default_factory=dict)
    pins: list[Pin] = field(default_factory=list)

    def add(self, origin: tuple[HeadId, Lsn] | None, length: int) -> HeadId:
        head_id = HeadId(f"h{len(self.heads)}")
        start = FIRST if origin is None else origin[1]
        self.heads[head_id] = Head(
            id=head_id,
            project_id=ProjectId("p"),
            branch_id=BranchId("b"),
            build_id=BuildId("x"),
            origin_head_id=origin and origin[0],
            origin_lsn=origin and format_lsn(origin[1]),
            created_at=NOW,
        )
        self.ends[head_id] = end = Lsn(start + length * STEP)
        self.bases[head_id] = []
        if origin is None:
            self.base(head_id, start)
        # As link_new_segments leaves it: the segment in which it begins, if it was begun, to the one in which it ends.
        self.segments[head_id] = {
            number: Segment(1, number) for number in range(start // WAL_SEGMENT_BYTES, -(-end // WAL_SEGMENT_BYTES))
        }
        return head_id

    def base(self, head_id: HeadId, lsn: Lsn) -> None:
        self.bases[head_id].append(
            Base(
                number=len(self.bases[head_id]) + 1, kind="cold", lsn=Lsn(lsn - 8), usable_from=lsn, timeline=1,
                taken_at=NOW, last_commit=NOW, build_id=BuildId("x"), system_identifier=1, bytes=0, digest="",
            )
        )  # fmt: skip

    def start(self, head_id: HeadId) -> int:
        origin = self.heads[head_id].origin_lsn
        return FIRST if origin is None else int(origin.split("/")[1], 16)

    def retained(self) -> Retention:
        kept = {h: Kept(tuple(self.bases[h]), self.segments[h]) for h in self.heads}
        return retain(self.heads, kept, windows=self.windows, pins=self.pins)

    def without(self, gone: Retention) -> World:
        return World(
            self.heads,
            self.ends,
            {h: [base for base in self.bases[h] if base not in gone.bases[h]] for h in self.heads},
            {h: {n: s for n, s in self.segments[h].items() if s not in gone.segments[h]} for h in self.heads},
        )

    # -- the oracle --------------------------------------------------------------------------------------

    def makeable(self, head_id: HeadId, lsn: int) -> bool:
        """Whether the state before ``lsn`` of this head's lineage can be made from what is on disk."""
        while lsn < self.start(head_id):
            parent = self.heads[head_id].origin_head_id
            if parent is None:
                return False
            head_id = parent
        return self._walk(head_id, head_id, lsn, lsn)

    def _walk(self, target: HeadId, writer: HeadId, lsn: int, position: int) -> bool:
        """Backwards from ``position``, whose bytes before it are needed; ``writer`` is the head there."""
        while True:
            if any(base.usable_from == position for base in self.bases[writer]) and self._has(target, position - 8):
                return True
            if position <= self.start(writer):
                parent = self.heads[writer].origin_head_id
                if parent is None:
                    return False
                writer = parent
                continue
            if not self._has(target, position - 1):
                return False
            position -= STEP if position % STEP == 0 else position % STEP

    def _has(self, target: HeadId, byte: int) -> bool:
        """Whether the file is there in which recovery of ``target`` looks for this byte: a head's first segment
        stands for its parent's."""
        number = byte // WAL_SEGMENT_BYTES
        head = target
        while number < self.start(head) // WAL_SEGMENT_BYTES:
            parent = self.heads[head].origin_head_id
            if parent is None:
                return False
            head = parent
        return number in self.segments[head]


def promised(world: World) -> Iterator[tuple[HeadId, int]]:
    for head_id, begin in world.windows.items():
        for lsn in range(begin, world.ends[head_id] + 1, STEP):
            yield head_id, lsn
            if lsn + INSIDE < world.ends[head_id]:
                yield head_id, lsn + INSIDE
    for pin in world.pins:
        yield pin.head_id, pin.lsn


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World()
    world.add(None, draw(st.integers(1, 30)))

    def a_place(head_id: HeadId) -> Lsn:
        low, high = world.start(head_id), world.ends[head_id]
        return Lsn(draw(st.integers(low // STEP, high // STEP)) * STEP)

    def a_head() -> HeadId:
        return draw(st.sampled_from(sorted(world.heads)))

    for _ in range(draw(st.integers(0, 5))):
        parent = a_head()
        world.add((parent, a_place(parent)), draw(st.integers(0, 20)))
    for _ in range(draw(st.integers(0, 6))):
        head_id = a_head()
        lsn = a_place(head_id)
        if lsn > world.start(head_id):
            world.base(head_id, lsn)
    for head_id in sorted(world.heads):
        if draw(st.booleans()):
            lineage = [head_id]
            while (parent := world.heads[lineage[-1]].origin_head_id) is not None:
                lineage.append(parent)
            chosen = draw(st.sampled_from(lineage))
            younger = lineage[: lineage.index(chosen)]
            limit = world.start(younger[-1]) if younger else world.ends[head_id]
            world.windows[head_id] = Lsn(
                draw(st.integers(world.start(chosen) // STEP, max(limit, world.start(chosen)) // STEP)) * STEP
            )
    for _ in range(draw(st.integers(0, 3))):
        head_id = a_head()
        world.pins.append(Pin(head_id, a_place(head_id)))
    return world


@given(worlds())
@settings(max_examples=400, deadline=None)
def test_every_promised_state_stays_makeable(world: World) -> None:
    before = [(head_id, lsn) for head_id, lsn in promised(world) if world.makeable(head_id, lsn)]
    assert len(before) == len(list(promised(world)))  # nothing was lost yet, so all can be made
    gone = world.retained()
    assert gone.unreachable == ()
    after = world.without(gone)
    assert [(head_id, lsn) for head_id, lsn in before if not after.makeable(head_id, lsn)] == []
    again = World(**{**vars(after), "windows": world.windows, "pins": world.pins}).retained()
    assert not any(again.bases.values()) and not any(again.segments.values())


@given(worlds())
@settings(max_examples=300, deadline=None)
def test_no_segment_is_kept_in_vain(world: World) -> None:
    """Without any one of them a promised state cannot be made."""
    after = world.without(world.retained())
    states = list(promised(world))
    for head_id, segments in after.segments.items():
        for number in list(segments):
            segment = segments.pop(number)
            assert not all(after.makeable(*state) for state in states), (head_id, number)
            segments[number] = segment


def test_a_loss_that_happened_earlier_is_told_and_what_is_left_stays() -> None:
    world = World()
    head = world.add(None, 20)
    world.base(head, Lsn(4 * WAL_SEGMENT_BYTES))
    del world.bases[head][0]
    world.windows[head] = Lsn(2 * WAL_SEGMENT_BYTES)
    world.pins.append(Pin(head, Lsn(3 * WAL_SEGMENT_BYTES)))
    gone = world.retained()
    assert gone.unreachable == (Pin(head, Lsn(2 * WAL_SEGMENT_BYTES)), Pin(head, Lsn(3 * WAL_SEGMENT_BYTES)))
    assert gone.bases[head] == () and gone.segments[head] == ()


def test_an_idle_tenant_keeps_one_base_and_next_to_nothing_else() -> None:
    world = World()
    head = world.add(None, 41)
    world.base(head, Lsn(world.ends[head] - STEP))
    world.windows[head] = world.ends[head]
    gone = world.retained()
    assert [base.number for base in gone.bases[head]] == [1]
    assert len(world.segments[head]) - len(gone.segments[head]) == 1


def test_a_deleted_parent_keeps_only_what_its_child_begins_with() -> None:
    world = World()
    parent = world.add(None, 40)
    child = world.add((parent, Lsn(5 * WAL_SEGMENT_BYTES + STEP)), 3)
    world.windows[child] = Lsn(5 * WAL_SEGMENT_BYTES + STEP)
    gone = world.retained()
    left = world.segments[parent].keys() - {segment.number for segment in gone.segments[parent]}
    assert left == {0, 1, 2, 3, 4} & world.segments[parent].keys()
    assert gone.bases[parent] == ()
