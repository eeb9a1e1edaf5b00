"""The report says who has no proof, what was proved of the others, and nothing that a customer's name could break."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from tenantry.fleet.backups.report import Report, as_markdown, report_of
from tenantry.fleet.catalog.backups import BackupId
from tenantry.fleet.catalog.records import ProviderId, TenantId
from tenantry.fleet.catalog.verifications import Proven, VerificationId, VerificationRecord

NOW = datetime(2026, 11, 30, 3, 15, tzinfo=UTC)
WEEK = timedelta(days=7)
GOOD = Proven(
    tenant_id=TenantId(UUID(int=1)), slug="acme", name="ACME", plan="launch", cron="0 3 * * *", keep="14d", backups=3,
    newest=BackupId("2026-11-30"), newest_at=NOW - timedelta(hours=30), seen_at=NOW - timedelta(hours=2),
    newest_doubted=False, verified=BackupId("2026-11-29"), verified_as_of=NOW - timedelta(hours=54),
    verified_at=NOW - timedelta(days=1), tried_at=None, tried_state=None, failure=None,
)  # fmt: skip


def record(backup: str, seconds: float = 1.5, **proof: object) -> VerificationRecord:
    return VerificationRecord(
        id=VerificationId(UUID(int=2)), backup_id=BackupId(backup), provider_id=ProviderId(UUID(int=3)),
        state="passed", started_at=NOW, started_by="me", finished_at=NOW, seconds=seconds,
        proof={"rows": 500, "tables": 2, "checks": ["mine"], "remarks": []} | proof, failure=None, cleared=True,
    )  # fmt: skip


def made(*tenants: Proven, **verifications: VerificationRecord) -> Report:
    known = {record.backup_id: record for record in verifications.values()}
    return report_of(tenants, known, now=NOW, within=WEEK, vault="s3://acme/backups")


def test_a_tenant_with_a_proof_in_time_is_good() -> None:
    report = made(GOOD, one=record("2026-11-29"))
    (line,) = report.tenants
    assert report.ok
    assert (line.standing, line.restore_seconds, line.rows, line.checks) == ("verified", 1.5, 500, 1)
    assert line.content_age_seconds == 2 * 3600, "it was seen unchanged since"
    assert report.content_age_seconds_max == 2 * 3600


def test_who_has_none_makes_the_whole_not_good() -> None:
    for bad in (
        replace(GOOD, newest=None, newest_at=None, seen_at=None, verified=None, verified_at=None, backups=0),
        replace(GOOD, verified=None, verified_at=None),
        replace(GOOD, verified=None, verified_at=None, newest_doubted=True),
        replace(GOOD, verified_at=NOW - timedelta(days=8)),
    ):
        assert not made(GOOD, bad).ok
    assert made(replace(GOOD, verified_at=NOW - timedelta(days=6))).ok


def test_times_of_restores_are_told_by_median_and_most() -> None:
    tenants = [replace(GOOD, slug=f"t{number}", verified=BackupId(f"b{number}")) for number in range(5)]
    report = made(*tenants, **{f"b{number}": record(f"b{number}", seconds=float(number)) for number in range(5)})
    assert (report.restore_seconds_p50, report.restore_seconds_max) == (2.0, 4.0)


def test_the_document_says_what_is_wrong_and_survives_names() -> None:
    broken = replace(
        GOOD, slug="glo|bex", verified=None, verified_at=None, tried_state="failed", tried_at=NOW,
        failure={"message": "rows <b>differ</b>\n| in *users*"},
    )  # fmt: skip
    text = as_markdown(made(GOOD, broken, one=record("2026-11-29", remarks=["the password of role app"])))
    assert "**1 of 2 tenants have a backup that was restored and compared within 7 d.**" in text
    assert "| glo\\|bex | launch | UNPROVEN |" in text
    assert "rows &lt;b>differ&lt;/b> \\| in \\*users\\*" in text
    assert "- **acme**: the password of role app" in text
    table = [line for line in text.splitlines() if line.startswith("| acme")]
    assert table == [
        "| acme | launch | verified | 2026-11-30 | 2026-11-30 01:15Z | 2026-11-29 03:15Z | 1.5 s | 500 |"
        " 0 3 \\* \\* \\* | 14d |"
    ]
