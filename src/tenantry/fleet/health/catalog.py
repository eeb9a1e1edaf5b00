"""What is found of the catalog, of work that stands still, of versions and schemas, by what the catalog says. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from tenantry.fleet.catalog.current import REVISION
from tenantry.fleet.catalog.health import Connections, Still, Waiting
from tenantry.fleet.catalog.jobs import JobId
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.health.support import support
from tenantry.fleet.jobs.jobs import PassShown, short
from tenantry.fleet.jobs.worker import CATALOG_CONNECTIONS_MAX
from tenantry.runtime.findings import Finding, Level

SILENT_SECONDS: Final = 60.0
"""A worker that says nothing for so long is not alive: they say so every ten seconds."""
LATE_SECONDS: Final = 900.0
"""What is unfinished, or waits for a worker, for so long is stuck: workers look for it every five minutes or sooner."""
PURGE_LATE_SECONDS: Final = 7_200.0
USED_NOTE: Final = 0.7
USED_WRONG: Final = 0.9
"""Of the connections that the catalog allows."""
USAGE_HOURS_MAX: Final = 3
"""Usage is collected every hour."""
SCHEMAS_NAMED_MAX: Final = 5
_A_WORKER: Final = "start one: `tenantry worker`, or `tenantry up` without --no-fleet"


def of_revision(revision: str | None, tenants: int) -> Finding:
    name, facts = "catalog", {"revision": revision, "tenants": tenants}
    if revision == REVISION:
        return Finding(name, "ok", f"answers, at revision {revision}, with {_tenants(tenants)}", facts=facts)
    found = f"is at revision {revision}, and this release knows {REVISION}"
    if revision is not None and revision > REVISION:
        return Finding(
            name, "wrong", found, "upgrade this installation: a newer release has upgraded the catalog", facts
        )
    return Finding(name, "wrong", found, "start `tenantry up` of this release once: it upgrades the catalog", facts)


def of_connections(seen: Connections) -> Finding:
    name, share = "connections", seen.used / max(1, seen.allowed)
    most = seen.workers * CATALOG_CONNECTIONS_MAX
    found = f"{seen.used} of the catalog's {seen.allowed} in use; {_workers(seen.workers)} may take {most}"
    facts = {
        "used": seen.used, "allowed": seen.allowed, "workers": seen.workers, "worker_connections_max": most,
    }  # fmt: skip
    less = "run fewer workers, or give the catalog a larger compute"
    if share >= USED_WRONG:
        return Finding(name, "wrong", found, less, facts)
    if share >= USED_NOTE or most > seen.allowed:
        return Finding(name, "note", found, less, facts)
    return Finding(name, "ok", found, facts=facts)


def of_versions(
    versions: Sequence[tuple[ProviderId, int, int]],
    names: Mapping[ProviderId, str],
    today: date,
    *,
    at_home: Collection[int] | None,
) -> list[Finding]:
    """One finding for each provider. ``at_home``: the majors that the cell of this machine has builds of."""
    by_provider: defaultdict[ProviderId, dict[int, int]] = defaultdict(dict)
    for provider, major, count in versions:
        by_provider[provider][major] = count
    findings: list[Finding] = []
    for provider, counts in by_provider.items():
        who = names.get(provider, "a removed provider")
        found = f"{who}: " + ", ".join(f"Postgres {major} ({_tenants(counts[major])})" for major in sorted(counts))
        facts = {"provider": who, "tenants": {str(major): count for major, count in counts.items()}}
        if provider == HOME_PROVIDER and at_home is not None and (bare := sorted(set(counts) - set(at_home))):
            missing = f"{found}; there is no build of {', '.join(map(str, bare))} on this machine"
            findings.append(Finding("versions", "wrong", missing, f"tenantry engine install {bare[0]}", facts))
            continue
        old = [sentence for major in sorted(counts) if (sentence := support(major, today)) is not None]
        level: Level = "note" if old else "ok"
        step = "create those tenants anew with a newer --pg, and move their data with pg_dump" if old else ""
        findings.append(Finding("versions", level, "; ".join([found, *old]), step, facts))
    return findings


def of_unfinished(seen: Waiting, workers: int) -> Finding:
    name, facts = "unfinished", {"count": seen.count, "late": seen.late, "tenants": list(seen.named)}
    if not seen.count:
        return Finding(name, "ok", "no creation and no deletion is under way", facts=facts)
    if not seen.late:
        return Finding(name, "ok", f"{seen.count} creations and deletions are under way", facts=facts)
    found = f"{seen.late} creations and deletions do not end: {_named(seen.named, seen.late)}"
    step = "see why: `tenantry jobs list` says what finish_unfinished met" if workers else _A_WORKER
    return Finding(name, "wrong", found, step, facts)


def of_leaving(seen: Waiting, workers: int) -> Finding:
    name, facts = "leaving", {"count": seen.count, "late": seen.late, "tenants": list(seen.named)}
    if seen.late:
        found = f"{seen.late} deleted tenants are still there after their grace: {_named(seen.named, seen.late)}"
        step = "see why: `tenantry jobs list` says what the pass that purges met" if workers else _A_WORKER
        return Finding(name, "wrong", found, step, facts)
    found = f"deleted and still in their grace: {seen.count:,}" if seen.count else "no deleted tenant is in its grace"
    return Finding(name, "ok", found, facts=facts)


def of_jobs(seen: Still, workers: int, passes: Sequence[PassShown]) -> list[Finding]:
    """Whether anybody works, what nobody works on, and what the passes met."""
    name = "jobs"
    facts: dict[str, object] = {
        "workers": workers, "waiting": seen.waiting, "silent": seen.silent, "jobs": [str(each) for each in seen.jobs],
    }  # fmt: skip
    which = ", ".join(short(JobId(each)) for each in seen.jobs)
    stuck = f"{seen.waiting + seen.silent} batches of work stand still (jobs {which})"
    failed = [
        Finding(
            "passes", "note", f"{each.name} failed: {each.error}", "it is tried again by itself", {"pass": each.name}
        )
        for each in passes
        if each.error is not None
    ]
    if workers == 0:
        if seen.waiting or seen.silent:
            return [Finding(name, "wrong", f"{stuck}: no worker lives", _A_WORKER, facts), *failed]
        nobody = "no worker lives: nothing is done by itself"
        return [Finding(name, "note", nobody, _A_WORKER, facts), *failed]
    if seen.silent:
        return [
            Finding(name, "wrong", stuck, "restart the workers: others should have taken that over", facts),
            *failed,
        ]
    if seen.waiting:
        step = "more workers, or one with --queues that takes these"
        return [Finding(name, "note", f"{stuck}: workers are busy, or take other queues", step, facts), *failed]
    return [Finding(name, "ok", f"{_workers(workers)} at work, and nothing stands still", facts=facts), *failed]


def of_schemas(seen: Sequence[tuple[str | None, str | None, int]]) -> Finding:
    name = "schema"
    known = [(version, count) for form, version, count in seen if form is not None]
    never = sum(count for form, _, count in seen if form is None)
    facts = {
        "never_migrated": never,
        "versions": [{"version": version, "tenants": count} for version, count in known],
    }
    if not known:
        return Finding(name, "ok", "no tenant was ever migrated", facts=facts)
    parts = [f"{_tenants(count)} at {version or 'the empty schema'}" for version, count in known[:SCHEMAS_NAMED_MAX]]
    if len(known) > SCHEMAS_NAMED_MAX:
        parts.append(f"{len(known) - SCHEMAS_NAMED_MAX} other versions")
    if never:
        parts.append(f"{_tenants(never)} never migrated")
    if len(parts) == 1:
        return Finding(name, "ok", parts[0], facts=facts)
    step = "see who is behind: `tenantry migrate status`"
    return Finding(name, "note", f"{len(parts)} kinds: {', '.join(parts)}", step, facts)


def of_usage(collected: Mapping[str, datetime | None], workers: int, now: datetime) -> list[Finding]:
    """``collected``: when each metered provider last told everything."""
    late = [
        name
        for name, moment in sorted(collected.items())
        if moment is None or now - moment > timedelta(hours=USAGE_HOURS_MAX)
    ]
    facts = {"collected_at": dict(collected)}
    if not collected:
        return []
    if late:
        said = ", ".join(f"{name} ({_moment(collected[name])})" for name in late)
        step = "see what collect_usage met: `tenantry jobs list`" if workers else _A_WORKER
        return [Finding("usage", "note", f"not collected lately from {said}", step, facts)]
    oldest = min(moment for moment in collected.values() if moment is not None)
    return [Finding("usage", "ok", f"collected from all providers since {_moment(oldest)}", facts=facts)]


def _moment(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%MZ}"


def _named(slugs: Sequence[str], count: int) -> str:
    more = count - len(slugs)
    return ", ".join(slugs) + (f" and {more} more" if more > 0 else "")


def _tenants(count: int) -> str:
    return "1 tenant" if count == 1 else f"{count:,} tenants"


def _workers(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"
