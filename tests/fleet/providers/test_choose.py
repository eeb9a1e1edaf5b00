"""Placement against a real catalog: what two who place at once write, and what a removal meets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenantry.errors import InvalidInput, LimitReached, TenantryError
from tenantry.fleet.catalog import providers, queries
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import ProviderId
from tenantry.fleet.providers.choose import choose_place


def add(catalog: Catalog, name: str, *regions: str, projects_max: int | None = None) -> ProviderId:
    with catalog.transaction() as connection:
        record, new = providers.add_provider(
            connection, name=name, kind="cell", api_url="http://x/api/v2", api_ca=None, secret_from="env:X"
        )
        assert new
        for region in regions:
            providers.serve_region(
                connection,
                record.id,
                region,
                provider_region=None,
                projects_max=projects_max,
                unlimited=False,
                accepts_new=None,
            )
    return record.id


def create(catalog: Catalog, name: str, region: str | None = None, residency: str | None = None) -> ProviderId:
    with catalog.transaction() as connection:
        place = choose_place(connection, region=region, residency=residency)
        tenant, _ = queries.intend_tenant(
            connection,
            slug=name,
            name=name,
            email=None,
            plan="launch",
            region=place.region,
            pg_version=None,
            provider_id=place.provider_id,
            residency=residency,
        )
    assert tenant.residency == residency
    return tenant.provider_id


def test_without_regions_everything_goes_home_as_it_always_did(catalog: Catalog) -> None:
    add(catalog, "other")
    assert create(catalog, "a") == HOME_PROVIDER
    assert create(catalog, "b", region="anything") == HOME_PROVIDER
    with pytest.raises(InvalidInput, match="there is no residency 'eu'; define it"):
        create(catalog, "c", residency="eu")


def test_when_the_last_that_served_a_region_is_gone_home_takes_tenants_again(catalog: Catalog) -> None:
    other = add(catalog, "other", "eu-central-1")
    with catalog.transaction() as connection:
        providers.remove_provider(connection, other)
    assert create(catalog, "b") == HOME_PROVIDER
    with pytest.raises(InvalidInput):
        create(catalog, "c", region="eu-central-1")


def test_a_capacity_holds_also_when_many_are_placed_at_once(catalog: Catalog) -> None:
    one, two = add(catalog, "one", "eu-1", projects_max=3), add(catalog, "two", "eu-1", projects_max=2)
    gate = threading.Barrier(4)

    def try_one(number: int) -> ProviderId | TenantryError:
        if number < 4:
            gate.wait(30)
        try:
            return create(catalog, f"t-{number}", region="eu-1")
        except TenantryError as error:
            return error

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(try_one, range(8)))
    assert (outcomes.count(one), outcomes.count(two)) == (3, 2)
    refusals = [each for each in outcomes if isinstance(each, LimitReached)]
    assert len(refusals) == 3
    assert "one has 3 of 3, two has 2 of 2" in str(refusals[0])


def test_a_deleted_tenant_makes_room(catalog: Catalog) -> None:
    add(catalog, "one", "eu-1", projects_max=1)
    create(catalog, "a", region="eu-1")
    with pytest.raises(LimitReached):
        create(catalog, "b", region="eu-1")
    with catalog.transaction() as connection:
        tenant = queries.tenant_by_slug(connection, "a")
        assert tenant is not None
        queries.mark_deleting(connection, tenant.id)
        queries.mark_deleted(connection, tenant.id)
    create(catalog, "b", region="eu-1")


def test_residency_is_kept(catalog: Catalog) -> None:
    add(catalog, "us", "us-1")
    eu = add(catalog, "eu", "eu-1", "eu-2", projects_max=1)
    with catalog.transaction() as connection:
        providers.put_residency(connection, "eu", ["eu-*"])
    assert create(catalog, "a", residency="eu") == eu
    with pytest.raises(InvalidInput, match="residency eu keeps data in eu-"):
        create(catalog, "b", region="us-1", residency="eu")
    assert create(catalog, "c", residency="eu") == eu
    with pytest.raises(LimitReached, match="every region of residency eu is full"):
        create(catalog, "d", residency="eu")


def test_nothing_is_placed_at_a_provider_that_is_being_removed(catalog: Catalog) -> None:
    leaving, staying = add(catalog, "leaving", "eu-1"), add(catalog, "staying", "eu-1")
    removing, placed = threading.Event(), threading.Event()

    def remove() -> None:
        with catalog.transaction() as connection:
            providers.hold_provider(connection, leaving)
            removing.set()
            # The other has begun and waits for us; that it has not got through is seen when it is placed elsewhere.
            placed.wait(0.3)
            assert providers.holdings(connection, leaving)[0] in (0, 1)
            providers.remove_provider(connection, leaving)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(remove)
        assert removing.wait(30)
        chosen = {create(catalog, f"t-{number}", region="eu-1") for number in range(3)}
        placed.set()
        done.result(30)
    assert chosen == {staying}
