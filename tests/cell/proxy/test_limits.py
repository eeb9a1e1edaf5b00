"""Bounds with a clock that the test turns."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.cell.proxy.limits import (
    PER_ADDRESS,
    PER_ADDRESS_AND_ENDPOINT,
    Allowance,
    FailureTable,
    Handshake,
    Limits,
    network_of,
)
from tenantry.cell.proxy.refusals import Refusal
from tenantry.cell.proxy.settings import Settings
from tenantry.neon.ids import EndpointId

A, B = EndpointId("ep-a"), EndpointId("ep-b")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def failures_until_refused(limits: Limits, network: str, endpoint: EndpointId) -> int:
    for count in range(10_000):
        try:
            limits.check_failures(network, endpoint)
        except Refusal:
            return count
        limits.login_failed(network, endpoint)
    raise AssertionError("never refused")


def test_failures_are_forgiven_one_by_one():
    clock = Clock()
    limits = Limits(Settings(secret=b""), clock)
    assert failures_until_refused(limits, "1.2.3.4", A) == PER_ADDRESS_AND_ENDPOINT.burst
    clock.now += PER_ADDRESS_AND_ENDPOINT.seconds_per_failure
    assert failures_until_refused(limits, "1.2.3.4", A) == 1
    clock.now += 1000
    assert failures_until_refused(limits, "1.2.3.4", A) == PER_ADDRESS_AND_ENDPOINT.burst


def test_other_addresses_and_endpoints_are_not_concerned():
    limits = Limits(Settings(secret=b""), Clock())
    failures_until_refused(limits, "1.2.3.4", A)
    limits.check_failures("1.2.3.4", B)
    limits.check_failures("1.2.3.5", A)


def test_an_address_that_tries_many_endpoints_is_refused_at_all():
    limits = Limits(Settings(secret=b""), Clock())
    for number in range(PER_ADDRESS.burst):
        limits.login_failed("1.2.3.4", EndpointId(f"ep-{number}"))
    with pytest.raises(Refusal, match="too many failed logins"):
        limits.check_failures("1.2.3.4", EndpointId("ep-new"))
    limits.check_failures("1.2.3.5", EndpointId("ep-new"))


@given(st.lists(st.integers(0, 50), max_size=200))
def test_the_table_is_bounded_whatever_fails(names):
    table = FailureTable(Allowance(2, 1.0), Clock(), size_max=10)
    for name in names:
        table.failed(name)
        assert len(table) <= 10
        assert table.wait_seconds(name) <= names.count(name)


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_more_than_the_allowance_passes_in_any_time(pauses):
    clock = Clock()
    table = FailureTable(Allowance(3, 1.0), clock)
    started, passed = clock.now, 0
    for pause in pauses:
        clock.now += pause
        if table.wait_seconds("x") == 0:
            table.failed("x")
            passed += 1
    assert passed <= 3 + (clock.now - started) + 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(address, network):
    assert network_of(address) == network


def test_who_was_silent_for_longest_gives_way():
    limits = Limits(Settings(secret=b"", handshakes_max=4, handshakes_per_address_max=2), Clock())
    gone: list[str] = []
    with ExitStack() as stack:

        def come(network: str, name: str) -> Handshake:
            handshake = stack.enter_context(limits.handshake(network))
            stack.enter_context(handshake.silent(lambda: gone.append(name)))
            return handshake

        first = come("a", "a1")
        come("a", "a2")
        come("b", "b1")
        come("a", "a3")  # The address has its two, so one of the address goes.
        assert (gone, first.displaced) == (["a1"], True)
        come("c", "c1")  # The worker has its four, so whoever was silent for longest goes.
        assert gone == ["a1", "a2"]
        # Of those who were told to go none is told again, although their places are taken until they are gone.
        come("b", "b2")
        come("d", "d1")
        assert gone == ["a1", "a2", "b1", "a3"]
    with limits.handshake("a"), limits.handshake("a"), limits.handshake("b"), limits.handshake("b"):
        assert gone == ["a1", "a2", "b1", "a3"], "who is gone gives way to nobody"


def test_who_waits_for_us_gives_way_to_nobody():
    limits = Limits(Settings(secret=b"", handshakes_max=2), Clock())
    gone: list[str] = []
    with limits.handshake("a") as first, limits.handshake("b") as second:
        with first.silent(lambda: gone.append("first")):
            pass
        with pytest.raises(Refusal, match="too many clients are logging in"), limits.handshake("c"):
            pass
        with second.silent(lambda: gone.append("second")), limits.handshake("c"):
            assert gone == ["second"]
        with pytest.raises(Refusal), second.silent(lambda: None), limits.handshake("c"), limits.handshake("c"):
            pass


def test_few_descriptors_leave_room_for_those_who_are_known():
    few = Settings(secret=b"").bounded(200)
    assert (few.connections_max, few.handshakes_max, few.handshakes_per_address_max) == (200, 100, 50)
    many = Settings(secret=b"")
    assert many.bounded(10**6) == many


def test_counts_go_back_to_nothing():
    limits = Limits(Settings(secret=b"", connections_max=1, handshakes_max=1), Clock())
    for address in ("a", "b"):
        with limits.connection(), limits.handshake(address):
            limits.enter_session(A, 1)
            limits.enter_session(B, 1)
            for held in (limits.connection(), limits.handshake("c")):
                with pytest.raises(Refusal), held:
                    pass
            with pytest.raises(Refusal, match="has its 1 connections"):
                limits.enter_session(A, 1)
            limits.leave_session(A)
            limits.leave_session(B)
