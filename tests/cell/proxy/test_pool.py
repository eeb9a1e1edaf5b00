"""Which server connection whom is lent, and the leases that short uses share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenantry.cell.proxy import leases as leases_module
from tenantry.cell.proxy.leases import Leases
from tenantry.cell.proxy.pool import Kind, Lend, Open, Shelf, Ticket
from tenantry.cell.proxy.ports import LeaseId, Login, Traffic, Upstream
from tenantry.errors import LimitReached, StartFailed, Unavailable
from tenantry.neon.ids import EndpointId
from tenantry.runtime.tasks import Tasks

ENDPOINT = EndpointId("ep-a")
SERVERS_MAX, WAITERS_MAX = 3, 4
KINDS = [Kind(ENDPOINT, b"", (("user", name),)) for name in "abc"]


class ShelfMachine(RuleBasedStateMachine):
    """Everything that can happen to a shelf, and a plain model of what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.shelf: Shelf[int] = Shelf(SERVERS_MAX, WAITERS_MAX)
        self.number = 0
        self.idle: dict[int, Kind] = {}
        self.lent: dict[int, Kind] = {}
        self.opening: list[Kind] = []
        self.waiting: list[tuple[Ticket, Kind]] = []

    def new(self) -> int:
        self.number += 1
        return self.number

    def granted(self, grant: Lend[int] | Open[int], kind: Kind) -> None:
        alike = [server for server, its in self.idle.items() if its == kind]
        match grant:
            case Lend(server):
                assert server == alike[-1], "the one that was used last"
                self.lent[server] = self.idle.pop(server)
            case Open(other):
                assert not alike
                if other is not None:
                    assert len(self.idle) + len(self.lent) + len(self.opening) == SERVERS_MAX
                    assert other == next(iter(self.idle)), "the one that is idle for longest"
                    del self.idle[other]
                self.opening.append(kind)

    def dealt(self, grants: list[tuple[Ticket, Lend[int] | Open[int]]]) -> None:
        for ticket, grant in grants:
            first, kind = self.waiting.pop(0)
            assert ticket == first, "nobody is overtaken"
            self.granted(grant, kind)

    @rule(kind=st.sampled_from(KINDS))
    def ask(self, kind: Kind) -> None:
        ticket = Ticket(self.new())
        if len(self.waiting) == WAITERS_MAX:
            with pytest.raises(LimitReached):
                self.shelf.ask(ticket, kind)
            return
        grant = self.shelf.ask(ticket, kind)
        if grant is None:
            self.waiting.append((ticket, kind))
        else:
            assert not self.waiting, "nobody is overtaken"
            self.granted(grant, kind)

    @precondition(lambda self: self.opening)
    @rule(succeeds=st.booleans())
    def opened(self, succeeds: bool) -> None:
        kind = self.opening.pop(0)
        if succeeds:
            self.lent[self.new()] = kind
        else:
            self.dealt(self.shelf.gone())

    @precondition(lambda self: self.lent)
    @rule(fit=st.booleans())
    def ended(self, fit: bool) -> None:
        server = next(iter(self.lent))
        kind = self.lent.pop(server)
        if fit:
            grants = self.shelf.back(server, kind)
            self.idle[server] = kind
            self.dealt(grants)
        else:
            self.dealt(self.shelf.gone())

    @precondition(lambda self: self.idle)
    @rule()
    def lost(self) -> None:
        server = next(iter(self.idle))
        del self.idle[server]
        self.shelf.lost(server)

    @precondition(lambda self: self.waiting)
    @rule(last=st.booleans())
    def withdraw(self, last: bool) -> None:
        ticket, _ = self.waiting.pop(-1 if last else 0)
        self.shelf.withdraw(ticket)
        self.shelf.withdraw(ticket)

    @invariant()
    def holds(self) -> None:
        out = len(self.lent) + len(self.opening)
        assert self.shelf.out == out
        assert self.shelf.idle == list(self.idle)
        assert self.shelf.waiting == len(self.waiting)
        assert out + len(self.idle) <= SERVERS_MAX
        assert not self.waiting or out == SERVERS_MAX, "nobody waits while one could be had"
        assert self.shelf.empty == (not self.idle and not out and not self.waiting)


TestShelf = ShelfMachine.TestCase
TestShelf.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, database=None)


# -------------------------------------------------------------------------------------------- leases


