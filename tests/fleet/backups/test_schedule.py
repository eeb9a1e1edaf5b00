"""When a tenant is due. Pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tenantry.errors import InvalidInput
from tenantry.fleet.backups.schedule import checked_cron, is_due, next_time
from tenantry.fleet.catalog.backups import Standing
from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.neon.ids import ProjectId

NIGHT = datetime(2026, 11, 30, 3, tzinfo=UTC)
NEVER_TRIED = Standing(
    tenant_id=TenantId(UUID(int=1)), slug="t", provider_id=ProviderId(UUID(int=2)), project_id=ProjectId("p"),
    plan="launch", cron="0 3 * * *", keep=None, good=None, tried_at=None,
)  # fmt: skip


def test_a_tenant_is_due_until_something_was_tried() -> None:
    assert is_due(NEVER_TRIED, NIGHT)
    yesterday = replace(NEVER_TRIED, tried_at=NIGHT - timedelta(hours=23))
    assert not is_due(yesterday, NIGHT - timedelta(minutes=1))
    assert is_due(yesterday, NIGHT)
    assert is_due(yesterday, NIGHT + timedelta(hours=20)), "a night without a worker is made up for"
    assert not is_due(replace(yesterday, tried_at=NIGHT + timedelta(minutes=4)), NIGHT + timedelta(hours=20))


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
