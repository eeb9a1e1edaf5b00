"""What an auditor asks for: each tenant's newest backup, the proof that one restores, how long that took. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, cast

from tenantry.fleet.backups.rotation import Standing, standing_of
from tenantry.fleet.catalog.backups import BackupId
from tenantry.fleet.catalog.verifications import Proven, VerificationRecord

_WORDS: Final[Mapping[Standing, str]] = {
    "verified": "verified",
    "due": "verified, due again",
    "late": "LATE",
    "unproven": "UNPROVEN",
    "damaged": "DAMAGED",
    "no backup": "NO BACKUP",
}
_COLUMNS: Final = (
    "tenant", "plan", "standing", "newest backup", "content is as of", "verified at", "restore took", "rows",
    "schedule", "kept",
)  # fmt: skip
_BAD: Final[tuple[Standing, ...]] = ("no backup", "damaged", "unproven", "late")


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantLine:
    tenant: str
    name: str
    plan: str
    standing: Standing
    schedule: str | None
    keep: str | None
    backups: int
    newest: BackupId | None
    newest_at: datetime | None
    content_age_seconds: float | None
    """How old the newest backup's content is, or how long ago the tenant was last seen unchanged since."""
    verified: BackupId | None
    verified_at: datetime | None
    verified_as_of: datetime | None
    restore_seconds: float | None
    rows: int | None
    tables: int | None
    checks: int | None
    """Queries of the operator's own that were true."""
    remarks: Sequence[str]
    failure: str | None
    """Why the newest backup was not found good when it was tried last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    made_at: datetime
    vault: str | None
    verify_within_seconds: float
    tenants: Sequence[TenantLine]
    counts: Mapping[Standing, int]
    restore_seconds_p50: float | None
    restore_seconds_max: float | None
    content_age_seconds_max: float | None
    """Of those that have a backup: what would be lost at most if all were restored now."""

    @property
    def ok(self) -> bool:
        """Everybody has a backup that was verified in time."""
        return not any(self.counts.get(each) for each in _BAD)


def report_of(
    tenants: Iterable[Proven],
    verifications: Mapping[BackupId, VerificationRecord],
    *,
    now: datetime,
    within: timedelta,
    vault: str | None,
) -> Report:
    """``verifications``: the last that each backup has passed which is named as verified."""
    lines = [_line(tenant, verifications, now, within) for tenant in tenants]
    counts: dict[Standing, int] = {}
    for line in lines:
        counts[line.standing] = counts.get(line.standing, 0) + 1
    took = sorted(line.restore_seconds for line in lines if line.restore_seconds is not None)
    ages = [line.content_age_seconds for line in lines if line.content_age_seconds is not None]
    return Report(
        made_at=now,
        vault=vault,
        verify_within_seconds=within.total_seconds(),
        tenants=lines,
        counts=counts,
        restore_seconds_p50=took[(len(took) - 1) // 2] if took else None,
        restore_seconds_max=took[-1] if took else None,
        content_age_seconds_max=max(ages, default=None),
    )


def _line(
    tenant: Proven, verifications: Mapping[BackupId, VerificationRecord], now: datetime, within: timedelta
) -> TenantLine:
    record = None if tenant.verified is None else verifications.get(tenant.verified)
    proof = cast("Mapping[str, object]", (None if record is None else record.proof) or {})
    as_of = tenant.newest_at if tenant.seen_at is None else max(tenant.seen_at, tenant.newest_at or tenant.seen_at)
    failed = tenant.tried_state in ("failed", "broken") and tenant.failure is not None
    return TenantLine(
        tenant=tenant.slug,
        name=tenant.name,
        plan=tenant.plan,
        standing=standing_of(tenant, now, within),
        schedule=tenant.cron,
        keep=tenant.keep,
        backups=tenant.backups,
        newest=tenant.newest,
        newest_at=tenant.newest_at,
        content_age_seconds=None if as_of is None else max(0.0, (now - as_of).total_seconds()),
        verified=tenant.verified,
        verified_at=tenant.verified_at,
        verified_as_of=tenant.verified_as_of,
        restore_seconds=None if record is None else record.seconds,
        rows=_number(proof.get("rows")),
        tables=_number(proof.get("tables")),
        checks=len(_list(proof.get("checks"))) if proof else None,
        remarks=[str(each) for each in _list(proof.get("remarks"))],
        failure=str(tenant.failure.get("message")) if failed and tenant.failure is not None else None,
    )


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


# -------------------------------------------------------------------------------------------------- as Markdown


def as_markdown(report: Report) -> str:
    """For whoever keeps it: what it says, of when, and what the words mean."""
    within = _span(report.verify_within_seconds)
    total = len(report.tenants)
    proven = report.counts.get("verified", 0) + report.counts.get("due", 0)
    lines = [
        "# Backups",
        "",
        f"Made at {_time(report.made_at)} from the fleet's catalog. Vault: {report.vault or 'none is configured'}.",
        "",
        f"**{proven} of {total} tenants have a backup that was restored and compared within {within}.**",
        "",
        "| | |",
        "|---|---|",
        *(f"| {_WORDS[name]} | {report.counts[name]} |" for name in _WORDS if report.counts.get(name)),
        f"| restoring one took, median | {_seconds(report.restore_seconds_p50)} |",
        f"| restoring one took, at most | {_seconds(report.restore_seconds_max)} |",
        f"| oldest content of a newest backup | {_span(report.content_age_seconds_max)} |",
        "",
        "*Verified*: the backup was restored into an empty project of the same Postgres version; the rows of every"
        " table, the schema's fingerprint, constraints and indexes were compared with what the backup says, and the"
        " operator's own queries were true. *LATE*: that was longer ago than the policy says. *UNPROVEN*: there is a"
        " backup, and never was a proof. *DAMAGED*: the newest is not what was written, and no other was verified.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---" * len(_COLUMNS) + "|",
        *(_row(line, report.made_at) for line in report.tenants),
    ]
    failures = [line for line in report.tenants if line.failure]
    if failures:
        lines += ["", "## Not found good when tried last", ""]
        lines += [f"- **{_cell(line.tenant)}**, {line.newest}: {_cell(line.failure or '')}" for line in failures]
    remarks = [(line, remark) for line in report.tenants for remark in line.remarks]
    if remarks:
        lines += ["", "## Restored otherwise than it was", ""]
        lines += [f"- **{_cell(line.tenant)}**: {_cell(remark)}" for line, remark in remarks]
    return "\n".join(lines) + "\n"


def _row(line: TenantLine, now: datetime) -> str:
    as_of = None if line.content_age_seconds is None else now - timedelta(seconds=line.content_age_seconds)
    cells = (
        line.tenant, line.plan, _WORDS[line.standing], line.newest or "-", _time(as_of), _time(line.verified_at),
        _seconds(line.restore_seconds), "-" if line.rows is None else str(line.rows), line.schedule or "-",
        line.keep or "-",
    )  # fmt: skip
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    """Customers choose their names."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _time(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M}Z"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}" if seconds % size else f"{int(seconds // size)} {unit}"
    return f"{seconds:.0f} s"
