"""What is counted is told once: nothing is lost when the cell does not listen, and nothing is told twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.cell.proxy.metering import REPORT_ENDPOINTS_MAX, Meter
from tenantry.cell.proxy.ports import Cell, Traffic
from tenantry.errors import Unavailable
from tenantry.neon.ids import EndpointId


@dataclass
class Ear:
    """The part of a cell that hears reports, when it does."""

    deaf: bool = False
    mute: bool = False
    """It hears, and its answer is lost."""
    heard: list[Traffic] = field(default_factory=list)
    longest: int = 0
    last: int = 0

    async def report(self, number: int, traffic: list[Traffic]) -> None:
        if self.deaf:
            raise Unavailable("deaf")
        if number > self.last:
            assert number == self.last + 1
            self.last = number
            self._hear(traffic)
        if self.mute:
            raise Unavailable("mute")

    def _hear(self, traffic: list[Traffic]) -> None:
        self.longest = max(self.longest, len(traffic))
        self.heard += traffic


class Count:
    def __init__(self) -> None:
        self.bytes_in = self.bytes_out = 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("open"), st.integers(0, 2)),
        st.tuples(st.just("move"), st.integers(0, 9)),
        st.tuples(st.just("close"), st.integers(0, 9)),
        st.tuples(st.just("report"), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=150)
def test_every_byte_and_connection_is_told_once(steps):
    async def run() -> None:
        ear = Ear()
        meter = Meter(cast(Cell, ear), 1000)
        running = []
        moved = opened = 0
        for step, argument in steps:
            if step == "open":
                count = Count()
                held = meter.session(EndpointId(f"ep-{argument}"), count)
                held.__enter__()
                running.append((count, held))
                opened += 1
            elif step == "report":
                ear.deaf, ear.mute = argument == 1, argument == 2
                await meter.report()
            elif running:
                count, held = running[argument % len(running)]
                if step == "move":
                    count.bytes_in += 3
                    count.bytes_out += 5
                    moved += 1
                else:
                    held.__exit__(None, None, None)
                    running.remove((count, held))
        ear.deaf = ear.mute = False
        await meter.report()
        assert sum(t.bytes_in for t in ear.heard) == 3 * moved
        assert sum(t.bytes_out for t in ear.heard) == 5 * moved
        assert sum(t.connections_opened for t in ear.heard) == opened
        last = {t.endpoint: t.connections_open for t in ear.heard}
        assert sum(last.values()) == len(running)
        before = len(ear.heard)
        await meter.report()
        assert len(ear.heard) == before, "nothing has changed"

    asyncio.run(run())


def test_a_report_has_a_bound():
    async def run() -> None:
        ear = Ear()
        meter = Meter(cast(Cell, ear), 1000)
        for number in range(2 * REPORT_ENDPOINTS_MAX + 1):
            with meter.session(EndpointId(f"ep-{number}"), Count()):
                pass
        await meter.report()
        assert ear.longest == REPORT_ENDPOINTS_MAX
        assert len(ear.heard) == 2 * REPORT_ENDPOINTS_MAX + 1

    asyncio.run(run())


def test_the_end_of_the_last_session_is_told_soon():
    async def run() -> None:
        ear = Ear()
        meter = Meter(cast(Cell, ear), 1000)
        task = asyncio.create_task(meter.run())
        with meter.session(EndpointId("ep-a"), Count()):
            pass
        async with asyncio.timeout(10):
            while not ear.heard:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
