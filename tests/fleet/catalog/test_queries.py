from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenantry.errors import Locked, Unavailable
from tenantry.fleet.catalog import catalog as connecting
from tenantry.fleet.catalog import queries, runs
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant
from tenantry.neon.ids import ProjectId


def intend(catalog: Catalog, slug: str = "acme-corp", **fields: object) -> Tenant:
    wish = {"name": slug.upper(), "email": None, "plan": "launch", "region": None, "pg_version": None} | fields
    with catalog.transaction() as connection:
        tenant, _ = queries.intend_tenant(connection, slug=slug, **wish)  # pyright: ignore[reportArgumentType]
    return tenant


def make_ready(catalog: Catalog, slug: str = "acme-corp", project: str = "cool-sun-1") -> Tenant:
    tenant = intend(catalog, slug)
    with catalog.transaction() as connection:
        return queries.mark_ready(
            connection,
            tenant.id,
            project_id=ProjectId(project),
            region="local",
            pg_version=18,
            database_name="neondb",
            role_name="neondb_owner",
        )


def test_who_writes_an_intent_is_told_so(catalog: Catalog) -> None:
    with catalog.transaction() as connection:
        told = [
            queries.intend_tenant(
                connection, slug="acme", name="ACME", email=None, plan="launch", region=None, pg_version=None
            )[1]
            for _ in range(2)
        ]
    assert told == [True, False]


def test_an_intent_is_written_once(catalog: Catalog) -> None:
    first = intend(catalog, region="eu")
    assert (first.state, first.region, first.project_id) == ("creating", "eu", None)
    assert intend(catalog, region="us") == first


def test_writers_of_one_name_at_once_get_one_tenant(catalog: Catalog) -> None:
    gate = threading.Barrier(4)

    def write(_: int) -> Tenant:
        gate.wait(10)
        return intend(catalog)

    with ThreadPoolExecutor(4) as pool:
        assert len({tenant.id for tenant in pool.map(write, range(4))}) == 1


def test_a_tenants_states_in_order(catalog: Catalog) -> None:
    ready = make_ready(catalog)
    assert (ready.state, ready.project_id, ready.database_name) == ("ready", "cool-sun-1", "neondb")
    with catalog.transaction() as connection:
        assert queries.mark_deleting(connection, ready.id).state == "deleting"
    with catalog.transaction() as connection:
        again = queries.mark_deleting(connection, ready.id)
        assert [tenant.id for tenant in queries.unfinished_tenants(connection, limit=10)] == [ready.id]
        queries.mark_deleted(connection, ready.id)
    assert again.state == "deleting"
    with catalog.transaction() as connection:
        assert queries.tenant_by_slug(connection, "acme-corp") is None
        assert queries.tenants_page(connection, limit=10) == []
        assert queries.unfinished_tenants(connection, limit=10) == []

    # The slug is free again, for a customer of its own.
    assert intend(catalog).customer_id != ready.customer_id


def test_pages_are_in_the_order_of_slugs_and_end(catalog: Catalog) -> None:
    for slug in ("c", "a", "b"):
        intend(catalog, slug)
    make_ready(catalog, "d")
    with catalog.transaction() as connection:
        first = queries.tenants_page(connection, limit=2)
        second = queries.tenants_page(connection, after=first[-1].slug, limit=2)
        assert [tenant.slug for tenant in first + second] == ["a", "b", "c", "d"]
        assert queries.tenants_page(connection, after="d", limit=2) == []
        assert [t.slug for t in queries.tenants_page(connection, limit=9, states=["ready"])] == ["d"]


def test_a_held_tenant_makes_others_wait_and_then_say_so(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = intend(catalog)
    with catalog.transaction() as connection:
        queries.hold_tenant(connection, tenant.id)
        monkeypatch.setattr(connecting, "LOCK_SECONDS_MAX", 0.05)
        with pytest.raises(Locked, match="busy with this tenant"), catalog.transaction() as other:
            queries.hold_tenant(other, tenant.id)
        with catalog.transaction() as reader:
            assert queries.tenant_by_slug(reader, "acme-corp") == tenant


def test_the_schema_of_a_tenant_is_remembered_with_the_time_it_was_seen(catalog: Catalog) -> None:
    assert make_ready(catalog).schema_seen_at is None
    with catalog.transaction() as connection:
        assert queries.record_schema(connection, "acme-corp", version=None, format="drizzle", fingerprint="f0")
        assert not queries.record_schema(connection, "nobody", version="1", format="sql", fingerprint="f")
    with catalog.transaction() as connection:
        empty = queries.tenant_by_slug(connection, "acme-corp")
        assert empty is not None
        assert (empty.schema_version, empty.schema_seen_at is None) == (None, False)
        queries.record_schema(connection, "acme-corp", version="0001_a", format="drizzle", fingerprint="f1")
    with catalog.transaction() as connection:
        seen = queries.tenant_by_slug(connection, "acme-corp")
        assert seen is not None
        assert (seen.schema_version, seen.schema_format, seen.schema_fingerprint) == ("0001_a", "drizzle", "f1")


def test_runs_of_migrations_are_remembered_but_for_the_oldest_that_have_ended(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "RUNS_KEPT", 2)
    for number in range(5):
        with catalog.transaction() as connection:
            runs.add_folder(connection, f"digest-{number}", b"x")
            runs.add_run(
                connection, run_id=f"run-{number}", format="sql", directory="m", target="2", fingerprint="f",
                folder_digest=f"digest-{number}", state="running", created_by="me", plan={}, waves=["rest"],
            )  # fmt: skip
        if number != 1:
            with catalog.transaction() as connection:
                assert runs.set_state(connection, f"run-{number}", "finished", only_from=["running"])
    with catalog.transaction() as connection:
        assert [run.id for run in runs.runs_page(connection, limit=9)] == ["run-4", "run-3", "run-1"]
        latest = runs.latest_run(connection)
        assert latest is not None
        assert (latest.id, latest.state, latest.counts) == ("run-4", "finished", {})
        assert [run.id for run in runs.open_runs(connection)] == ["run-1"]
        kept = connection.exec_driver_sql("SELECT array_agg(digest ORDER BY digest) FROM migration_folder").scalar_one()
        assert kept == ["digest-1", "digest-3", "digest-4"]
        assert connection.exec_driver_sql("SELECT count(*) FROM migration_wave").scalar_one() == 3


def test_whoever_stands_still_in_a_transaction_loses_what_it_holds(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = make_ready(catalog)
    monkeypatch.setattr(connecting, "IDLE_SECONDS_MAX", 0.05)
    with pytest.raises(Unavailable, match="idle-in-transaction"), catalog.transaction() as connection:
        queries.hold_tenant(connection, tenant.id)
        with catalog.transaction() as other:  # waits for the lock, which comes free by itself
            assert queries.hold_tenant(other, tenant.id) == tenant
        queries.hold_tenant(connection, tenant.id)
