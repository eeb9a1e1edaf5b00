"""A random walk over everything that happens to heads, against a model; every state that is looked at must be right.

``TENANTRY_SEED`` repeats one walk.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from tenantry.cell.storage import archive, bases
from tenantry.cell.storage.lineage import start_of
from tenantry.cell.storage.retention import Kept, Pin, retain
from tenantry.neon.ids import HeadId
from tenantry.postgres.lsn import Lsn
from tenantry.runtime import child

RUNNING_MAX = 3
HEADS_MAX = 7


@dataclass
class Known:
    """What a head must hold: its rows in order, and how far back it can be asked."""

    rows: list[Any] = field(default_factory=list)
    """In its lineage, as ``Written``."""
    since: datetime | None = None
    """Start of its window, after something was let go; None while all of its past is there."""
    since_row: int = 0


@dataclass
class Walk:
    site: Any
    chance: random.Random
    heads: dict[HeadId, Known] = field(default_factory=dict)
    pins: list[tuple[HeadId, Lsn, list[int]]] = field(default_factory=list)
    next_number: int = 0
    log: list[str] = field(default_factory=list)

    async def step(self) -> None:
        verbs = [self.write, self.write, self.write, self.sleep, self.kill, self.base, self.branch, self.restore_time,
                 self.restore_lsn, self.snapshot, self.restore_snapshot, self.let_go]  # fmt: skip
        verb = self.chance.choice(verbs)
        head = self.chance.choice(list(self.heads))
        self.log.append(f"{verb.__name__} {head} ({len(self.heads)} heads)")
        await verb(head)

    async def awake(self, head: HeadId) -> None:
        if head not in self.site.running:
            if len(self.site.running) >= RUNNING_MAX:
                await self.site.stop(self.chance.choice(list(self.site.running)))
            await self.site.start(head)

    async def check(self, head: HeadId) -> None:
        await self.awake(head)
        assert await self.site.numbers(head) == [row.n for row in self.heads[head].rows]

    async def write(self, head: HeadId) -> None:
        await self.awake(head)
        count = self.chance.randint(1, 3)
        numbers = range(self.next_number, self.next_number + count)
        self.next_number += count
        bulk = self.chance.choice([0, 0, 200_000, 1_300_000])
        self.heads[head].rows += await self.site.write(head, *numbers, bulk=bulk)
        if self.chance.random() < 0.5:
            await self.site.advance(head)

    async def sleep(self, head: HeadId) -> None:
        if head in self.site.running:
            await self.site.stop(head)
        else:
            await self.check(head)

    async def kill(self, head: HeadId) -> None:
        await self.awake(head)
        running = self.site.running.pop(head)
        group = [running.identity, *child.descendants(running.identity)]
        for identity in group:
            child.kill(identity, signal.SIGKILL)
        for identity in group:
            assert await child.wait_exit(identity, 20)
        await self.check(head)

    async def base(self, head: HeadId) -> None:
        if self.chance.random() < 0.5:
            await self.awake(head)
            await self.site.take_running_base(head)
        else:
            await self.awake(head)
            await self.site.stop(head)
            assert await asyncio.to_thread(self.site.take_base, head) is not None

    def _room(self) -> bool:
        return len(self.heads) < HEADS_MAX

    async def branch(self, head: HeadId) -> None:
        if not self._room():
            return
        known = self.heads[head]
        made = await self.site.branch(head)
        self.heads[made] = Known(list(known.rows), known.since, known.since_row)
        await self.check(made)

    async def restore_time(self, head: HeadId) -> None:
        known = self.heads[head]
        if known.since_row >= len(known.rows):
            return
        index = self.chance.randrange(known.since_row, len(known.rows))
        if known.since is not None and known.rows[index].time < known.since:
            return
        point = await asyncio.to_thread(self.site.history(head).at_time, known.rows[index].time)
        await self._restored(head, point, index + 1)

    async def restore_lsn(self, head: HeadId) -> None:
        known = self.heads[head]
        if known.since is not None:
            return  # rows after the window's start are reached by time; positions before it may be gone
        index = self.chance.randint(0, len(known.rows))
        if index == 0:
            return
        point = await asyncio.to_thread(self.site.history(head).at_lsn, known.rows[index - 1].lsn)
        await self._restored(head, point, index)

    async def _restored(self, head: HeadId, point: Any, count: int) -> None:
        known = self.heads[head]
        if len(self.site.running) >= RUNNING_MAX:
            await self.site.stop(self.chance.choice(list(self.site.running)))
        made, _ = await self.site.recover(head, point)
        assert await self.site.numbers(made) == [row.n for row in known.rows[:count]]
        if self._room():
            self.heads[made] = Known(known.rows[:count], known.since, known.since_row)
        else:
            await self.site.stop(made)
            del self.site.heads[made]

    async def snapshot(self, head: HeadId) -> None:
        await self.awake(head)
        end = await asyncio.to_thread(self.site.history(head).end)
        self.pins.append((head, end, [row.n for row in self.heads[head].rows]))

    async def restore_snapshot(self, _: HeadId) -> None:
        if not self.pins:
            return
        head, lsn, numbers = self.chance.choice(self.pins)
        point = await asyncio.to_thread(self.site.history(head).at_lsn, lsn)
        if len(self.site.running) >= RUNNING_MAX:
            await self.site.stop(self.chance.choice(list(self.site.running)))
        made, _ = await self.site.recover(head, point)
        assert await self.site.numbers(made) == numbers
        await self.site.stop(made)
        del self.site.heads[made]

    async def let_go(self, _: HeadId) -> None:
        """Everybody's window moves on to some row of theirs; what nobody needs goes."""
        windows: dict[HeadId, Lsn] = {}
        for head, known in self.heads.items():
            if known.rows and self.chance.random() < 0.7:
                row = self.chance.randrange(known.since_row, len(known.rows))
                moment = known.rows[row].time
                if known.since is None or moment > known.since:
                    known.since, known.since_row = moment, row
            history = self.site.history(head)
            if known.since is None:
                begin = history.oldest().usable_from
            else:
                begin = (await asyncio.to_thread(history.at_time, known.since)).lsn
            windows[head] = begin
        kept = {
            head: Kept(
                tuple(bases.bases(self.site.dir(head))),
                archive.segments(self.site.dir(head), record.timeline),
            )
            for head, record in self.site.heads.items()
        }
        gone = retain(self.site.heads, kept, windows=windows, pins=[Pin(head, lsn) for head, lsn, _ in self.pins])
        assert gone.unreachable == ()
        for head in self.site.heads:
            for base in gone.bases[head]:
                bases.delete(self.site.dir(head), base.number)
            archive.delete(self.site.dir(head), gone.segments[head])
        self.log.append(
            f"  let go of {sum(map(len, gone.bases.values()))} bases, {sum(map(len, gone.segments.values()))} segments"
        )


async def walk(site: Any, seed: int, steps: int) -> None:
    journey = Walk(site, random.Random(seed))
    print(f"seed {seed}")
    head = site.create()
    journey.heads[head] = Known()
    try:
        await journey.write(head)
        for _ in range(steps):
            await journey.step()
        for head in journey.heads:
            await journey.check(head)
            assert start_of(site.heads[head]) <= site.history(head).end()
    except BaseException:
        print("\n".join(journey.log))
        raise


@pytest.mark.timeout(300)
async def test_a_short_walk(site: Any) -> None:
    await walk(site, int(os.environ.get("TENANTRY_SEED", "7")), 14)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("_", range(20))
async def test_long_walks(site: Any, _: int) -> None:
    await walk(site, secrets.randbits(32), 60)
