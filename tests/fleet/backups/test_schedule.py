"""When a tenant is due. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.backups.schedule import AGAIN_AFTER, checked_cron, is_due, next_time
from tenantry.fleet.catalog.backups import BackupId, BackupRecord, KeyId, Standing
from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.neon.ids import ProjectId

NIGHT = datetime(2026, 11, 30, 3, tzinfo=UTC)
NEVER_TRIED = Standing(
    tenant_id=TenantId(UUID(int=1)), slug="t", provider_id=ProviderId(UUID(int=2)), project_id=ProjectId("p"),
    plan="launch", cron="0 3 * * *", keep=None, good=None, tried_at=None,
)  # fmt: skip


def backed_up(at: datetime) -> Standing:
    good = BackupRecord(
        id=BackupId("b"), tenant_id=NEVER_TRIED.tenant_id, slug="t", vault="file:///v", place="t/b", key_id=KeyId("d"),
        state="done", started_at=at, started_by="worker", finished_at=at, manifest_sha256="0", size_bytes=1, rows=0,
        fingerprint=None, activity=None, unchanged_at=None, failure=None, verified_at=None, doubted_at=None,
    )  # fmt: skip
    return replace(NEVER_TRIED, good=good, tried_at=at)


def test_a_tenant_is_due_until_it_has_a_backup() -> None:
    assert is_due(NEVER_TRIED, NIGHT)
    yesterday = backed_up(NIGHT - timedelta(hours=23))
    assert not is_due(yesterday, NIGHT - timedelta(minutes=1))
    assert is_due(yesterday, NIGHT)
    assert is_due(yesterday, NIGHT + timedelta(hours=20)), "a night without a worker is made up for"
    assert not is_due(backed_up(NIGHT + timedelta(minutes=4)), NIGHT + timedelta(hours=20))
    assert yesterday.good is not None
    asleep = replace(yesterday, good=replace(yesterday.good, unchanged_at=NIGHT + timedelta(minutes=4)))
    assert not is_due(asleep, NIGHT + timedelta(hours=20))


def test_what_came_to_nothing_is_tried_again_but_not_at_once() -> None:
    """The vault was away in the night, say."""
    for standing in (NEVER_TRIED, backed_up(NIGHT - timedelta(hours=23))):
        failed = replace(standing, tried_at=NIGHT)
        assert not is_due(failed, NIGHT + timedelta(minutes=5))
        assert is_due(failed, NIGHT + AGAIN_AFTER)
        failed_again = replace(standing, tried_at=NIGHT + AGAIN_AFTER)
        assert not is_due(failed_again, NIGHT + AGAIN_AFTER + timedelta(minutes=5))


def test_never_and_nothing_said_are_never() -> None:
    for cron in ("never", None):
        assert not is_due(replace(NEVER_TRIED, cron=cron), NIGHT)
        assert next_time(cron, NIGHT) is None
    assert next_time("0 3 * * *", NIGHT) == NIGHT + timedelta(days=1)


def test_a_schedule_that_is_none_is_refused() -> None:
    assert checked_cron("*/15 * * * *") == "*/15 * * * *"
    for text in ("", "at night", "0 3 * *", "61 * * * *", "0 0 31 2 *"):
        with pytest.raises(InvalidInput):
            checked_cron(text)
