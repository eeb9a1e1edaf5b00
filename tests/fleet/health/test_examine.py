"""What is found of a real catalog and of providers that are made to be as a finding needs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import pytest

from tenantry.errors import Conflict, InvalidInput, NotFound, TenantryError, Unavailable
from tenantry.fleet.catalog import jobs as job_rows
from tenantry.fleet.catalog import providers, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.current import REVISION, VERSION_TABLE
from tenantry.fleet.catalog.health import Connections, Still
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord, Tenant
from tenantry.fleet.health import projects
from tenantry.fleet.health.catalog import of_connections, of_jobs, of_schemas, of_usage, of_versions
from tenantry.fleet.health.examine import examine
from tenantry.fleet.health.remove import remove_stray
from tenantry.fleet.jobs.jobs import Jobs, PassShown
from tenantry.fleet.providers.ports import Feature, Health, Limits, ListedProject, Provider, ProviderProject
from tenantry.neon.ids import ProjectId, RegionId
from tenantry.runtime.findings import Finding

HOME = ProviderId(HOME_PROVIDER)
TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@dataclass
class Place:
    """A provider that can be asked how it is and what it has, and that counts what it is asked."""

    name: str
    features: frozenset[Feature] = frozenset(["usage"])
    projects: dict[ProjectId, ProviderProject] = field(default_factory=dict[ProjectId, ProviderProject])
    failure: TenantryError | None = None
    notes: Sequence[str] = ()
    clock_seconds: float = 0.0
    listed: int = 0
    searched: list[str] = field(default_factory=list[str])

    def add(self, name: str, pg_version: int = 18) -> ProjectId:
        id = ProjectId(f"{self.name}-{len(self.projects):04}")
        self.projects[id] = ProviderProject(
            id=id, name=name, region=RegionId("local"), pg_version=pg_version, created_at=NOW
        )
        return id

    def check(self) -> Health:
        if self.failure is not None:
            raise self.failure
        return Health(version="cell 1.0", regions=[], clock_seconds=self.clock_seconds, notes=self.notes)

    def list_projects(self) -> Iterator[ListedProject]:
        for each in list(self.projects.values()):
            self.listed += 1
            yield ListedProject(project=each, limits=Limits())

    def find_projects(self, part_of_name: str) -> Sequence[ProviderProject]:
        self.searched.append(part_of_name)
        return [each for each in self.projects.values() if part_of_name in each.name]

    def delete_project(self, project_id: ProjectId, *, for_good: bool = False) -> bool:
        assert not for_good
        return self.projects.pop(project_id, None) is not None


class Somewhere:
    """A fleet: its catalog and its places."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.places: dict[ProviderId, Place] = {HOME: Place("home")}
        self.passes: list[PassShown] = []

    @property
    def home(self) -> Place:
        return self.places[HOME]

    def opened(self, record: ProviderRecord) -> Provider:
        return cast("Provider", self.places[record.id])

    def add(self, name: str) -> Place:
        with self.catalog.transaction() as connection:
            record, _ = providers.add_provider(
                connection, name=name, kind="cell", api_url="https://api.example", api_ca=None, secret_from="env:KEY"
            )
        self.places[record.id] = Place(name)
        return self.places[record.id]

    def tenant(self, slug: str, *, pg_version: int = 18, there: bool = True) -> Tenant:
        with self.catalog.transaction() as connection:
            intended, _ = queries.intend_tenant(
                connection, slug=slug, name=slug, email=None, plan="launch", region=None, pg_version=pg_version
            )
            name = f"{slug} [{intended.id}]"
            id = self.home.add(name, pg_version) if there else ProjectId(f"gone-{slug}")
            return queries.mark_ready(
                connection, intended.id, project_id=id, region="local", pg_version=pg_version,
                database_name="neondb", role_name="neondb_owner",
            )  # fmt: skip

    def examine(self, **arguments: Any) -> list[Finding]:
        class Listed:
            passes = staticmethod(lambda: self.passes)

        return examine(self.catalog, cast("Any", self), cast("Jobs", Listed()), today=TODAY, **arguments)

    def found(self, name: str, **arguments: Any) -> list[Finding]:
        return [each for each in self.examine(**arguments) if each.name == name]

    def execute(self, statement: str, *values: object) -> None:
        with self.catalog.transaction() as connection:
            connection.exec_driver_sql(statement, values or None)

    def worker(self, silent: str = "1 second") -> None:
        self.execute(
            "INSERT INTO procrastinate.procrastinate_workers (last_heartbeat) VALUES (now() - %s::interval)", silent
        )


