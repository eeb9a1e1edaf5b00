"""Decisions about limits, without a cell: who may connect, what a quota means, what a token proves."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.cell import operator_access
from tenantry.cell.allowlist import ENTRIES_MAX, admits, check, parse_entry
from tenantry.cell.consumption import Amounts
from tenantry.cell.quotas import exceeded, limits_of, reads_only, refusing, spent_of
from tenantry.errors import InvalidInput
from tenantry.neon.ids import ProjectId

NOW = datetime(2026, 11, 24, 15, 41, 12, tzinfo=UTC)
P = ProjectId("cool-sun-12345678")
ADDRESSES = st.ip_addresses()


def listed(*entries: str, **more: object) -> dict[str, object]:
    return {"allowed_ips": {"ips": list(entries), **more}}


# -- addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
        ("203.0.113.7/24", "203.0.113.1", "203.0.112.255"),
        ("203.0.113.7-203.0.113.20", "203.0.113.20", "203.0.113.21"),
        (" 203.0.113.7 - 203.0.113.20 ", "203.0.113.7", "203.0.113.6"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("2001:db8::1-2001:db8::ff", "2001:db8::80", "2001:db8::100"),
        ("203.0.113.7", "::ffff:203.0.113.7", "::203.0.113.7"),
        ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
    ],
)
def test_entries_as_people_write_them(entry: str, inside: str, outside: str) -> None:
    assert admits(listed(entry), inside, protected=False)
    assert not admits(listed(entry), outside, protected=False)
    assert admits(listed("198.51.100.1", entry), inside, protected=False), "any entry will do"


@pytest.mark.parametrize(
    "entry",
    ["", "example.com", "203.0.113.300", "203.0.113.0/33", "203.0.113.9-203.0.113.1", "203.0.113.1-2001:db8::1", "*",
     "203.0.113.1-", "1" * 200],
)  # fmt: skip
def test_what_is_no_entry_is_told(entry: str) -> None:
    with pytest.raises(InvalidInput, match="is no address, network or range"):
        parse_entry(entry)
    with pytest.raises(InvalidInput, match="is no address"):
        check(["203.0.113.7", entry])


def test_a_list_has_a_bound() -> None:
    check(["203.0.113.7"] * ENTRIES_MAX)
    with pytest.raises(InvalidInput, match="at most"):
        check(["203.0.113.7"] * (ENTRIES_MAX + 1))


@given(ADDRESSES, ADDRESSES, ADDRESSES)
def test_a_range_holds_what_lies_between(a: object, b: object, c: object) -> None:
    first, last = ipaddress.ip_address(str(a)), ipaddress.ip_address(str(b))
    client = ipaddress.ip_address(str(c))
    if first.version != last.version or first > last:  # pyright: ignore[reportOperatorIssue] - of one version by now
        return
    within = client.version == first.version and int(first) <= int(client) <= int(last)
    mapped = getattr(client, "ipv4_mapped", None)
    if mapped is None:
        assert admits(listed(f"{first}-{last}"), str(client), protected=False) == within


@given(ADDRESSES, st.booleans())
def test_nothing_set_lets_everybody_in(address: object, protected: bool) -> None:
    for settings in ({}, {"allowed_ips": None}, listed(), {"allowed_ips": {"protected_branches_only": True}}):
        assert admits(settings, str(address), protected=protected)


def test_only_protected_branches_where_it_says_so() -> None:
    settings = listed("203.0.113.7", protected_branches_only=True)
    assert admits(settings, "8.8.8.8", protected=False)
    assert not admits(settings, "8.8.8.8", protected=True)
    assert admits(settings, "203.0.113.7", protected=True)


@pytest.mark.parametrize(
    ("address", "comes"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("192.168.1.9", True), ("172.31.0.1", True), ("::1", True),
        ("fd00::1", True), ("fe80::1%eth0", True), ("::ffff:10.0.0.1", True), ("8.8.8.8", False),
        ("2606:4700::1111", False), ("::ffff:8.8.8.8", False), ("", False), ("no address", False),
    ],
)  # fmt: skip
def test_public_connections_can_be_blocked_whatever_the_list_says(address: str, comes: bool) -> None:
    assert admits({"block_public_connections": True}, address, protected=False) == comes
    assert admits({"block_public_connections": True, **listed("8.8.8.8")}, address, protected=False) == comes


# -- quotas --------------------------------------------------------------------------------------------------

QUOTA = {"active_time_seconds": 100, "compute_time_seconds": 0, "written_data_bytes": 1000, "logical_size_bytes": 50}


def test_zero_and_absent_are_no_limit() -> None:
    assert limits_of({}) == {}
    assert limits_of({"quota": None}) == {}
    assert limits_of({"quota": QUOTA}) == {
        "active_time_seconds": 100, "written_data_bytes": 1000, "logical_size_bytes": 50,
    }  # fmt: skip


@given(st.floats(0, 300), st.integers(0, 3000), st.integers(0, 200))
def test_steps_follow_the_share_that_is_used(active: float, written: int, size: int) -> None:
    spent = {
        one.name: one for one in spent_of({"quota": QUOTA}, Amounts(active_seconds=active, written_bytes=written), size)
    }
    for name, used, limit in (("active_time_seconds", active, 100), ("written_data_bytes", written, 1000)):
        expected = "exceeded" if used >= limit else "warned" if used >= 0.8 * limit else "within"
        assert spent[name].level == expected  # pyright: ignore[reportArgumentType]
    refused = refusing(list(spent.values()))
    assert (refused is None) == (active < 100 and written < 1000), "a branch's size turns nobody away"
    assert reads_only({"quota": QUOTA}, size) == (size >= 50)


def test_what_is_told_names_the_quota_in_neons_words() -> None:
    (spent,) = spent_of({"quota": {"compute_time_seconds": 60}}, Amounts(compute_seconds=61))
    error = exceeded(spent, datetime(2026, 12, 1, tzinfo=UTC))
    assert error.message == (
        "Your account or project has exceeded the compute time quota. Upgrade your plan to increase limits."
    )
    assert error.next_step.startswith(
        "settings.quota.compute_time_seconds of the project is 60; it begins anew at 2026-12"
    )
    assert error.http_status == 402
    assert not reads_only({}, 10**12)
    assert not reads_only({"quota": QUOTA}, None)


# -- tokens --------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32), st.integers(1, 3600))
def test_a_token_holds_for_its_project_and_its_time(key: bytes, seconds: int) -> None:
    until = NOW + timedelta(seconds=seconds)
    token = operator_access.issue(key, P, until)
    assert operator_access.valid(key, P, token, NOW)
    assert operator_access.valid(key, P, token, until.replace(microsecond=0) - timedelta(milliseconds=1))
    assert not operator_access.valid(key, P, token, until)
    assert not operator_access.valid(key, ProjectId("other"), token, NOW)
    assert not operator_access.valid(bytes(32) if any(key) else b"1" * 32, P, token, NOW)
    assert len(token) < operator_access.TOKEN_LENGTH_MAX
    assert not set(token) & set(" \\'\"=&")


@given(st.one_of(st.text(max_size=120), st.from_regex(r"\d{10}\.[\w-]{32}", fullmatch=True)))
def test_nothing_else_is_a_token(text: str) -> None:
    assert not operator_access.valid(b"k" * 32, P, text, NOW)


def test_the_end_cannot_be_moved() -> None:
    key = b"k" * 32
    end, _, signature = operator_access.issue(key, P, NOW + timedelta(seconds=5)).partition(".")
    assert not operator_access.valid(key, P, f"{int(end) + 3600}.{signature}", NOW)
