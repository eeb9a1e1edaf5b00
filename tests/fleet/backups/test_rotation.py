"""Nobody's proof grows older than was said, as long as there is time enough; and who waits longest comes first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.fleet.backups.rotation import AGAIN_AFTER_MAX, DUE_AT, due_now, standing_of
from tenantry.fleet.catalog.backups import BackupId
from tenantry.fleet.catalog.records import TenantId
from tenantry.fleet.catalog.verifications import Proven, VerificationState

NOW = datetime(2026, 11, 30, 3, 15, tzinfo=UTC)
WEEK = timedelta(days=7)
HOUR = timedelta(hours=1)


def tenant(
    slug: str = "acme",
    *,
    taken: timedelta | None = HOUR,
    verified: timedelta | None = None,
    tried: timedelta | None = None,
    state: VerificationState | None = None,
    doubted: bool = False,
    died: bool = False,
) -> Proven:
    """All times are ago."""
    return Proven(
        tenant_id=TenantId(UUID(int=1)), slug=slug, name=slug, plan="launch", cron=None, keep=None,
        backups=0 if taken is None else 1,
        newest=None if taken is None else BackupId(f"backup-of-{slug}"),
        newest_at=None if taken is None else NOW - taken,
        seen_at=None, newest_doubted=doubted,
        verified=None if verified is None else BackupId(f"backup-of-{slug}"),
        verified_as_of=None, verified_at=None if verified is None else NOW - verified,
        tried_at=None if tried is None else NOW - tried, tried_state=state,
        failure={"message": "it did not go"} if state in ("failed", "broken") and not died else None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "standing", "is_due"),
    [
        (tenant(taken=None), "no backup", False),
        (tenant(), "unproven", True),
        (tenant(doubted=True), "damaged", True),
        (tenant(verified=HOUR), "verified", False),
        (tenant(verified=WEEK * 0.74), "verified", False),
        (tenant(verified=WEEK * 0.76), "due", True),
        (tenant(verified=WEEK + HOUR), "late", True),
        (tenant(tried=HOUR, state="failed"), "unproven", False),
        (tenant(tried=timedelta(hours=7), state="failed"), "unproven", True),
        (tenant(tried=HOUR, state="broken"), "unproven", False),
        (tenant(tried=HOUR * 0.9, state="broken", died=True), "unproven", False),
        (tenant(tried=HOUR, state="broken", died=True), "unproven", True),
        (tenant(tried=HOUR, state="running"), "unproven", False),
        (tenant(verified=WEEK + HOUR, tried=HOUR, state="passed"), "late", True),
    ],
)
def test_who_is_due(one: Proven, standing: str, is_due: bool) -> None:
    assert standing_of(one, NOW, WEEK) == standing
    assert bool(due_now([one], NOW, WEEK)) is is_due


def test_who_never_had_a_proof_comes_first_then_who_waits_longest() -> None:
    chosen = due_now(
        [
            tenant("due", verified=WEEK * 0.8),
            tenant("late", verified=WEEK * 2),
            tenant("new", taken=HOUR),
            tenant("old", taken=HOUR * 9),
            tenant("fine", verified=HOUR),
        ],
        NOW,
        WEEK,
    )
    assert [each.slug for each in chosen] == ["old", "new", "late", "due"]


@settings(max_examples=30)
@given(
    count=st.integers(1, 12),
    within_hours=st.integers(12, 60),
    every_hours=st.floats(0.75, 1.5),
    spare=st.floats(1.0, 3.0),
)
def test_nobody_is_ever_late_where_there_is_time_for_everybody(
    count: int, within_hours: int, every_hours: float, spare: float
) -> None:
    """Passes that can take as many as have to be taken in the last quarter of the time."""
    within, step = timedelta(hours=within_hours), timedelta(hours=every_hours)
    passes = int(within * (1 - DUE_AT) / step) - 1
    each_pass = max(1, int(count / max(1, passes) * spare) + 1)
    verified: dict[str, datetime | None] = {f"t{number:02}": None for number in range(count)}
    moment, one = NOW, tenant()
    for _ in range(int(2.5 * within / step)):
        known = [replace(one, slug=slug, newest_at=NOW, verified_at=at) for slug, at in verified.items()]
        for due in due_now(known, moment, within)[:each_pass]:
            verified[due.slug] = moment
        if moment > NOW + within:
            assert all(at is not None and moment - at <= within for at in verified.values())
        moment += step


@given(st.sampled_from(["failed", "broken"]), st.integers(1, 400))
def test_what_was_not_good_is_tried_again_and_not_all_the_time(state: VerificationState, within_hours: int) -> None:
    within = timedelta(hours=within_hours)
    again = min(AGAIN_AFTER_MAX, within / 8)
    assert due_now([tenant(tried=again * 0.9, state=state)], NOW, within) == []
    assert len(due_now([tenant(tried=again * 1.1, state=state)], NOW, within)) == 1
