from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tenantry.errors import Conflict, InvalidInput, NotFound, NotSupported, Unavailable
from tenantry.fleet.catalog import queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.tenants import create as module
from tenantry.fleet.tenants.create import create_tenant, finish_creation, wish
from tenantry.fleet.tenants.delete import AT_ONCE, delete_tenant, plan_deletion
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.tenants.finish import finish_unfinished
from tenantry.fleet.tenants.list import list_tenants
from tenantry.fleet.tenants.names import project_name
from tenantry.fleet.tenants.resume import resume_tenant
from tenantry.fleet.tenants.show import show_tenant
from tenantry.fleet.tenants.suspend import suspend_tenant
from tenantry.fleet.tenants.url import tenant_url

if TYPE_CHECKING:
    from conftest import MemoryProvider


def test_creating_makes_one_project_named_after_the_customer_and_the_row(
    catalog: Catalog, provider: MemoryProvider
) -> None:
    done = create_tenant(catalog, provider.of, wish("ACME Corp", region="eu", pg_version=17, email="Ops@Acme.example"))
    assert done.new
    assert (done.tenant.slug, done.tenant.state, done.tenant.region, done.tenant.pg_version, done.tenant.plan) == (
        "acme-corp",
        "ready",
        "eu",
        17,
        "launch",
    )
    (project,) = provider.projects.values()
    assert project.name == f"ACME Corp [{done.tenant.id}]"
    assert done.tenant.project_id == project.id


def test_creating_twice_returns_the_same_tenant(catalog: Catalog, provider: MemoryProvider) -> None:
    first = create_tenant(catalog, provider.of, wish("ACME Corp"))
    for again in (wish("ACME Corp"), wish(" acme  corp "), wish("acme-corp"), wish("ACME Corp", region="local")):
        second = create_tenant(catalog, provider.of, again)
        assert (second.tenant, second.new) == (first.tenant, False)
    assert len(provider.projects) == 1


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        (wish("ACME, Corp."), "the slug acme-corp belongs to 'ACME Corp'"),
        (wish("ACME Corp", region="us"), "exists with region eu, not us"),
        (wish("ACME Corp", plan="scale"), "exists with plan launch, not scale"),
        (wish("ACME Corp", pg_version=17), "exists with Postgres version 18, not 17"),
        (wish("ACME Corp", email="else@acme.example"), "exists with email"),
    ],
)
def test_another_customer_of_the_same_slug_is_reported(
    catalog: Catalog, provider: MemoryProvider, again: object, reason: str
) -> None:
    create_tenant(catalog, provider.of, wish("ACME Corp", region="eu", email="ops@acme.example"))
    with pytest.raises(Conflict, match=reason):
        create_tenant(catalog, provider.of, again)  # pyright: ignore[reportArgumentType]
    assert len(provider.projects) == 1


def test_a_slug_of_ones_own_keeps_two_customers_apart(catalog: Catalog, provider: MemoryProvider) -> None:
    create_tenant(catalog, provider.of, wish("ACME Corp"))
    other = create_tenant(catalog, provider.of, wish("ACME, Corp.", slug="acme-2"))
    assert other.tenant.slug == "acme-2"
    assert len(provider.projects) == 2


def test_a_plan_that_does_not_exist_is_refused_before_anything_is_written(
    catalog: Catalog, provider: MemoryProvider
) -> None:
    with pytest.raises(InvalidInput, match="no plan 'gold'") as raised:
        create_tenant(catalog, provider.of, wish("ACME Corp", plan="gold"))
    assert raised.value.next_step == "choose one of: launch, scale, business"
    assert list(list_tenants(catalog)) == []


@pytest.mark.parametrize("email", ["nobody", "@x", "x@", "a b@c", "a@b@c"])
def test_an_email_that_is_none_is_refused(email: str) -> None:
    with pytest.raises(InvalidInput, match="not an email address"):
        wish("x", email=email)


def test_ten_at_once_make_one_tenant(catalog: Catalog, provider: MemoryProvider) -> None:
    gate = threading.Barrier(4)

    def create(_: int) -> bool:
        gate.wait(10)
        return create_tenant(catalog, provider.of, wish("ACME Corp")).tenant.state == "ready"

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(create, range(4)))
    assert len(provider.projects) == 1


