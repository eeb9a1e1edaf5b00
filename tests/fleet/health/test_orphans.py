"""What a provider lists against what the catalog has: what is reported, and what is only under way."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from tenantry.fleet.catalog.health import KnownProject
from tenantry.fleet.catalog.records import TenantId
from tenantry.fleet.health.orphans import Compared, compare, mark_of
from tenantry.fleet.health.projects import Listed, findings_of
from tenantry.fleet.health.support import support
from tenantry.fleet.providers.ports import ProviderProject
from tenantry.neon.ids import ProjectId, RegionId

BEGUN = datetime(2026, 11, 24, 12, tzinfo=UTC)
OURS = {"tenantry-catalog", "tenantry-nonprod"}


def project(id: str, name: str, pg_version: int = 18) -> ProviderProject:
    return ProviderProject(
        id=ProjectId(id), name=name, region=RegionId("local"), pg_version=pg_version, created_at=BEGUN
    )


def tenant(
    slug: str, id: str | None, state: str = "ready", *, mark: UUID | None = None, ready_at: datetime | None = None
) -> KnownProject:
    return KnownProject(
        tenant_id=TenantId(mark or uuid4()),
        slug=slug,
        state=state,
        project_id=None if id is None else ProjectId(id),
        pg_version=18,
        ready_at=ready_at or BEGUN - timedelta(days=1),
    )


def compared(
    listed: list[ProviderProject],
    known: list[KnownProject],
    *,
    waiting: set[UUID] | None = None,
    others: list[KnownProject] | None = None,
    complete: bool = True,
) -> Compared:
    return compare(
        listed,
        known,
        waiting=waiting or set(),
        tenants={each.tenant_id: each for each in [*known, *(others or [])]},
        ours=OURS,
        begun_at=BEGUN,
        complete=complete,
    )


def test_projects_that_rows_name_and_the_fleets_own_are_no_orphans() -> None:
    acme = tenant("acme", "a")
    found = compared(
        [project("a", f"ACME [{acme.tenant_id}]"), project("c", "tenantry-catalog"), project("n", "tenantry-nonprod")],
        [acme],
    )
    assert (found.strays, found.lost, found.other_versions) == ([], [], [])


def test_why_a_project_is_nobodys() -> None:
    acme = tenant("acme", "a")
    gone = tenant("gone", "old", "deleted")
    found = compared(
        [
            project("a", f"ACME [{acme.tenant_id}]"),
            project("b", f"ACME [{acme.tenant_id}]"),
            project("g", f"Gone [{gone.tenant_id}]"),
            project("u", f"Who [{uuid4()}]"),
            project("m", "my own project"),
        ],
        [acme],
        others=[gone],
    )
    assert [(each.project.id, each.why, each.slug) for each in found.strays] == [
        ("b", "twice", "acme"),
        ("g", "left over", "gone"),
        ("u", "unknown mark", None),
        ("m", "no mark", None),
    ]


@pytest.mark.parametrize("state", ["creating", "deleting"])
def test_what_is_being_made_or_deleted_is_no_orphan(state: str) -> None:
    acme = tenant("acme", None, state)
    assert compared([project("a", f"ACME [{acme.tenant_id}]")], [], others=[acme]).strays == []


def test_what_waits_for_a_tenant_is_no_orphan() -> None:
    mark = uuid4()
    assert compared([project("r", f"ready [{mark}]")], [], waiting={mark}).strays == []


def test_a_tenant_whose_project_is_gone_is_lost_unless_that_may_be_only_seen_so() -> None:
    gone, leaving = tenant("gone", "g"), tenant("leaving", "l", "leaving")
    new = tenant("new", "n", ready_at=BEGUN + timedelta(seconds=1))
    going, coming = tenant("going", "x", "deleting"), tenant("coming", None, "creating")
    known = [gone, leaving, new, going, coming]
    assert [each.tenant.slug for each in compared([], known).lost] == ["gone", "leaving"]
    assert compared([], known, complete=False).lost == []


def test_another_version_than_the_catalogs_is_seen() -> None:
    acme = tenant("acme", "a")
    (found,) = compared([project("a", "x", pg_version=19)], [acme]).other_versions
    assert (found.tenant.slug, found.found) == ("acme", 19)


def test_marks_are_uuids_at_the_end_of_a_name() -> None:
    mark = uuid4()
    assert mark_of(f"ACME [x] [{mark}]") == mark
    assert mark_of(f"[{mark}]") == mark
    assert mark_of(f"[{mark}] copy") is None
    assert mark_of("ACME") is None


def test_each_side_is_told_with_its_fix() -> None:
    acme, gone = tenant("acme", "a"), tenant("gone", "g")
    listed = [project("a", "x"), project("b", f"ACME [{acme.tenant_id}]"), project("m", "mine")]
    twice, mine, lost = findings_of("eu-2", Listed(projects=listed, complete=True), compared(listed, [acme, gone]))
    assert (twice.level, twice.found) == ("wrong", "eu-2: second projects of their tenants (1): b (acme)")
    assert "tenantry doctor --remove eu-2/b" in twice.next_step
    assert (mine.level, mine.facts["count"]) == ("note", 1)
    assert (lost.name, lost.level) == ("tenants", "wrong")
    assert "gone (g)" in lost.found
    assert "/projects/g/recover" in lost.next_step
    assert "tenantry delete gone" in lost.next_step


def test_all_well_is_told_and_so_is_what_was_not_looked_at() -> None:
    listed = [project("m", "mine")]
    (well, mine) = findings_of("home", Listed(projects=listed, complete=True), compared(listed, []))
    assert (well.level, mine.level) == ("ok", "note")
    some = findings_of("home", Listed(projects=[], complete=False), compared([], [], complete=False))
    assert [(each.level, each.next_step) for each in some] == [("note", "tenantry doctor --all")]


def test_the_end_of_support_is_told_half_a_year_before() -> None:
    assert support(18, date(2026, 11, 24)) is None
    assert support(14, date(2026, 11, 24)) == "Postgres 14 gets no more fixes since 2026-11-12"
    assert support(14, date(2026, 11, 12)) == "Postgres 14 gets no more fixes after 2026-11-12"
    assert support(15, date(2027, 5, 1)) is None
    assert support(15, date(2027, 5, 20)) == "Postgres 15 gets no more fixes after 2027-11-11"
    assert support(99, date(2027, 5, 20)) is None
