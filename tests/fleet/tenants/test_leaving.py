"""Deleting with a grace, calling it off, and what is purged in the end; killed at every step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tenantry.errors import Conflict, NotFound, Unavailable
from tenantry.fleet.catalog import contacts, events, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import DeletionRecord, Tenant
from tenantry.fleet.tenants import purge
from tenantry.fleet.tenants.create import create_tenant, wish
from tenantry.fleet.tenants.delete import AT_ONCE, GRACE, delete_tenant, plan_deletion
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.tenants.list import list_tenants
from tenantry.fleet.tenants.show import show_tenant
from tenantry.fleet.tenants.undelete import undelete_tenant
from tenantry.fleet.tenants.url import tenant_url

if TYPE_CHECKING:
    from conftest import MemoryProvider


@pytest.fixture
def acme(catalog: Catalog, provider: MemoryProvider) -> Tenant:
    return create_tenant(catalog, provider.of, wish("ACME Corp", email="ops@acme.example")).tenant


def deletions(catalog: Catalog) -> list[DeletionRecord]:
    with catalog.transaction() as connection:
        return queries.deletions_page(connection, limit=10)


def verbs(catalog: Catalog) -> list[str]:
    with catalog.transaction() as connection:
        return [event.verb for event in reversed(events.events_page(connection, limit=100))]


def let_time_pass(catalog: Catalog) -> None:
    """Every grace has ended."""
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE project SET purge_at = now() - interval '1 second' WHERE state = 'leaving'")


def test_a_deleted_tenant_leaves_and_can_be_brought_back(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant
) -> None:
    assert acme.project_id is not None
    planned = plan_deletion(catalog, provider.of, "acme-corp", now=datetime(2026, 1, 1, tzinfo=UTC))
    assert planned.purge_at == datetime(2026, 1, 8, tzinfo=UTC)
    deleted = delete_tenant(catalog, provider.of, "acme-corp")
    assert (deleted.gone, deleted.note, deleted.tenant.state) == (False, None, "leaving")
    assert deleted.tenant.purge_at is not None
    assert deleted.tenant.leaving_at is not None
    assert deleted.tenant.purge_at - deleted.tenant.leaving_at == GRACE
    assert provider.shut == {acme.project_id}
    assert [tenant.state for tenant in list_tenants(catalog)] == ["leaving"]
    with pytest.raises(Conflict, match=r"is purged on .*tenantry undelete acme-corp"):
        tenant_url(catalog, provider.of, "acme-corp")
    with pytest.raises(Conflict, match="its name is kept until"):
        create_tenant(catalog, provider.of, wish("ACME Corp"))

    back = undelete_tenant(catalog, provider.of, "acme-corp")
    assert back.new
    assert (back.tenant.state, back.tenant.project_id, back.tenant.purge_at) == ("ready", acme.project_id, None)
    assert provider.shut == set()
    assert tenant_url(catalog, provider.of, "acme-corp")
    assert not undelete_tenant(catalog, provider.of, "acme-corp").new
    assert verbs(catalog) == ["create", "delete", "undelete"]


def test_asked_again_the_grace_stays_unless_another_one_is_said(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant
) -> None:
    first = delete_tenant(catalog, provider.of, acme.slug, grace=timedelta(days=30)).tenant
    assert delete_tenant(catalog, provider.of, acme.slug).tenant == find_tenant(catalog, acme.slug)
    assert find_tenant(catalog, acme.slug).purge_at == first.purge_at
    sooner = delete_tenant(catalog, provider.of, acme.slug, grace=timedelta(hours=1)).tenant
    assert sooner.purge_at is not None
    assert first.purge_at is not None
    assert sooner.purge_at < first.purge_at
    assert delete_tenant(catalog, provider.of, acme.slug, grace=AT_ONCE).gone
    assert provider.projects == {}


def test_a_purge_waits_for_the_end_of_the_grace_and_leaves_a_record(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANTRY_ACTOR", "ada")
    with catalog.transaction() as connection:
        contacts.put_contact(connection, acme.customer_id, kind="owner", email="ceo@acme.example", name=None)
    delete_tenant(catalog, provider.of, acme.slug)
    assert purge.pass_(catalog, provider.of) == []
    assert len(provider.projects) == 1
    let_time_pass(catalog)
    monkeypatch.setenv("TENANTRY_ACTOR", "the worker")
    assert purge.pass_(catalog, provider.of) == ["acme-corp: its grace has ended, and it is purged"]
    assert purge.pass_(catalog, provider.of) == []
    assert provider.projects == {}
    assert provider.gone_for_good == {acme.project_id}
    (record,) = deletions(catalog)
    assert (record.slug, record.name, list(record.projects)) == ("acme-corp", "ACME Corp", [acme.project_id])
    assert record.requested_by == "ada"
    assert record.requested_at < record.purged_at
    with pytest.raises(NotFound):
        undelete_tenant(catalog, provider.of, acme.slug)
    with catalog.transaction() as connection:
        assert contacts.count_contacts(connection, acme.customer_id) == 0
        assert connection.exec_driver_sql("SELECT email FROM customer").scalar_one() is None
        told = events.events_page(connection, customers=events.customers_called(connection, "acme-corp"), limit=10)
    assert [(event.verb, event.actor) for event in told][:2] == [("purge", "the worker"), ("delete", "ada")]
    assert create_tenant(catalog, provider.of, wish("ACME Corp")).new


def test_a_provider_that_is_away_does_not_hold_up_a_deletion(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("the provider is away")

    with monkeypatch.context() as patched:
        patched.setattr(provider, "refuse_connections", away)
        deleted = delete_tenant(catalog, provider.of, acme.slug)
        assert deleted.note == "its clients are not turned away yet: the provider is away"
        assert purge.pass_(catalog, provider.of) == [
            "acme-corp: its clients could not be turned away: the provider is away"
        ]
    assert purge.pass_(catalog, provider.of) == ["acme-corp: its clients are turned away"]
    assert provider.shut == {acme.project_id}
    assert purge.pass_(catalog, provider.of) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_while_clients_are_turned_away_or_let_in_a_pass_completes_it(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant, moment: str
) -> None:
    provider.kill_at = (moment, "door")
    with pytest.raises(provider.Killed):
        delete_tenant(catalog, provider.of, acme.slug)
    assert find_tenant(catalog, acme.slug).state == "leaving"
    assert purge.pass_(catalog, provider.of) == ["acme-corp: its clients are turned away"]
    assert provider.shut == {acme.project_id}

    provider.kill_at = (moment, "door")
    with pytest.raises(provider.Killed):
        undelete_tenant(catalog, provider.of, acme.slug)
    assert find_tenant(catalog, acme.slug).state == "ready"
    assert purge.pass_(catalog, provider.of) == ["acme-corp: its clients are let in again"]
    assert provider.shut == set()
    assert purge.pass_(catalog, provider.of) == []


@pytest.mark.parametrize("moment", [("before", "find"), ("before", "delete"), ("after", "delete")])
def test_killed_while_it_purges_the_next_deletion_completes_it(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant, moment: tuple[str, str]
) -> None:
    delete_tenant(catalog, provider.of, acme.slug)
    let_time_pass(catalog)
    provider.kill_at = moment
    with pytest.raises(provider.Killed):
        purge.pass_(catalog, provider.of)
    assert find_tenant(catalog, acme.slug).state == "deleting"
    with pytest.raises(Conflict, match="nothing to bring back"):
        undelete_tenant(catalog, provider.of, acme.slug)
    assert delete_tenant(catalog, provider.of, acme.slug).gone
    assert provider.projects == {}
    assert len(deletions(catalog)) == 1


def test_called_back_in_the_last_moment_it_is_not_purged(
    catalog: Catalog, provider: MemoryProvider, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_tenant(catalog, provider.of, acme.slug)
    let_time_pass(catalog)
    overdue = queries.overdue_tenants

    def seen_and_called_back(*arguments: object, **named: object) -> list[Tenant]:
        found = overdue(*arguments, **named)  # pyright: ignore[reportArgumentType]
        undelete_tenant(catalog, provider.of, acme.slug)
        return found

    monkeypatch.setattr(queries, "overdue_tenants", seen_and_called_back)
    assert purge.pass_(catalog, provider.of) == []
    assert find_tenant(catalog, acme.slug).state == "ready"
    assert len(provider.projects) == 1


def test_a_tenant_that_never_was_ready_goes_at_once(catalog: Catalog, provider: MemoryProvider) -> None:
    provider.kill_at = ("after", "create")
    with pytest.raises(provider.Killed):
        create_tenant(catalog, provider.of, wish("ACME Corp"))
    assert delete_tenant(catalog, provider.of, "acme-corp").gone
    assert provider.projects == {}


def test_a_leaving_tenant_is_shown(catalog: Catalog, provider: MemoryProvider, acme: Tenant) -> None:
    delete_tenant(catalog, provider.of, acme.slug)
    assert show_tenant(catalog, provider.of, acme.slug).tenant.state == "leaving"
