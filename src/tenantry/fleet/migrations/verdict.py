"""Whether the migrations of a plan were rehearsed as they are, and what that says of a run: gate, and expected time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from tenantry.errors import Conflict
from tenantry.fleet.catalog import events, rehearsals
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.rehearsals import RehearsalRecord
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.plan import Plan, TenantPlan
from tenantry.fleet.migrations.rehearsal import BranchReport, branches_of
from tenantry.fleet.migrations.tenant import TenantSlug

LOOKED_AT_MAX: Final = 50
"""Rehearsals that are looked at, the newest."""
NAMED_MAX: Final = 5
Mode = Literal["off", "warn", "require"]
Problem = Literal["unrehearsed", "failed", "locked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Why a plan should not be run."""

    problem: Problem
    message: str
    migration: str | None = None
    tenant: TenantSlug | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What rehearsals say of a plan."""

    findings: tuple[Finding, ...]
    rehearsals: tuple[str, ...]
    """The ids of those that tell of it, the newest first."""
    seconds: Mapping[TenantSlug, float]
    """What a tenant of the plan is expected to take; nobody is in it of whom nothing is known."""

    @property
    def passed(self) -> bool:
        return not self.findings

    def as_dict(self) -> dict[str, object]:
        return {
            "passed": self.passed,
            "rehearsals": list(self.rehearsals),
            "findings": [
                {"problem": e.problem, "message": e.message, "migration": e.migration, "tenant": e.tenant}
                for e in self.findings
            ],
        }


def rehearsal_verdict(catalog: Catalog, plan: Plan, folder: Format, *, lock_seconds_max: float) -> Verdict:
    """What the newest rehearsals of exactly these migrations say. One question to the catalog; wakes nobody."""
    with catalog.transaction() as connection:
        known = rehearsals.rehearsals_page(connection, format=folder.name, limit=LOOKED_AT_MAX)
    return judge(plan, {each.version: each.checksum for each in folder.migrations}, known, lock_seconds_max)


def expected_seconds(catalog: Catalog, plan: Plan, folder: Format) -> Mapping[TenantSlug, float]:
    """For each tenant of the plan that anything is known of, by what branches took."""
    return rehearsal_verdict(catalog, plan, folder, lock_seconds_max=float("inf")).seconds


def gate(
    catalog: Catalog,
    plan: Plan,
    folder: Format,
    *,
    mode: Mode,
    lock_seconds_max: float,
    unrehearsed: str | None = None,
) -> list[str]:
    """Before a run: sentences to warn with. Raises Conflict where the mode is ``require`` and the plan did not pass.

    ``unrehearsed`` is an operator's reason to run it all the same; it is written down.
    """
    if mode == "off" or not plan.to_visit:
        return []
    verdict = rehearsal_verdict(catalog, plan, folder, lock_seconds_max=lock_seconds_max)
    said = [each.message for each in verdict.findings]
    if verdict.passed or mode == "warn":
        return said
    if unrehearsed is None:
        raise Conflict(
            f"this plan was not rehearsed as it must be: {said[0]}" + (f" ({len(said)} findings)" if said[1:] else ""),
            next_step=f"`tenantry migrate rehearse --dir {plan.directory}`; or run it with --unrehearsed REASON",
            findings=said,
        )
    with catalog.transaction() as connection:
        events.record(
            connection,
            "run unrehearsed",
            reason=unrehearsed,
            directory=plan.directory,
            target=plan.target,
            findings=said[:NAMED_MAX],
        )
    return said


def judge(
    plan: Plan, checksums: Mapping[str, str], known: Sequence[RehearsalRecord], lock_seconds_max: float
) -> Verdict:
    """Pure. ``known`` are the newest first. A rehearsal tells of a migration only if it had the same checksum.

    A tenant that a migration failed at keeps the plan from passing until it has passed there, or is not in the plan.
    """
    wanted = list(dict.fromkeys(version for each in plan.to_visit for version in _lacks(each)))
    visited = {each.tenant.slug for each in plan.to_visit}
    telling: list[str] = []
    passed: dict[str, set[TenantSlug]] = {}
    newest: dict[TenantSlug, BranchReport] = {}
    for record in known:
        same = {version for version in wanted if record.migrations.get(version) == checksums.get(version)}
        if not same:
            continue
        reports = [each for each in branches_of(record.report) if each.outcome != "impossible"]
        # One that met a migration which is another one by now tells nothing of those behind it.
        reports = [each for each in reports if _is_of(each, same, record.migrations)]
        if reports:
            telling.append(record.id)
        for report in reports:
            newest.setdefault(report.tenant, report)
            for version in same.intersection(report.applied):
                passed.setdefault(version, set()).add(report.tenant)
    findings = [each for report in newest.values() if report.tenant in visited for each in _failed(report)]
    failing = {each.migration for each in findings}
    findings += [each for report in newest.values() for each in _locked(report, lock_seconds_max)]
    findings += [
        Finding(problem="unrehearsed", message=f"{version} was not rehearsed", migration=version)
        for version in wanted
        if not passed.get(version) and version not in failing
    ]
    return Verdict(findings=tuple(findings), rehearsals=tuple(telling), seconds=_seconds(plan, list(newest.values())))


def _lacks(planned: TenantPlan) -> Sequence[str]:
    """Of a tenant whose ledger nobody has read it is only known that it may lack the newest."""
    return planned.pending if planned.standing == "behind" else planned.pending[-1:]


def _is_of(report: BranchReport, same: set[str], had: Mapping[str, str]) -> bool:
    """Whether all that this branch applied, or failed at, is what the folder has now."""
    met = set(report.applied)
    if report.failure is not None and report.failure.migration is not None:
        met.add(report.failure.migration)
    return all(version in same or version not in had for version in met)


def _failed(report: BranchReport) -> Iterable[Finding]:
    if not report.passed:
        yield Finding(
            problem="failed",
            message=f"the rehearsal with {report.tenant} {report.outcome}: {report.failure or 'it was ended'}",
            migration=report.failure.migration if report.failure else None,
            tenant=report.tenant,
        )


def _locked(report: BranchReport, seconds_max: float) -> Iterable[Finding]:
    for lock in report.locks:
        if lock.seconds_max > seconds_max:
            yield Finding(
                problem="locked",
                message=f"{lock.migration or 'a migration'} kept {lock.mode} on {lock.table} of {report.tenant} for"
                f" up to {lock.seconds_max:.2f} s, more than {seconds_max:g} s",
                migration=lock.migration,
                tenant=report.tenant,
            )


def _seconds(plan: Plan, reports: Sequence[BranchReport]) -> dict[TenantSlug, float]:
    """Its own time where a tenant was rehearsed, else the median of the branches that applied all that it lacks."""
    own = {each.tenant: each for each in reports if each.outcome == "applied"}
    of_pending: dict[tuple[str, ...], float | None] = {}
    found: dict[TenantSlug, float] = {}
    for each in plan.to_visit:
        mine = own.get(each.tenant.slug)
        if mine is not None and set(each.pending) >= set(mine.applied):
            found[each.tenant.slug] = mine.seconds
            continue
        if each.pending not in of_pending:
            times = [report.seconds for report in own.values() if set(report.applied) == set(each.pending)]
            times = times or [report.seconds for report in own.values() if set(report.applied) & set(each.pending)]
            of_pending[each.pending] = median(times) if times else None
        seconds = of_pending[each.pending]
        if seconds is not None:
            found[each.tenant.slug] = seconds
    return found
