"""What the catalog remembers of schemas: the last word of each, a bounded number, and only what is understood."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tenantry.fleet.catalog import queries, schemas
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.migrations.drift import Reference, ReferenceKey, Standing, TenantDrift
from tenantry.fleet.migrations.fingerprint import ALGORITHM, SchemaObject, schema_of
from tenantry.fleet.migrations.results import Failure
from tenantry.fleet.migrations.schema_memory import CatalogMemory
from tenantry.fleet.migrations.tenant import TenantSlug

KEY = ReferenceKey("sql", "0001", "f" * 64, 18, str(HOME_PROVIDER))
SCHEMA = schema_of([SchemaObject("table", "public.a", "create table public.a"), SchemaObject("view", "v", 'as "\\ü"')])


def ready(catalog: Catalog, slug: str) -> None:
    with catalog.transaction() as connection:
        tenant, _ = queries.intend_tenant(
            connection, slug=slug, name=slug, email=None, plan="launch", region=None, pg_version=18
        )
        queries.mark_ready(
            connection,
            tenant.id,
            project_id=f"p-{slug}",
            region="here",
            pg_version=18,
            database_name="d",
            role_name="r",
        )  # type: ignore[arg-type]


def drift(slug: str, standing: Standing, count: int = 0) -> TenantDrift:
    failure = Failure(kind="connect", message="gone") if standing == "failed" else None
    return TenantDrift(
        slug=TenantSlug(slug),
        standing=standing,
        version="0001",
        major=18,
        fingerprint=None if failure else "a" * 64,
        reference=Reference("b" * 64, "made") if standing == "drifted" else None,
        count=count,
        failure=failure,
    )


def test_a_reference_is_remembered_by_all_that_it_depends_on(catalog: Catalog) -> None:
    memory = CatalogMemory(catalog)
    assert memory.reference(KEY) is None
    memory.keep_reference(KEY, SCHEMA)
    assert memory.reference(KEY) == SCHEMA
    for other in [
        ReferenceKey("drizzle", "0001", "f" * 64, 18, str(HOME_PROVIDER)),
        ReferenceKey("sql", "0001", "e" * 64, 18, str(HOME_PROVIDER)),
        ReferenceKey("sql", "0001", "f" * 64, 17, str(HOME_PROVIDER)),
        ReferenceKey("sql", "0001", "f" * 64, 18, "00000000-0000-4000-8000-000000000002"),
    ]:
        assert memory.reference(other) is None
    smaller = schema_of(SCHEMA.objects[:1])
    memory.keep_reference(KEY, smaller)
    assert memory.reference(KEY) == smaller


def test_what_is_not_understood_is_made_anew(catalog: Catalog) -> None:
    memory = CatalogMemory(catalog)
    memory.keep_reference(KEY, SCHEMA)
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE schema_reference SET objects = '[1]'")
    assert memory.reference(KEY) is None
    memory.keep_reference(KEY, SCHEMA)
    with catalog.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE schema_reference SET algorithm = {ALGORITHM + 1}")
    assert memory.reference(KEY) is None


def test_references_are_bounded_and_the_oldest_go(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "REFERENCES_KEPT", 2)
    memory = CatalogMemory(catalog)
    keys = [ReferenceKey("sql", str(number), str(number) * 64, 18, str(HOME_PROVIDER)) for number in range(3)]
    for key in keys:
        memory.keep_reference(key, SCHEMA)
    assert [memory.reference(key) is not None for key in keys] == [False, True, True]


def test_the_last_look_counts(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemas, "SEEN_AT_A_TIME", 2)
    memory = CatalogMemory(catalog)
    for slug in ("a", "b", "c"):
        ready(catalog, slug)
    memory.saw([drift("a", "drifted", 3), drift("b", "same"), drift("c", "drifted", 1), drift("nobody", "same")])
    memory.saw([drift("c", "same"), drift("a", "failed")])
    memory.saw([])
    with catalog.transaction() as connection:
        found = schemas.sightings(connection, algorithm=ALGORITHM, limit=10)
        only = schemas.drifted(connection, algorithm=ALGORITHM, limit=10)
    assert [(each.slug, each.standing, each.differences) for each in found] == [
        ("a", "drifted", 3),
        ("b", "same", 0),
        ("c", "same", 0),
    ]
    assert [each.slug for each in only] == ["a"]
    assert only[0].expected == "b" * 64
    assert only[0].seen_at is not None


@pytest.fixture(autouse=True)
def clean(catalog: Catalog) -> Callable[[], None] | None:
    with catalog.transaction() as connection:
        connection.exec_driver_sql("TRUNCATE schema_reference")
    return None
