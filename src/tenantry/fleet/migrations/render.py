"""Plans, results and standings as plain lines: for CI logs, and for screens that want no more. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from tenantry.fleet.migrations.plan import Plan, TenantPlan
from tenantry.fleet.migrations.results import RunResult, TenantResult
from tenantry.fleet.migrations.status import LedgerCheck, Status

SLUGS_SHOWN_MAX: Final = 8
"""Tenants named in one line of a plan; the rest are counted."""

_SAYS: Final = {
    "current": "current, not woken",
    "behind": "behind",
    "unknown": "never looked at, will be asked",
    "edited": "migrated with files that were edited since",
    "ahead": "ahead of this folder",
}


def plan_lines(plan: Plan) -> Iterator[str]:
    """The plan, one line for each group of tenants that stand alike."""
    yield f"{plan.format} {plan.directory}: newest version {plan.target or 'none'}, {len(plan.tenants)} tenants"
    for refused in plan.refused:
        yield f"  refused: {refused.file}, statement {refused.statement}, line {refused.line}: {refused.reason}"
    ordered = sorted(plan.tenants, key=_group)
    for (standing, pending), members in groupby(ordered, key=_group):
        group = list(members)
        names = ", ".join(each.tenant.slug for each in group[:SLUGS_SHOWN_MAX])
        more = f" and {len(group) - SLUGS_SHOWN_MAX} more" if len(group) > SLUGS_SHOWN_MAX else ""
        lacks = f" by {len(pending)} ({pending[0]}..{pending[-1]})" if len(pending) > 1 else ""
        lacks = f" by {pending[0]}" if len(pending) == 1 else lacks
        yield f"  {len(group)} {_SAYS[standing]}{lacks if standing == 'behind' else ''}: {names}{more}"


def _group(each: TenantPlan) -> tuple[str, tuple[str, ...]]:
    return each.standing, each.pending


def result_line(result: TenantResult) -> str:
    """One tenant's result as one line."""
    match result.outcome:
        case "applied":
            text = f"applied {', '.join(result.applied)} in {result.seconds * 1000:.0f} ms"
        case "current":
            text = "nothing to apply"
        case "skipped":
            text = "current by the catalog, not woken"
        case "not_started":
            text = "not started"
        case "failed":
            text = f"FAILED: {result.failure}"
    return f"{result.slug}: {text}"


def run_lines(result: RunResult) -> Iterator[str]:
    """A finished run: the counts, then each failure with what to do about it."""
    counts = result.run.counts
    parts = [
        f"{number} {name}"
        for number, name in (
            (counts.applied, "migrated"),
            (counts.current, "had nothing to apply"),
            (counts.skipped, "current, not woken"),
            (counts.failed, "failed"),
            (counts.not_started, "not started"),
        )
        if number
    ]
    yield f"{', '.join(parts) or 'no tenants'} in {result.seconds:.2f} s"
    for failed in result.failed:
        yield result_line(failed)
        assert failed.failure is not None
        for label, text in (("detail", failed.failure.detail), ("hint", failed.failure.hint)):
            if text:
                yield f"  {label}: {text}"
        if failed.failure.next_step:
            yield f"  next: {failed.failure.next_step}"
    for warning in result.warnings:
        yield f"warning: {warning}"


def status_lines(status: Status) -> Iterator[str]:
    """Versions and how many tenants stand at each, then the last run's failures."""
    yield f"{status.plan.format} {status.plan.directory}: newest version {status.plan.target or 'none'}"
    for row in status.versions:
        mark = " (newest)" if row.version == status.plan.target else ""
        yield f"  {row.version}{mark}: {row.tenants} tenants"
    if status.last_run is None:
        return
    run = status.last_run
    ended = "finished" if run.finished_at else "was killed or still runs"
    yield f"last run {run.run_id}, begun {run.started_at:%Y-%m-%d %H:%M:%S} UTC, {ended}"
    for failed in status.last_failures:
        yield f"  {result_line(failed)}"


def check_line(check: LedgerCheck) -> str:
    """One tenant's ledger beside the catalog."""
    if check.failure is not None:
        return f"{check.slug}: not read: {check.failure}"
    ledger = check.ledger.version if check.ledger else None
    catalog = check.catalog.version if check.catalog else None
    if check.agrees:
        text = f"{ledger or 'nothing applied'}, as the catalog says"
    elif catalog == ledger and check.catalog is not None:
        text = f"{ledger or 'nothing applied'}, with other files than the catalog says"
    else:
        text = f"the ledger says {ledger or 'nothing applied'}, the catalog {catalog or 'nothing'}"
    return "; ".join([f"{check.slug}: {text}", *check.objections])
