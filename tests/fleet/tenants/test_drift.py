"""What plans say and what providers hold: compared, mended, and changed with a tenant's plan; killed at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tenantry.errors import Conflict, InvalidInput, Unavailable
from tenantry.fleet.catalog import events, plans
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Plan, ProviderRecord, Tenant
from tenantry.fleet.providers.ports import FEATURES, Feature, Limits, ListedProject
from tenantry.fleet.tenants import mend as mending
from tenantry.fleet.tenants.change_plan import change_plan, plan_change
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.delete import delete_tenant
from tenantry.fleet.tenants.drift import Difference, Drifted, differences, shortens_history
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.tenants.limits import limits_of
from tenantry.fleet.tenants.names import project_name
from tenantry.fleet.tenants.rename import rename_tenant
from tenantry.neon.ids import ProjectId

if TYPE_CHECKING:
    from conftest import MemoryProvider

Opened = Callable[[ProviderRecord], "MemoryProvider"]


@pytest.fixture
def opened(provider: MemoryProvider) -> Opened:
    return lambda _: provider


@pytest.fixture
def acme(catalog: Catalog, provider: MemoryProvider) -> Tenant:
    return create_tenant(catalog, provider.of, wish("ACME Corp")).tenant


def held(provider: MemoryProvider, tenant: Tenant) -> Limits:
    assert tenant.project_id is not None
    return provider.held[tenant.project_id]


def found(catalog: Catalog, opened: Opened, *, deep: bool = False) -> dict[str, set[str]]:
    drifted = list(mending.find_drift(catalog, opened, deep=deep))
    assert all(isinstance(each, Drifted) for each in drifted)
    return {each.tenant.slug: {one.what for one in each.differences} for each in drifted if isinstance(each, Drifted)}


def plan_of(catalog: Catalog, slug: str) -> Plan:
    with catalog.transaction() as connection:
        plan = plans.plan_by_slug(connection, slug)
    assert plan is not None
    return plan


def test_a_new_tenant_is_held_to_its_plan_from_the_first_moment(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    for plan in ("launch", "scale", "business"):
        tenant = create_tenant(catalog, provider.of, wish(f"Customer {plan}", plan=plan)).tenant
        assert held(provider, tenant) == limits_of(plan_of(catalog, plan), FEATURES)
    assert "limits" not in provider.calls
    assert found(catalog, opened) == {}


def test_what_was_changed_behind_our_back_is_seen_and_mended(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, acme: Tenant
) -> None:
    other = create_tenant(catalog, provider.of, wish("Other")).tenant
    assert acme.project_id is not None
    assert other.project_id is not None
    provider.held[acme.project_id] = replace(held(provider, acme), cu_max=8.0, quota_written_bytes=5)
    provider.projects[other.project_id] = replace(provider.projects[other.project_id], name="somebody was here")
    assert found(catalog, opened) == {"acme-corp": {"cu_max", "quota_written_bytes"}, "other": {"name"}}
    assert sorted(mending.pass_(catalog, opened, provider.of)) == [
        "acme-corp: cu_max, quota_written_bytes mended",
        "other: name mended",
    ]
    assert held(provider, acme) == limits_of(plan_of(catalog, "launch"), FEATURES)
    assert provider.projects[other.project_id].name == project_name(other)
    assert mending.pass_(catalog, opened, provider.of) == []


def test_the_pass_asks_for_lists_alone_and_wakes_nobody(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        create_tenant(catalog, provider.of, wish(f"Customer {number}"))
    monkeypatch.setattr(mending, "PAGE", 2)
    provider.calls.clear()
    assert mending.pass_(catalog, opened, provider.of) == []
    assert provider.calls == ["list"]


def test_projects_that_are_nobodys_and_tenants_that_are_unfinished_are_passed_over(
    catalog: Catalog, provider: MemoryProvider, opened: Opened
) -> None:
    stray = provider.born("tenantry-nonprod")
    provider.projects[stray.id] = stray
    provider.kill_at = ("after", "create")
    with pytest.raises(provider.Killed):
        create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert found(catalog, opened) == {}


def test_a_leaving_tenant_keeps_its_limits(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, acme: Tenant
) -> None:
    delete_tenant(catalog, provider.of, acme.slug)
    assert acme.project_id is not None
    provider.held[acme.project_id] = Limits()
    assert mending.pass_(catalog, opened, provider.of) != []
    assert held(provider, acme).cu_max == 0.25


def test_a_provider_that_is_away_is_named_and_nobody_else_waits(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant
) -> None:
    def away(_: ProviderRecord) -> MemoryProvider:
        raise Unavailable("it is away")

    assert mending.pass_(catalog, away, provider.of) == ["provider home was not looked at: it is away"]


def test_one_pass_mends_so_many_and_says_so(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        create_tenant(catalog, provider.of, wish(f"Customer {number}"))
    provider.held.clear()
    monkeypatch.setattr(mending, "MENDED_MAX", 2)
    said = mending.pass_(catalog, opened, provider.of)
    assert (len(said), said[-1]) == (3, "more than 2 tenants differ from their plans: the next pass goes on")
    assert len(mending.pass_(catalog, opened, provider.of)) == 1


def test_what_the_list_does_not_say_is_asked_for_where_that_is_wanted(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_the_endpoint(project: ProjectId) -> Limits:
        return replace(provider.held[project], cu_max=4.0)

    monkeypatch.setattr(provider, "limits", of_the_endpoint)
    assert found(catalog, opened) == {}
    assert found(catalog, opened, deep=True) == {"acme-corp": {"cu_max"}}


# -- another plan --------------------------------------------------------------------------------------------


def test_a_change_of_plan_is_shown_and_holds_at_once(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, acme: Tenant
) -> None:
    change = plan_change(catalog, provider.of, acme.slug, "scale")
    assert {each.what: (each.found, each.wanted) for each in change.differences} == {
        "cu_max": (0.25, 1.0),
        "history_seconds": (86_400, 604_800),
        "quota_logical_bytes": (10 * 2**30, 100 * 2**30),
    }
    assert not change.destroys
    assert find_tenant(catalog, acme.slug).plan == "launch"
    assert change_plan(catalog, provider.of, change).plan == "scale"
    assert held(provider, acme) == limits_of(plan_of(catalog, "scale"), FEATURES)
    back = plan_change(catalog, provider.of, acme.slug, "launch")
    assert back.destroys
    change_plan(catalog, provider.of, back)
    assert held(provider, acme) == limits_of(plan_of(catalog, "launch"), FEATURES)
    assert found(catalog, opened) == {}
    with catalog.transaction() as connection:
        told = events.events_page(connection, verb="change plan", limit=9)
        periods = connection.exec_driver_sql("SELECT plan_slug FROM subscription ORDER BY started_at").scalars().all()
    assert [(event.detail["was"], event.detail["plan"]) for event in told] == [("scale", "launch"), ("launch", "scale")]
    assert periods == ["launch", "scale", "launch"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_a_plan_is_changed_repeating_or_the_pass_completes_it(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, acme: Tenant, moment: str
) -> None:
    provider.kill_at = (moment, "limits")
    with pytest.raises(provider.Killed):
        change_plan(catalog, provider.of, plan_change(catalog, provider.of, acme.slug, "scale"))
    assert find_tenant(catalog, acme.slug).plan == "scale"
    if moment == "before":
        assert mending.pass_(catalog, opened, provider.of) == [
            "acme-corp: cu_max, history_seconds, quota_logical_bytes mended"
        ]
    change_plan(catalog, provider.of, plan_change(catalog, provider.of, acme.slug, "scale"))
    assert held(provider, acme).cu_max == 1
    with catalog.transaction() as connection:
        assert len(events.events_page(connection, verb="change plan", limit=9)) == 1


def test_a_plan_that_there_is_not_and_a_tenant_that_leaves(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant
) -> None:
    with pytest.raises(InvalidInput, match="there is no plan 'gold'; choose one of: launch, scale, business"):
        plan_change(catalog, provider.of, acme.slug, "gold")
    change = plan_change(catalog, provider.of, acme.slug, "scale")
    delete_tenant(catalog, provider.of, acme.slug)
    with pytest.raises(Conflict, match="acme-corp is leaving"):
        change_plan(catalog, provider.of, change)


# -- another name --------------------------------------------------------------------------------------------


def test_a_rename_reaches_the_provider(catalog: Catalog, provider: MemoryProvider, acme: Tenant) -> None:
    assert acme.project_id is not None
    renamed = rename_tenant(catalog, provider.of, "acme-corp", " Acme   Ltd ", slug="acme")
    assert (renamed.tenant.name, renamed.tenant.slug, renamed.was.slug, renamed.new) == (
        "Acme Ltd",
        "acme",
        "acme-corp",
        True,
    )
    assert provider.projects[acme.project_id].name == f"Acme Ltd [{acme.id}]"
    assert not rename_tenant(catalog, provider.of, "acme-corp", "Acme Ltd", slug="acme").new
    assert rename_tenant(catalog, provider.of, "acme", "Acme & Sons").tenant.slug == "acme"
    with catalog.transaction() as connection:
        told = events.events_page(connection, customers=[acme.customer_id], limit=9)
    assert [(event.verb, event.slug) for event in told] == [
        ("rename", "acme"),
        ("rename", "acme-corp"),
        ("create", "acme-corp"),
    ]
    # The old slug is free.
    assert create_tenant(catalog, provider.of, wish("ACME Corp")).new
    with pytest.raises(Conflict, match="the slug acme belongs to 'Acme & Sons'"):
        rename_tenant(catalog, provider.of, "acme-corp", "ACME Corp", slug="acme")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_it_is_renamed_repeating_or_the_pass_completes_it(
    catalog: Catalog, provider: MemoryProvider, opened: Opened, acme: Tenant, moment: str
) -> None:
    assert acme.project_id is not None
    for complete in (
        lambda: rename_tenant(catalog, provider.of, "acme-corp", "First"),
        lambda: mending.pass_(catalog, opened, provider.of),
    ):
        provider.kill_at = (moment, "rename")
        with pytest.raises(provider.Killed):
            rename_tenant(catalog, provider.of, "acme-corp", "First")
        complete()
        assert provider.projects[acme.project_id].name == f"First [{acme.id}]"
        rename_tenant(catalog, provider.of, "acme-corp", "ACME Corp")


def test_a_provider_that_is_away_is_renamed_later(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("it is away")

    monkeypatch.setattr(provider, "rename_project", away)
    assert rename_tenant(catalog, provider.of, acme.slug, "Acme").note == "its project's name follows: it is away"
    assert find_tenant(catalog, acme.slug).name == "Acme"


# -- what is compared ----------------------------------------------------------------------------------------

LAUNCH = Plan(
    slug="x",
    name="X",
    projects_max=1,
    price_usd_monthly=Decimal(0),
    cu_min=Decimal("0.25"),
    cu_max=Decimal("1.00"),
    quota_sent_bytes=7,
)


@pytest.mark.parametrize(
    ("held_now", "differ"),
    [
        (Limits(cu_min=0.25, cu_max=1, suspend_seconds=0, quota_sent_bytes=7), {}),
        (Limits(cu_min=0.25, cu_max=1, suspend_seconds=0, quota_sent_bytes=7, history_seconds=5), {}),
        (Limits(cu_min=0.25, cu_max=2, suspend_seconds=0, quota_sent_bytes=7), {"cu_max": (1.0, 2)}),
        # What the list does not say was never set by us.
        (Limits(quota_sent_bytes=7), {"cu_min": (0.25, None), "cu_max": (1.0, None), "suspend_seconds": (0, None)}),
        # A quota that the plan does not say is none.
        (
            Limits(cu_min=0.25, cu_max=1, suspend_seconds=0, quota_written_bytes=9),
            {"quota_written_bytes": (None, 9), "quota_sent_bytes": (7, None)},
        ),
    ],
)
def test_what_differs(acme: Tenant, provider: MemoryProvider, held_now: Limits, differ: dict[str, object]) -> None:
    (project,) = provider.projects.values()
    listed = ListedProject(project=project, limits=held_now)
    assert {each.what: (each.wanted, each.found) for each in differences(acme, LAUNCH, listed, FEATURES)} == differ


def test_a_provider_is_held_to_what_it_can(acme: Tenant, provider: MemoryProvider) -> None:
    (project,) = provider.projects.values()
    bare = replace(project, name=f"[{acme.id}]")
    none: set[Feature] = set()
    assert differences(acme, LAUNCH, ListedProject(project=bare, limits=Limits()), none) == []
    assert limits_of(LAUNCH, none) == Limits()
    assert limits_of(LAUNCH, {"quotas"}) == Limits(
        quota_active_seconds=0,
        quota_compute_seconds=0,
        quota_written_bytes=0,
        quota_sent_bytes=7,
        quota_logical_bytes=0,
    )


def test_only_a_shorter_history_destroys() -> None:
    def history(wanted: int, held_now: int | None) -> list[Difference]:
        return [Difference(what="history_seconds", wanted=wanted, found=held_now)]

    assert shortens_history(history(1, 2))
    assert not shortens_history(history(2, 1))
    assert not shortens_history(history(2, None))
    assert not shortens_history([Difference(what="cu_max", wanted=1, found=2)])
