"""Which backups stay. Pure: every rule, whatever is said, leaves a way back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import InvalidInput
from tenantry.fleet.backups.retention import parse_keep, to_delete
from tenantry.fleet.catalog.backups import BackupId, BackupRecord, KeyId
from tenantry.fleet.catalog.records import TenantId

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def backup(at: datetime, *, verified: bool = False) -> BackupRecord:
    return BackupRecord(
        id=BackupId(f"{at:%Y-%m-%dT%H-%M-%S.%f}"), tenant_id=TenantId(UUID(int=1)), slug="t", vault="v", place="p",
        key_id=KeyId("k"), state="done", started_at=at, started_by="test", finished_at=at, manifest_sha256="0",
        size_bytes=1, rows=1, fingerprint=None, activity=None, unchanged_at=None, failure=None,
        verified_at=at if verified else None, doubted_at=None,
    )  # fmt: skip


def stay(rule: str, backups: list[BackupRecord]) -> list[datetime]:
    gone = {each.id for each in to_delete(backups, parse_keep(rule), NOW)}
    return sorted((each.started_at for each in backups if each.id not in gone), reverse=True)


def test_days_keep_what_is_younger_and_the_newest_in_any_case() -> None:
    daily = [backup(NOW - timedelta(days=n)) for n in range(40)]
    assert stay("14d", daily) == [NOW - timedelta(days=n) for n in range(14)]
    old = [backup(NOW - timedelta(days=n)) for n in (200, 300)]
    assert stay("14d", old) == [NOW - timedelta(days=200)]


def test_grandfather_father_and_son() -> None:
    twice_a_day = [backup(NOW - timedelta(hours=12 * n)) for n in range(2 * 400)]
    kept = stay("daily=3 weekly=3 monthly=3", twice_a_day)
    assert kept == [
        datetime(2026, 11, 30, 12, tzinfo=UTC), datetime(2026, 11, 29, 12, tzinfo=UTC),
        datetime(2026, 11, 28, 12, tzinfo=UTC), datetime(2026, 11, 22, 12, tzinfo=UTC),
        datetime(2026, 10, 31, 12, tzinfo=UTC), datetime(2026, 9, 30, 12, tzinfo=UTC),
    ]  # fmt: skip
    # A tenant that slept for months has its last days all the same.
    rare = [backup(NOW - timedelta(days=100 * n)) for n in range(4)]
    assert len(stay("daily=3", rare)) == 3


def test_the_newest_verified_stays_behind_newer_ones() -> None:
    backups = [backup(NOW - timedelta(days=n), verified=n in (20, 30)) for n in range(40)]
    assert stay("last=2", backups) == [NOW - timedelta(days=n) for n in (0, 1, 20)]


@given(
    st.lists(st.tuples(st.integers(0, 10**8), st.booleans()), max_size=30, unique_by=lambda each: each[0]),
    st.sampled_from(["1h", "14d", "last=1", "daily=2 weekly=1", "hourly=1 yearly=1", "7d monthly=12"]),
)
def test_never_the_last_good_one(ages: list[tuple[int, bool]], rule: str) -> None:
    backups = [backup(NOW - timedelta(seconds=age), verified=verified) for age, verified in ages]
    gone = to_delete(backups, parse_keep(rule), NOW)
    assert [each.started_at for each in gone] == sorted(each.started_at for each in gone), "the oldest goes first"
    left = [each for each in backups if each not in gone]
    if backups:
        assert max(backups, key=lambda each: each.started_at) in left
    verified = [each for each in backups if each.verified_at is not None]
    if verified:
        assert max(verified, key=lambda each: each.started_at) in left
    # What was pruned once is not pruned again: the rule is stable.
    assert to_delete(left, parse_keep(rule), NOW) == []


@pytest.mark.parametrize("text", ["", "7", "daily=0", "sometimes=3", "daily=3 daily=4", "7d 14d", "daily=x"])
def test_a_rule_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_keep(text)
