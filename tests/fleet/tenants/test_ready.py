"""Projects that wait for tenants: made, claimed, replaced and removed; killed at every step."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.errors import NotSupported, Unavailable
from tenantry.fleet.catalog import events, providers, ready
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.ready import ReadyId, ReadyProject
from tenantry.fleet.catalog.records import ProviderId, ProviderRecord, Serving
from tenantry.fleet.tenants import keep_ready
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.keep_ready import Shelf, decide, wanted_shelves
from tenantry.fleet.tenants.names import project_name

if TYPE_CHECKING:
    from conftest import MemoryProvider

HOME = ProviderId(HOME_PROVIDER)
Opened = Callable[[ProviderRecord], "MemoryProvider"]


@pytest.fixture
def opened(provider: MemoryProvider) -> Opened:
    return lambda _: provider


def rows(catalog: Catalog) -> list[ReadyProject]:
    with catalog.transaction() as connection:
        return ready.ready_projects(connection)


def test_a_signup_gets_a_project_that_waits_without_waiting(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    assert keep_ready.pass_(catalog, opened, 2) == ["home: 2 made ready"]
    assert keep_ready.pass_(catalog, opened, 2) == []
    first, second = rows(catalog)
    assert {project.name for project in provider.projects.values()} == {f"ready [{row.id}]" for row in rows(catalog)}
    provider.calls.clear()

    done = create_tenant(catalog, provider.of, wish("ACME Corp", email="ops@acme.example", plan="scale"))
    assert (done.new, done.note, done.tenant.state) == (True, None, "ready")
    assert (done.tenant.id, done.tenant.project_id) == (first.id, first.project_id)
    assert "create" not in provider.calls
    assert rows(catalog) == [second]
    # Its name and its limits follow.
    assert first.project_id is not None
    assert provider.projects[first.project_id].name == project_name(done.tenant)
    assert provider.held[first.project_id].cu_max == 1
    with catalog.transaction() as connection:
        (event,) = events.events_page(connection, limit=9)
    assert (event.verb, event.detail["claimed"]) == ("create", first.project_id)
    assert not create_tenant(catalog, provider.of, wish("ACME Corp")).new
    assert rows(catalog) == [second]


def test_where_none_fits_one_is_made(catalog: Catalog, provider: MemoryProvider, opened: Opened) -> None:
    keep_ready.pass_(catalog, opened, 1)
    other_version = create_tenant(catalog, provider.of, wish("Old", pg_version=17)).tenant
    elsewhere = create_tenant(catalog, provider.of, wish("Far", region="moon")).tenant
    assert (other_version.pg_version, elsewhere.region) == (17, "moon")
    assert len(rows(catalog)) == 1
    # What it happens to be is good enough for who asks for it.
    there = create_tenant(catalog, provider.of, wish("Near", pg_version=18, region="local")).tenant
    assert rows(catalog) == []
    assert create_tenant(catalog, provider.of, wish("Next")).tenant.id != there.id


def test_many_at_once_share_what_there_is_without_waiting_for_each_other(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    keep_ready.pass_(catalog, opened, 3)
    waiting = {row.project_id for row in rows(catalog)}
    gate = threading.Barrier(4)

    def sign_up(number: int) -> str:
        gate.wait(30)
        return str(create_tenant(catalog, provider.of, wish(f"Customer {number}")).tenant.project_id)

    with ThreadPoolExecutor(4) as pool:
        got = set(pool.map(sign_up, range(4)))
    assert len(got) == 4
    assert waiting < got
    assert rows(catalog) == []
    assert len(provider.projects) == 4


def test_two_of_one_name_take_one_of_them(catalog: Catalog, provider: MemoryProvider, opened: Opened) -> None:
    keep_ready.pass_(catalog, opened, 2)
    gate = threading.Barrier(2)

    def sign_up(_: int) -> str:
        gate.wait(30)
        return str(create_tenant(catalog, provider.of, wish("ACME Corp")).tenant.id)

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(sign_up, range(2)))) == 1
    assert len(rows(catalog)) == 1


def test_what_cannot_be_named_now_is_given_all_the_same(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_ready.pass_(catalog, opened, 1)

    def away(*_: object) -> None:
        raise Unavailable("the provider is away")

    monkeypatch.setattr(provider, "rename_project", away)
    done = create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert (done.tenant.state, done.note) == (
        "ready",
        "its name and limits at the provider follow: the provider is away",
    )


def test_what_was_deleted_at_the_provider_is_given_to_nobody(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    keep_ready.pass_(catalog, opened, 2)
    gone, _ = rows(catalog)
    provider.projects.clear()
    done = create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert done.new
    assert done.tenant.id == gone.id
    assert list(provider.projects) == [done.tenant.project_id]
    # The pass sees it before anybody asks.
    assert keep_ready.pass_(catalog, opened, 1) == [
        "home: a ready project was gone, and another is made",
        "home: 1 made ready",
    ]
    (other,) = rows(catalog)
    assert other.project_id in provider.projects
    assert other.project_id != gone.project_id


def test_too_many_are_removed_and_the_newest_first(catalog: Catalog, provider: MemoryProvider, opened: Opened) -> None:
    keep_ready.pass_(catalog, opened, 3)
    oldest = rows(catalog)[0]
    assert keep_ready.pass_(catalog, opened, 1) == ["home: 2 removed that nobody needs to be ready"]
    assert rows(catalog) == [oldest]
    assert list(provider.projects) == [oldest.project_id]
    assert keep_ready.pass_(catalog, opened, 0) == ["home: 1 removed that nobody needs to be ready"]
    assert provider.projects == {}


def test_a_wish_that_is_refused_for_ever_does_not_come_back_by_itself(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    provider.refusal = NotSupported("there is no Postgres 14 here")
    said = keep_ready.pass_(catalog, opened, 2, pg_version=14)
    assert said == ["home: ready projects could not be made: there is no Postgres 14 here"]
    provider.refusal = None
    keep_ready.pass_(catalog, opened, 0)
    assert (rows(catalog), provider.projects) == ([], {})


@pytest.mark.parametrize("moment", [("before", "find"), ("before", "create"), ("after", "create")])
def test_killed_while_it_makes_one_the_next_pass_completes_it(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, moment: tuple[str, str]
) -> None:
    provider.kill_at = moment
    with pytest.raises(provider.Killed):
        keep_ready.pass_(catalog, opened, 2)
    assert {row.state for row in rows(catalog)} == {"making"}
    # Nobody is given what is not made.
    tenant = create_tenant(catalog, provider.of, wish("ACME Corp")).tenant
    assert len(rows(catalog)) == 2
    assert keep_ready.pass_(catalog, opened, 2) == ["home: 2 made ready"]
    assert {row.project_id for row in rows(catalog)} | {tenant.project_id} == set(provider.projects)
    assert len(provider.projects) == 3


@pytest.mark.parametrize("moment", [("before", "delete"), ("after", "delete")])
def test_killed_while_it_removes_one_nobody_is_given_it(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, moment: tuple[str, str]
) -> None:
    keep_ready.pass_(catalog, opened, 1)
    provider.kill_at = moment
    with pytest.raises(provider.Killed):
        keep_ready.pass_(catalog, opened, 0)
    (left,) = rows(catalog)
    assert left.state == "making"
    tenant = create_tenant(catalog, provider.of, wish("ACME Corp")).tenant
    assert tenant.id != left.id
    keep_ready.pass_(catalog, opened, 0)
    assert rows(catalog) == []
    assert list(provider.projects) == [tenant.project_id]


def test_a_late_request_of_the_dead_leaves_no_second_project(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    provider.kill_at = ("before", "create")
    with pytest.raises(provider.Killed):
        keep_ready.pass_(catalog, opened, 1)
    (row,) = rows(catalog)
    late = provider.born(f"ready [{row.id}]")
    provider.before_create = [late]
    keep_ready.pass_(catalog, opened, 1)
    assert list(provider.projects) == [late.id] == [rows(catalog)[0].project_id]


def test_each_region_that_takes_new_tenants_has_its_own(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    with catalog.transaction() as connection:
        for region, room in (("eu-1", None), ("eu-2", 1), ("us-1", None)):
            providers.serve_region(
                connection,
                HOME,
                region,
                provider_region=f"theirs-{region}",
                projects_max=room,
                unlimited=False,
                accepts_new=region != "us-1",
            )
    assert keep_ready.pass_(catalog, opened, 2) == ["home: 3 made ready"]
    assert sorted((row.wanted_region, row.region) for row in rows(catalog)) == [
        ("eu-1", "eu-1"),
        ("eu-1", "eu-1"),
        ("eu-2", "eu-2"),
    ]
    assert {project.region for project in provider.projects.values()} == {"theirs-eu-1", "theirs-eu-2"}
    tenant = create_tenant(catalog, provider.of, wish("ACME Corp", region="eu-2")).tenant
    assert (tenant.region, len(provider.projects)) == ("eu-2", 3)
    # Its one place is taken.
    assert keep_ready.pass_(catalog, opened, 2) == []


# -- what is decided -----------------------------------------------------------------------------------------


def row(number: int, shelf: Shelf, state: str) -> ReadyProject:
    return ReadyProject(
        id=ReadyId(uuid.UUID(int=number)),
        provider_id=shelf.provider_id,
        state=state,  # pyright: ignore[reportArgumentType]
        wanted_region=shelf.region,
        wanted_pg_version=shelf.pg_version,
        project_id=None,
        region=None,
        pg_version=None,
        database_name=None,
        role_name=None,
        created_at=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
    )


SHELVES = [Shelf(HOME, region, version) for region in (None, "eu-1") for version in (None, 17)]


@given(
    st.lists(st.tuples(st.sampled_from(SHELVES), st.sampled_from(["making", "ready"])), max_size=12),
    st.dictionaries(st.sampled_from(SHELVES), st.integers(0, 4)),
)
def test_after_a_decision_there_is_what_is_wanted(there: list[tuple[Shelf, str]], wanted: dict[Shelf, int]) -> None:
    known = [row(number, shelf, state) for number, (shelf, state) in enumerate(there)]
    decision = decide(known, wanted)
    assert all(number > 0 for number in decision.add.values())
    for shelf in SHELVES:
        mine = [each for each in known if Shelf(each.provider_id, each.wanted_region, each.wanted_pg_version) == shelf]
        dropped = [each for each in mine if each in decision.drop]
        assert len(mine) - len(dropped) + decision.add.get(shelf, 0) == wanted.get(shelf, 0)
        assert not (dropped and shelf in decision.add)
        kept_ready = [each for each in mine if each.state == "ready" and each not in dropped]
        # Nothing that is made goes while something goes on being made.
        assert not any(each.state == "ready" for each in dropped) or all(
            each.state == "ready" for each in mine if each not in dropped
        )
        assert all(kept.id < gone.id for kept in kept_ready for gone in dropped if gone.state == "ready")


def test_a_full_place_keeps_none_ready() -> None:
    def serving(region: str, projects: int, projects_max: int | None, *, accepts_new: bool = True) -> Serving:
        return Serving(
            provider_id=HOME,
            provider="home",
            region=region,
            provider_region=region,
            projects=projects,
            ready=0,
            projects_max=projects_max,
            accepts_new=accepts_new,
        )

    places = [
        serving("a", 9, None),
        serving("b", 9, 10),
        serving("c", 11, 10),
        serving("d", 0, None, accepts_new=False),
    ]
    assert wanted_shelves(places, count=3, pg_version=17) == {
        Shelf(HOME, "a", 17): 3,
        Shelf(HOME, "b", 17): 1,
        Shelf(HOME, "c", 17): 0,
    }
    assert wanted_shelves([], count=3, pg_version=None) == {Shelf(HOME, None, None): 3}