@pytest.mark.parametrize(("moment", "creates"), [(("before", "create"), 2), (("after", "create"), 1)])
def test_killed_at_any_point_the_next_create_completes_it(
    catalog: Catalog, provider: MemoryProvider, moment: tuple[str, str], creates: int
) -> None:
    provider.kill_at = moment
    with pytest.raises(provider.Killed):
        create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert find_tenant(catalog, "acme-corp").state == "creating"
    with pytest.raises(Conflict, match="not ready: its creation was interrupted"):
        tenant_url(catalog, provider.of, "acme-corp")

    done = create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert done.new
    (project,) = provider.projects.values()
    assert (done.tenant.state, done.tenant.project_id) == ("ready", project.id)
    # A project that is there is adopted, not replaced.
    assert provider.calls.count("create") == creates


def test_who_writes_the_intent_looks_for_no_project_unless_another_has_tried(
    catalog: Catalog, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_tenant(catalog, provider.of, wish("First"))
    assert provider.calls == ["create"]

    def intended(point: str) -> None:
        """Between the writer's intent and its request another one comes, asks for a project and is killed."""
        if point == "create_tenant.intended":
            monkeypatch.undo()
            provider.kill_at = ("after", "create")
            with pytest.raises(provider.Killed):
                finish_creation(catalog, provider.of, find_tenant(catalog, "second"))

    monkeypatch.setattr(module, "failpoint", intended)
    done = create_tenant(catalog, provider.of, wish("Second"))
    assert done.tenant.state == "ready"
    assert [project.id for project in provider.projects.values() if project.name.startswith("Second")] == [
        done.tenant.project_id
    ]
    assert provider.calls.count("create") == 2, "what the other one made is adopted"


def test_killed_while_recording_the_next_create_adopts_the_project(
    catalog: Catalog, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(queries, "mark_ready", interrupted)
        with pytest.raises(KeyboardInterrupt):
            create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert create_tenant(catalog, provider.of, wish("ACME Corp")).tenant.project_id in provider.projects
    assert len(provider.projects) == 1


def test_a_request_of_the_dead_that_arrives_late_leaves_no_second_project(
    catalog: Catalog, provider: MemoryProvider
) -> None:
    provider.kill_at = ("before", "create")
    with pytest.raises(provider.Killed):
        create_tenant(catalog, provider.of, wish("ACME Corp"))
    late = provider.born(project_name(find_tenant(catalog, "acme-corp")))
    provider.before_create = [late]

    done = create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert list(provider.projects) == [late.id] == [done.tenant.project_id]


def test_what_the_provider_refuses_as_wrong_leaves_no_intent_behind(catalog: Catalog, provider: MemoryProvider) -> None:
    provider.refusal = NotSupported("there is no Postgres 14 here")
    with pytest.raises(NotSupported, match="no Postgres 14"):
        create_tenant(catalog, provider.of, wish("ACME Corp", pg_version=14))
    assert list(list_tenants(catalog)) == []
    provider.refusal = None
    assert create_tenant(catalog, provider.of, wish("ACME Corp", pg_version=18)).new


def test_what_the_provider_cannot_do_now_stays_an_intent(catalog: Catalog, provider: MemoryProvider) -> None:
    provider.refusal = Unavailable("the answer was lost", maybe_done=True)
    with pytest.raises(Unavailable):
        create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert [tenant.state for tenant in list_tenants(catalog)] == ["creating"]


@pytest.mark.parametrize("moment", [("before", "find"), ("before", "delete"), ("after", "delete")])
def test_killed_at_any_point_the_next_delete_completes_it(
    catalog: Catalog, provider: MemoryProvider, moment: tuple[str, str]
) -> None:
    create_tenant(catalog, provider.of, wish("Other"))
    tenant = create_tenant(catalog, provider.of, wish("ACME Corp")).tenant
    provider.kill_at = moment
    with pytest.raises(provider.Killed):
        delete_tenant(catalog, provider.of, "acme-corp", grace=AT_ONCE)
    assert find_tenant(catalog, "acme-corp").state == "deleting"
    with pytest.raises(Conflict, match="being deleted"):
        create_tenant(catalog, provider.of, wish("ACME Corp"))
    with pytest.raises(Conflict, match="being deleted"):
        tenant_url(catalog, provider.of, "acme-corp")

    assert delete_tenant(catalog, provider.of, "acme-corp", grace=AT_ONCE).tenant.id == tenant.id
    assert [t.slug for t in list_tenants(catalog)] == ["other"]
    assert len(provider.projects) == 1
    with pytest.raises(NotFound, match="there is no tenant acme-corp"):
        delete_tenant(catalog, provider.of, "acme-corp", grace=AT_ONCE)

    assert create_tenant(catalog, provider.of, wish("ACME Corp")).tenant.id != tenant.id


def test_a_tenant_that_never_got_a_project_can_be_deleted(catalog: Catalog, provider: MemoryProvider) -> None:
    provider.kill_at = ("after", "create")
    with pytest.raises(provider.Killed):
        create_tenant(catalog, provider.of, wish("ACME Corp"))
    delete_tenant(catalog, provider.of, "acme-corp", grace=AT_ONCE)
    assert provider.projects == {}


def test_a_deletion_is_shown_before_it_is_done(catalog: Catalog, provider: MemoryProvider) -> None:
    tenant = create_tenant(catalog, provider.of, wish("ACME Corp")).tenant
    stray = provider.born(project_name(tenant))
    provider.projects[stray.id] = stray
    planned = plan_deletion(catalog, provider.of, "ACME Corp")
    assert list(planned.projects) == [tenant.project_id, stray.id]
    assert find_tenant(catalog, "acme-corp").state == "ready"
    delete_tenant(catalog, provider.of, "ACME Corp", grace=AT_ONCE)
    assert provider.projects == {}


def test_a_pass_finishes_whatever_was_interrupted(catalog: Catalog, provider: MemoryProvider) -> None:
    create_tenant(catalog, provider.of, wish("Finance Co"))
    for moment, verb in (
        (("after", "create"), lambda: create_tenant(catalog, provider.of, wish("ACME Corp"))),
        (("after", "delete"), lambda: delete_tenant(catalog, provider.of, "finance-co", grace=AT_ONCE)),
    ):
        provider.kill_at = moment
        with pytest.raises(provider.Killed):
            verb()
    assert sorted(finish_unfinished(catalog, provider.of)) == [
        "acme-corp: its interrupted creation is complete",
        "finance-co: its interrupted deletion is complete",
    ]
    assert finish_unfinished(catalog, provider.of) == []
    assert [t.slug for t in list_tenants(catalog)] == ["acme-corp"]


def test_suspend_and_resume_are_safe_twice(catalog: Catalog, provider: MemoryProvider) -> None:
    create_tenant(catalog, provider.of, wish("ACME Corp"))
    for verb, state in ((resume_tenant, "active"), (suspend_tenant, "idle")):
        for _ in range(2):
            verb(catalog, provider.of, "ACME Corp")
            assert [endpoint.state for endpoint in show_tenant(catalog, provider.of, "acme-corp").endpoints] == [state]
    assert [call for call in provider.calls if call in ("start", "suspend")] == ["start", "suspend"]


def test_a_url_comes_from_the_provider_each_time(catalog: Catalog, provider: MemoryProvider) -> None:
    tenant = create_tenant(catalog, provider.of, wish("ACME Corp")).tenant
    assert tenant_url(catalog, provider.of, "acme-corp").startswith(
        f"postgresql://neondb_owner:secret@ep-{tenant.project_id}"
    )
    assert "-pooler." in tenant_url(catalog, provider.of, "acme-corp", pooled=True)
    with pytest.raises(NotFound, match="there is no tenant nobody"):
        tenant_url(catalog, provider.of, "nobody")


def test_listing_goes_on_over_pages(
    catalog: Catalog, provider: MemoryProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantry.fleet.tenants.list.PAGE", 2)
    for name in "edcba":
        create_tenant(catalog, provider.of, wish(name))
    provider.calls.clear()
    assert [t.slug for t in list_tenants(catalog)] == list("abcde")
    assert provider.calls == []