@pytest.fixture
def fleet(catalog: Catalog) -> Iterator[Somewhere]:
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE provider SET usage_collected_at = now()")
    yield Somewhere(catalog)
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE provider SET usage_collected_at = NULL")


def test_a_fleet_that_is_well_is_told_line_by_line(fleet: Somewhere) -> None:
    fleet.worker()
    fleet.tenant("acme")
    fleet.home.add("tenantry-catalog")
    found = fleet.examine()
    assert [(each.name, each.level) for each in found] == [
        ("catalog", "ok"), ("connections", "ok"), ("unfinished", "ok"), ("leaving", "ok"), ("jobs", "ok"),
        ("schema", "ok"), ("provider", "ok"), ("versions", "ok"), ("usage", "ok"), ("projects", "ok"),
    ]  # fmt: skip
    assert fleet.home.searched == [], "nothing was suspect, so nothing was looked at twice"


def test_a_catalog_of_another_revision_is_said_and_not_read(fleet: Somewhere) -> None:
    fleet.execute(f"UPDATE {VERSION_TABLE} SET version_num = '0001'")
    try:
        (found,) = fleet.examine()
        assert (found.level, "is at revision 0001" in found.found) == ("wrong", True)
        fleet.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        (found,) = fleet.examine()
        assert "a newer release" in found.next_step
    finally:
        fleet.execute(f"UPDATE {VERSION_TABLE} SET version_num = %s", REVISION)
    assert fleet.home.listed == 0


def test_a_catalog_that_is_away_is_said(fleet: Somewhere) -> None:
    away = Catalog(fleet.catalog.url.replace("?host=", "?host=/nowhere"))
    (found,) = examine(away, cast("Any", fleet), Jobs(away, cast("Any", None)))
    assert (found.name, found.level) == ("catalog", "wrong")
    assert "does not answer" in found.found


def test_a_provider_that_is_away_is_said_and_the_others_are_compared(fleet: Somewhere) -> None:
    fleet.worker()
    fleet.tenant("acme")
    away = fleet.add("away")
    away.failure = Unavailable("GET /auth failed", next_step="see that it runs")
    other = fleet.add("other")
    other.notes, other.clock_seconds = ["anybody may connect"], 0.0
    said = {each.found.partition(" ")[0].rstrip(":"): each for each in fleet.found("provider")}
    assert (said["away"].level, said["away"].next_step) == ("wrong", "see that it runs")
    assert (said["other"].level, "anybody may connect" in said["other"].found) == ("note", True)
    assert said["home"].level == "ok"
    assert {each.found.partition(":")[0] for each in fleet.found("projects")} == {"home", "other"}
    other.clock_seconds = 90.0
    assert "90 s ahead" in next(each for each in fleet.found("provider") if "other" in each.found).found


def test_what_does_not_end_is_wrong_and_named(fleet: Somewhere) -> None:
    with fleet.catalog.transaction() as connection:
        for slug in ("young", "old"):
            queries.intend_tenant(
                connection, slug=slug, name=slug, email=None, plan="launch", region=None, pg_version=None
            )
    (found,) = fleet.found("unfinished")
    assert (found.level, found.facts["count"]) == ("ok", 2)
    fleet.execute(
        "UPDATE project SET created_at = now() - interval '1 hour' WHERE id IN"
        " (SELECT project.id FROM project JOIN customer c ON c.id = customer_id WHERE slug = 'old')"
    )
    (found,) = fleet.found("unfinished")
    assert (found.level, found.facts["tenants"]) == ("wrong", ["old"])
    assert "tenantry worker" in found.next_step
    fleet.worker()
    assert "jobs list" in fleet.found("unfinished")[0].next_step


