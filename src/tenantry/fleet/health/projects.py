"""Lists what a provider has, compares it with the catalog, and looks a second time at what it is about to report."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from tenantry.errors import TenantryError
from tenantry.fleet.catalog import health as rows
from tenantry.fleet.catalog import ready, usage, verifications
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.health import KnownProject
from tenantry.fleet.catalog.records import ProviderRecord
from tenantry.fleet.environments.nonproduction import NONPRODUCTION_PROJECT
from tenantry.fleet.health.orphans import Compared, Lost, Stray, Why, compare, mark_of, unnamed
from tenantry.fleet.prepare import CATALOG_PROJECT
from tenantry.fleet.providers.ports import Provider, ProviderProject
from tenantry.runtime.findings import Finding

PROJECTS_MAX: Final = 20_000
"""Projects of one provider that are listed, unless all are wanted: two hundred requests."""
LIST_SECONDS_MAX: Final = 120.0
"""What listing one provider may take, unless all are wanted."""
LOOKS_MAX: Final = 20
"""Second looks at one provider: a request each."""
FACTS_MAX: Final = 1_000
"""Projects that a finding names to programs."""
ROWS: Final = 5_000
_OURS: Final = frozenset({CATALOG_PROJECT, NONPRODUCTION_PROJECT})
_WHAT: Final[dict[Why, str]] = {
    "twice": "second projects of their tenants",
    "left over": "projects left over of deleted tenants",
    "unknown mark": "projects named like tenants' of another catalog",
    "no mark": "projects that are not the fleet's",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a provider has."""

    projects: Sequence[ProviderProject]
    complete: bool
    """False: it has more than was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """What the catalog has for one provider, read after its list."""

    known: Sequence[KnownProject]
    waiting: Collection[UUID]
    tenants: dict[UUID, KnownProject] = field(default_factory=dict[UUID, KnownProject])


def of_projects(catalog: Catalog, record: ProviderRecord, provider: Provider, *, everything: bool) -> list[Finding]:
    """Raises nothing that a finding can say."""
    try:
        listed, compared = look(catalog, record, provider, everything=everything)
    except TenantryError as error:
        return [Finding("projects", "wrong", f"{record.name}: not compared: {error.message}", error.next_step)]
    return findings_of(record.name, listed, compared)


def look(catalog: Catalog, record: ProviderRecord, provider: Provider, *, everything: bool) -> tuple[Listed, Compared]:
    """Raises what asking the provider raises."""
    with catalog.transaction() as connection:
        begun_at = usage.clock(connection)
    listed = _list(provider, everything=everything)
    sides = _read(catalog, record, listed.projects)
    compared = compare(
        listed.projects,
        sides.known,
        waiting=sides.waiting,
        tenants=sides.tenants,
        ours=_OURS,
        begun_at=begun_at,
        complete=listed.complete,
    )
    return listed, _again(provider, compared)


def _list(provider: Provider, *, everything: bool) -> Listed:
    found: list[ProviderProject] = []
    deadline = time.monotonic() + LIST_SECONDS_MAX
    for each in provider.list_projects():
        if not everything and (len(found) >= PROJECTS_MAX or time.monotonic() > deadline):
            return Listed(projects=found, complete=False)
        found.append(each.project)
    return Listed(projects=found, complete=True)


def _read(catalog: Catalog, record: ProviderRecord, listed: Sequence[ProviderProject]) -> _Sides:
    with catalog.transaction() as connection:
        # Before the tenants: what is claimed in between is found there.
        waiting = {each.id for each in ready.ready_projects(connection)} | verifications.projects_there(connection)
    known: list[KnownProject] = []
    while True:
        after = known[-1].project_id if known else None
        with catalog.transaction() as connection:
            page = rows.known_projects(connection, record.id, after=after, limit=ROWS)
        known += page
        if len(page) < ROWS:
            break
    named = {each.project_id for each in known if each.project_id is not None}
    marks = [mark for each in unnamed(listed, named, _OURS) if (mark := mark_of(each.name)) is not None]
    tenants: dict[UUID, KnownProject] = {}
    for start in range(0, len(marks), ROWS):
        with catalog.transaction() as connection:
            tenants |= rows.tenants_of(connection, marks[start : start + ROWS])
    return _Sides(known=known, waiting=waiting, tenants=tenants)


def _again(provider: Provider, compared: Compared) -> Compared:
    """What was made or deleted while we looked is not reported; of very many only the first are asked for again."""
    strays = [
        each
        for number, each in enumerate(compared.strays)
        if number >= LOOKS_MAX or each.why == "no mark" or _is_there(provider, each.project)
    ]
    lost = [
        each
        for number, each in enumerate(compared.lost)
        if number >= LOOKS_MAX
        or all(found.id != each.tenant.project_id for found in provider.find_projects(str(each.tenant.tenant_id)))
    ]
    return Compared(strays=strays, lost=lost, other_versions=compared.other_versions)


def _is_there(provider: Provider, project: ProviderProject) -> bool:
    mark = mark_of(project.name)
    return any(found.id == project.id for found in provider.find_projects(str(mark)))


# -- what is said of it --------------------------------------------------------------------------------------


def findings_of(name: str, listed: Listed, compared: Compared) -> list[Finding]:
    """Pure."""
    kinds: dict[Why, list[Stray]] = {why: [each for each in compared.strays if each.why == why] for why in _WHAT}
    findings = [_strays(name, why, found) for why, found in kinds.items() if found]
    if compared.lost:
        findings.append(_lost(name, compared.lost))
    if compared.other_versions:
        said = ", ".join(
            f"{each.tenant.slug} ({each.found}, not {each.tenant.pg_version})"
            for each in compared.other_versions[: rows.NAMED_MAX]
        )
        sentence = f"{name}: {len(compared.other_versions)} tenants run another Postgres than the catalog has: {said}"
        findings.append(Finding("versions", "note", sentence, "somebody has upgraded them; the list tells the old one"))
    count = len(listed.projects)
    if not listed.complete:
        findings.append(
            Finding(
                "projects", "note", f"{name}: only the first {count:,} projects were compared", "tenantry doctor --all",
                {"provider": name, "projects": count},
            )
        )  # fmt: skip
    elif not compared.lost and all(each.why == "no mark" for each in compared.strays):
        sentence = f"{name}: nothing among its {count:,} projects is left over, and each tenant has its own"
        findings.insert(0, Finding("projects", "ok", sentence, facts={"provider": name, "projects": count}))
    return findings


def _strays(name: str, why: Why, found: Sequence[Stray]) -> Finding:
    said = ", ".join(
        each.project.id + (f" ({each.slug})" if each.slug else "") for each in found[: rows.NAMED_MAX]
    ) + _more(len(found))
    facts: dict[str, object] = {
        "provider": name,
        "why": why,
        "count": len(found),
        "projects": [
            {"id": each.project.id, "name": each.project.name, "tenant": each.slug} for each in found[:FACTS_MAX]
        ],
    }
    sentence = f"{name}: {_WHAT[why]} ({len(found)}): {said}"
    if why == "no mark":
        return Finding("projects", "note", sentence, "nothing is to be done, if you know them", facts)
    first = f"tenantry doctor --remove {name}/{found[0].project.id}"
    step = f"look into each, and remove what nobody needs: {first}"
    if why == "unknown mark":
        # Where two fleets share an account, each sees the other one's tenants here.
        step = f"if no other fleet has them, remove each: {first}"
    return Finding("projects", "wrong", sentence, step, facts)


def _lost(name: str, lost: Sequence[Lost]) -> Finding:
    said = ", ".join(f"{each.tenant.slug} ({each.tenant.project_id})" for each in lost[: rows.NAMED_MAX])
    return Finding(
        "tenants",
        "wrong",
        f"{name}: tenants whose project is gone ({len(lost)}): {said}{_more(len(lost))}",
        f"recover it there within its seven days (POST /projects/{lost[0].tenant.project_id}/recover), or restore a"
        f" backup; or give the tenant up: tenantry delete {lost[0].tenant.slug}",
        {
            "provider": name,
            "count": len(lost),
            "tenants": [
                {"tenant": each.tenant.slug, "project_id": each.tenant.project_id} for each in lost[:FACTS_MAX]
            ],
        },
    )


def _more(count: int) -> str:
    return f" and {count - rows.NAMED_MAX} more" if count > rows.NAMED_MAX else ""
