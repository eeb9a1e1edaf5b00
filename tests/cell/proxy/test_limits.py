"""Bounds with a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.cell.proxy.limits import (
    PER_ADDRESS,
    PER_ADDRESS_AND_ENDPOINT,
    Allowance,
    FailureTable,
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
