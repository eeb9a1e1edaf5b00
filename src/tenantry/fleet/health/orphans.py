"""Projects that no row names, and rows whose project is gone: what a provider lists against what the catalog has. Pure.

The list is read first and the catalog after it, so a row is always there for a project that was being made meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from tenantry.fleet.catalog.health import KnownProject
from tenantry.fleet.providers.ports import ProviderProject
from tenantry.neon.ids import ProjectId

_MARK: Final = re.compile(r"\[([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\]$")

Why = Literal["twice", "left over", "unknown mark", "no mark"]
"""Of a project that no row names. ``twice``: its tenant lives in another one. ``left over``: its tenant was deleted.

``unknown mark``: it is named as a fleet's projects are, and this catalog has no such tenant. ``no mark``: somebody
else's, as an account at Neon may have.
"""
_BEING_MADE: Final = frozenset({"creating", "deleting"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A project at a provider that no row of the catalog names."""

    project: ProviderProject
    why: Why
    slug: str | None
    """Of the tenant that it is or was of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A tenant whose project is not at its provider."""

    tenant: KnownProject


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherVersion:
    """A tenant whose project runs another Postgres than the catalog believes."""

    tenant: KnownProject
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    strays: Sequence[Stray]
    lost: Sequence[Lost]
    other_versions: Sequence[OtherVersion]


def mark_of(name: str) -> UUID | None:
    """The uuid of the row that a project was made for."""
    found = _MARK.search(name)
    return None if found is None else UUID(found[1])


def unnamed(
    listed: Iterable[ProviderProject], named: Collection[ProjectId], ours: Collection[str]
) -> list[ProviderProject]:
    """Those that no row names, and that do not have one of ``ours`` as their name: the catalog's project, for one."""
    return [each for each in listed if each.id not in named and each.name not in ours]


def compare(
    listed: Sequence[ProviderProject],
    known: Sequence[KnownProject],
    *,
    waiting: Collection[UUID],
    tenants: Mapping[UUID, KnownProject],
    ours: Collection[str],
    begun_at: datetime,
    complete: bool,
) -> Compared:
    """``known`` are the living tenants' of this provider; ``waiting`` the marks of projects that wait for a tenant, or
    are being made to; ``tenants`` the rows of marks that are not among the known; ``begun_at`` when the listing began.

    Nothing is called lost unless the list is ``complete``, nor what became ready while it was read.
    """
    by_id = {each.project_id: each for each in known if each.project_id is not None}
    strays: list[Stray] = []
    for project in unnamed(listed, by_id.keys(), ours):
        mark = mark_of(project.name)
        if mark is None:
            strays.append(Stray(project=project, why="no mark", slug=None))
            continue
        tenant = tenants.get(mark)
        if mark in waiting or (tenant is not None and tenant.state in _BEING_MADE):
            continue
        why: Why = "unknown mark" if tenant is None else "left over" if tenant.state == "deleted" else "twice"
        strays.append(Stray(project=project, why=why, slug=None if tenant is None else tenant.slug))
    there = {each.id for each in listed}
    lost = [
        Lost(tenant=each)
        for each in known
        if complete
        and each.state in ("ready", "leaving")
        and each.project_id not in there
        and each.ready_at is not None
        and each.ready_at < begun_at
    ]
    other = [
        OtherVersion(tenant=tenant, found=project.pg_version)
        for project in listed
        if (tenant := by_id.get(project.id)) is not None and tenant.pg_version not in (None, project.pg_version)
    ]
    return Compared(strays=strays, lost=lost, other_versions=other)