def test_a_grace_that_is_over_is_wrong(fleet: Somewhere) -> None:
    acme = fleet.tenant("acme")
    with fleet.catalog.transaction() as connection:
        queries.mark_leaving(connection, acme.id, grace_seconds=60, by="me")
    assert fleet.found("leaving")[0].level == "ok"
    fleet.execute("UPDATE project SET purge_at = now() - interval '3 hours'")
    (found,) = fleet.found("leaving")
    assert (found.level, found.facts["tenants"]) == ("wrong", ["acme"])


def test_work_that_nobody_does_is_wrong_and_none_to_do_is_a_note(fleet: Somewhere) -> None:
    fleet.execute("DELETE FROM procrastinate.procrastinate_workers")
    assert [(each.level, each.facts["workers"]) for each in fleet.found("jobs")] == [("note", 0)]
    with fleet.catalog.transaction() as connection:
        job = job_rows.add_job(
            connection, kind="suspend", arguments={}, created_by="me", items=[("acme", {})], batch_items=1, queue="x"
        )
    assert fleet.found("jobs")[0].level == "note", "it has only just been asked for"
    fleet.execute("UPDATE job SET created_at = now() - interval '1 hour'")
    (found,) = fleet.found("jobs")
    assert (found.level, found.facts["jobs"]) == ("wrong", [str(job)])
    assert str(job)[:8] in found.found
    fleet.worker()
    assert fleet.found("jobs")[0].level == "note"
    fleet.execute("UPDATE job_batch SET state = 'running', claimed_at = now() - interval '1 hour'")
    assert fleet.found("jobs")[0].level == "wrong"
    fleet.execute("UPDATE job_batch SET claimed_at = now()")
    assert fleet.found("jobs")[0].level == "ok"


def test_orphans_of_both_sides_are_found_and_looked_at_twice(fleet: Somewhere) -> None:
    acme = fleet.tenant("acme")
    lost = fleet.tenant("lost", there=False)
    second = fleet.home.add(f"acme [{acme.id}]")
    unknown = fleet.home.add(f"who [{uuid4()}]")
    fleet.home.add("somebody else's")
    found = {(each.name, each.level): each for each in fleet.examine() if each.name in ("projects", "tenants")}
    assert set(found) == {("projects", "wrong"), ("projects", "note"), ("tenants", "wrong")}
    told = [each.found for each in fleet.found("projects")]
    assert any(f"second projects of their tenants (1): {second} (acme)" in each for each in told)
    assert any(unknown in each for each in told)
    assert "lost (gone-lost)" in found["tenants", "wrong"].found
    assert str(lost.id) in fleet.home.searched