@dataclass
class CountingCell:
    """Counts what it gives and takes back."""

    woken: int = 0
    out: set[LeaseId] = field(default_factory=set[LeaseId])
    gate: asyncio.Event | None = None
    broken: bool = False

    async def login(self, endpoint: EndpointId, role: str, client_address: str, operator: str | None = None) -> Login:
        raise NotImplementedError

    async def login_failed(self, endpoint: EndpointId, role: str, client_address: str) -> None:
        raise NotImplementedError

    async def wake(self, endpoint: EndpointId, *, operator: bool = False) -> Upstream:
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise StartFailed("no")
        self.woken += 1
        lease = LeaseId(f"lease-{self.woken}")
        self.out.add(lease)
        return Upstream("/nowhere", lease)

    async def release(self, lease: LeaseId) -> None:
        self.out.remove(lease)

    async def report(self, number: int, traffic: list[Traffic]) -> None:
        raise NotImplementedError


Test = Callable[[CountingCell, Leases], Awaitable[None]]


@pytest.fixture
def lease_test(monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], Awaitable[None]]:
    monkeypatch.setattr(leases_module, "LINGER_SECONDS", 0.02)

    async def run(test: Test) -> None:
        cell = CountingCell()
        tasks = Tasks("test")
        leases = Leases(cell, tasks)
        async with asyncio.timeout(20):
            await test(cell, leases)
            await leases.stop()
            await leases.stop()
            while cell.out:
                await asyncio.sleep(0.005)
        await tasks.stop()

    return run


async def test_one_lease_for_many_uses_and_a_moment_longer(
    lease_test: Callable[[Test], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
):
    async def test(cell: CountingCell, leases: Leases) -> None:
        monkeypatch.setattr(leases_module, "LINGER_SECONDS", 3600.0)

        async def use() -> None:
            async with leases.hold(ENDPOINT, 5):
                await asyncio.sleep(0.01)

        await asyncio.gather(*(use() for _ in range(10)))
        await asyncio.sleep(0.02)
        monkeypatch.setattr(leases_module, "LINGER_SECONDS", 0.02)
        await use()
        assert cell.woken == 1
        while cell.out:
            await asyncio.sleep(0.005)
        await use()
        assert cell.woken == 2

    await lease_test(test)


async def test_one_that_may_be_void_is_not_given_to_the_next(lease_test: Callable[[Test], Awaitable[None]]):
    async def test(cell: CountingCell, leases: Leases) -> None:
        async with leases.hold(ENDPOINT, 5) as first:
            leases.renounce(first)
            leases.renounce(first)
            async with leases.hold(ENDPOINT, 5) as second:
                assert second is not first
                assert len(cell.out) == 2
        async with leases.hold(ENDPOINT, 5) as third:
            assert third is second
        leases.renounce(third)
        while cell.out:
            await asyncio.sleep(0.005)

    await lease_test(test)


async def test_one_that_is_given_back_before_its_first_user_hears_of_it_is_not_used(
    lease_test: Callable[[Test], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
):
    async def test(cell: CountingCell, leases: Leases) -> None:
        wake = cell.wake

        async def hurried(endpoint: EndpointId, *, operator: bool = False) -> Upstream:
            # As where the machine is so busy that the moment is over at once.
            monkeypatch.setattr(leases_module, "LINGER_SECONDS", 0 if not cell.woken else 0.02)
            return await wake(endpoint, operator=operator)

        monkeypatch.setattr(cell, "wake", hurried)
        async with leases.hold(ENDPOINT, 5) as held:
            for _ in range(5):
                await asyncio.sleep(0)
            assert cell.out == {held.upstream.lease}

    await lease_test(test)


async def test_whoever_goes_away_before_it_is_awake_holds_nothing(lease_test: Callable[[Test], Awaitable[None]]):
    async def test(cell: CountingCell, leases: Leases) -> None:
        cell.gate = asyncio.Event()
        with pytest.raises(Unavailable):
            async with leases.hold(ENDPOINT, 0.01):
                raise AssertionError("nobody woke it")
        cell.gate.set()
        while not cell.woken:
            await asyncio.sleep(0.005)
        while cell.out:
            await asyncio.sleep(0.005)

    await lease_test(test)


async def test_a_wake_that_fails_is_everybodys_and_not_the_next_ones(lease_test: Callable[[Test], Awaitable[None]]):
    async def test(cell: CountingCell, leases: Leases) -> None:
        async def use() -> None:
            async with leases.hold(ENDPOINT, 5):
                pass

        cell.broken = True
        failed = await asyncio.gather(use(), use(), return_exceptions=True)
        assert [type(error) for error in failed] == [StartFailed, StartFailed]
        cell.broken = False
        await use()
        assert cell.woken == 1

    await lease_test(test)