def test_what_is_gone_at_the_second_look_is_not_reported(fleet: Somewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    acme = fleet.tenant("acme")
    second = fleet.home.add(f"acme [{acme.id}]")
    once = fleet.home.list_projects

    def listed() -> Iterator[ListedProject]:
        yield from once()
        fleet.home.projects.pop(second, None)

    monkeypatch.setattr(fleet.home, "list_projects", listed)
    assert [each.level for each in fleet.found("projects")] == ["ok"]


def test_a_long_list_is_cut_unless_all_is_wanted(fleet: Somewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projects, "PROJECTS_MAX", 3)
    for number in range(5):
        fleet.tenant(f"t{number}")
    fleet.tenant("lost", there=False)
    (found,) = fleet.found("projects")
    assert (found.level, found.next_step) == ("note", "tenantry doctor --all")
    assert fleet.home.listed == 4
    assert [each.name for each in fleet.examine(everything=True) if each.level == "wrong"] == ["tenants"]


def test_only_a_project_that_no_tenant_has_is_removed(fleet: Somewhere) -> None:
    acme = fleet.tenant("acme")
    second, other = fleet.home.add(f"acme [{acme.id}]"), fleet.home.add("mine")

    def remove(place: str) -> None:
        remove_stray(fleet.catalog, cast("Any", fleet), place)

    for place, error, says in (
        (f"home/{acme.project_id}", Conflict, "a tenant has it"),
        (f"home/{other}", Conflict, "not named as a fleet's"),
        ("home/none", NotFound, "has no project none"),
        (f"nowhere/{second}", NotFound, "there is no provider nowhere"),
        (second, InvalidInput, "is not PROVIDER/PROJECT"),
    ):
        with pytest.raises(error, match=says):
            remove(place)
    remove(f"home/{second}")
    assert set(fleet.home.projects) == {acme.project_id, other}
    with fleet.catalog.transaction() as connection:
        row = connection.exec_driver_sql("SELECT verb, detail FROM event ORDER BY id DESC LIMIT 1").one()
    assert (row[0], row[1]["project_id"]) == ("remove_project", second)


def test_versions_are_compared_with_what_the_machine_has_and_with_their_support(fleet: Somewhere) -> None:
    assert of_versions([], {}, TODAY, at_home={18}) == []
    (found,) = of_versions([(HOME, 18, 3)], {HOME: "home"}, TODAY, at_home={18})
    assert (found.level, found.found) == ("ok", "home: Postgres 18 (3 tenants)")
    (found,) = of_versions([(HOME, 16, 1), (HOME, 18, 3)], {HOME: "home"}, TODAY, at_home={18})
    assert (found.level, found.next_step) == ("wrong", "tenantry engine install 16")
    other = ProviderId(uuid4())
    (found,) = of_versions([(other, 14, 1)], {other: "far"}, TODAY, at_home={18})
    assert (found.level, found.found) == (
        "note", "far: Postgres 14 (1 tenant); Postgres 14 gets no more fixes since 2026-11-12",
    )  # fmt: skip
    fleet.tenant("acme", pg_version=18)
    fleet.execute("UPDATE project SET pg_version = 17")
    assert [each.level for each in fleet.found("versions")] == ["ok", "note"]


def test_the_connections_have_a_budget() -> None:
    assert of_connections(Connections(used=10, allowed=97, workers=2)).level == "ok"
    assert of_connections(Connections(used=70, allowed=97, workers=2)).level == "note"
    assert of_connections(Connections(used=90, allowed=97, workers=2)).level == "wrong"
    assert of_connections(Connections(used=10, allowed=97, workers=20)).level == "note"


def test_schemas_that_differ_are_counted() -> None:
    assert of_schemas([(None, None, 5)]).found == "no tenant was ever migrated"
    assert of_schemas([("drizzle", "0002_b", 7)]).found == "7 tenants at 0002_b"
    found = of_schemas([("drizzle", "0002_b", 7), ("drizzle", "0001_a", 1), (None, None, 2)])
    assert (found.level, found.found) == (
        "note", "3 kinds: 7 tenants at 0002_b, 1 tenant at 0001_a, 2 tenants never migrated",
    )  # fmt: skip
    many = of_schemas([("sql", f"{number:04}", 10 - number) for number in range(8)])
    assert "3 other versions" in many.found


def test_usage_that_is_not_collected_is_a_note() -> None:
    assert of_usage({}, 1, NOW) == []
    assert of_usage({"home": NOW - timedelta(hours=1)}, 1, NOW)[0].level == "ok"
    (found,) = of_usage({"home": NOW - timedelta(hours=9), "eu": None}, 1, NOW)
    assert (found.level, "eu (never)" in found.found) == ("note", True)


def test_a_pass_that_failed_is_told() -> None:
    failed = PassShown(name="purge", cron="* * * * *", next_at=NOW, last=None, said=[], error="no")
    found = of_jobs(Still(waiting=0, silent=0, jobs=[]), 1, [failed])
    assert [(each.name, each.level) for each in found] == [("jobs", "ok"), ("passes", "note")]
