from __future__ import annotations

import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
import psycopg.conninfo
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from tenantry.errors import OperatorError, Unavailable
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.current import REVISION, VERSION_TABLE, is_current
from tenantry.fleet.catalog.models import Base
from tenantry.fleet.catalog.upgrade import is_ours, upgrade_catalog


def _dump(pg_dump: Path, url: str) -> list[str]:
    """The schema as pg_dump writes it, without what differs from run to run."""
    dumped = subprocess.run(
        [pg_dump, "--schema-only", f"--exclude-table={VERSION_TABLE}", "--exclude-schema=procrastinate", url],
        check=True,
        capture_output=True,
        text=True,
    )
    return [
        line
        for line in dumped.stdout.splitlines()
        if line and not line.startswith((r"\restrict", r"\unrestrict", "--"))
    ]


def test_alembic_finds_nothing_to_do_between_the_revisions_and_the_models(catalog: Catalog) -> None:
    with catalog.transaction() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "include_name": is_ours,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_catalog_equals_a_fresh_one_to_the_letter(new_database: Callable[[], str], pg_dump: Path) -> None:
    """Alembic compares no checks and no index predicates; pg_dump does."""
    migrated, fresh = new_database(), new_database()
    catalog = Catalog(migrated)
    upgrade_catalog(catalog)
    catalog.close()

    catalog = Catalog(fresh)
    with catalog.transaction() as connection:
        connection.exec_driver_sql("CREATE EXTENSION citext")
        Base.metadata.create_all(connection)
    catalog.close()

    assert _dump(pg_dump, migrated) == _dump(pg_dump, fresh)


def test_upgrading_is_safe_twice_and_leaves_the_operators_tables_alone(new_database: Callable[[], str]) -> None:
    url = new_database()
    catalog = Catalog(url)
    with catalog.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num text)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
    assert upgrade_catalog(catalog) == (None, REVISION)
    with catalog.transaction() as connection:
        connection.exec_driver_sql("CREATE TABLE salesman (customer_id uuid REFERENCES customer)")
    assert upgrade_catalog(catalog) == (REVISION, REVISION)
    with catalog.transaction() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one() == "theirs"
        assert connection.exec_driver_sql("SELECT count(*) FROM salesman").scalar_one() == 0
    catalog.close()


def test_what_is_current_is_seen_without_alembic(new_database: Callable[[], str]) -> None:
    url = new_database()
    assert not is_current(url)
    catalog = Catalog(url)
    assert upgrade_catalog(catalog)[1] == REVISION
    assert is_current(url)
    with catalog.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    assert not is_current(url)
    catalog.close()


def test_a_catalog_of_a_newer_release_is_refused(new_database: Callable[[], str]) -> None:
    catalog = Catalog(new_database())
    upgrade_catalog(catalog)
    with catalog.transaction() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(OperatorError, match="newer Tenantry"):
        upgrade_catalog(catalog)
    catalog.close()


def test_the_plans_of_the_guide_are_data(catalog: Catalog) -> None:
    with catalog.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT name, projects_max, price_usd_monthly::int FROM plan ORDER BY projects_max"
        ).all()
    assert [tuple(row) for row in rows] == [("Launch", 100, 19), ("Scale", 1000, 69), ("Business", 5000, 700)]


def test_the_plans_have_limits_unless_an_operator_has_set_some(new_database: Callable[[], str]) -> None:
    catalog = Catalog(new_database())
    upgrade_catalog(catalog, "0003")
    with catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE plan SET quota_written_bytes = 7 WHERE slug = 'scale'")
    upgrade_catalog(catalog)
    with catalog.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT slug, cu_max, history_seconds, quota_written_bytes FROM plan ORDER BY projects_max"
        ).all()
    assert [tuple(row) for row in rows] == [
        ("launch", Decimal("0.25"), 86_400, None),
        ("scale", None, None, 7),
        ("business", 4, 1_209_600, None),
    ]
    catalog.close()


def test_every_foreign_key_has_an_index(catalog: Catalog) -> None:
    with catalog.transaction() as connection:
        bare = connection.exec_driver_sql(
            """
            SELECT conrelid::regclass::text, conname FROM pg_constraint
            WHERE contype = 'f' AND connamespace = 'public'::regnamespace AND NOT EXISTS (
                SELECT FROM pg_index WHERE indrelid = conrelid AND indpred IS NULL
                AND (indkey::smallint[])[0:cardinality(conkey) - 1] = conkey
            )
            """
        ).all()
    assert bare == []


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO customer (slug, name, plan_slug) VALUES ('Not-A-Slug', 'x', 'launch')",
        "INSERT INTO customer (slug, name, plan_slug) VALUES ('x', ' ', 'launch')",
        "INSERT INTO customer (slug, name, plan_slug, email) VALUES ('x', 'x', 'launch', 'nobody')",
        "INSERT INTO customer (slug, name, plan_slug) VALUES ('x', 'x', 'no such plan')",
        "INSERT INTO project (customer_id, region, pg_version, state) SELECT id, 'r', 18, 'ready' FROM customer",
        "INSERT INTO project (customer_id, region, pg_version, state) SELECT id, 'r', 18, 'asleep' FROM customer",
        "INSERT INTO project (customer_id, region, pg_version) SELECT id, 'r', 18 FROM customer, generate_series(1, 2)",
        "INSERT INTO payment (customer_id, amount, currency, paid_at) SELECT id, 1, 'usd', now() FROM customer",
        "INSERT INTO payment (customer_id, amount, currency, paid_at) SELECT id, 0, 'USD', now() FROM customer",
    ],
)
def test_the_database_itself_refuses_what_makes_no_sense(catalog: Catalog, statement: str) -> None:
    with catalog.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO customer (slug, name, plan_slug) VALUES ('acme', 'ACME', 'launch')")
    with pytest.raises(Exception, match="the catalog refuses this"), catalog.transaction() as connection:
        connection.exec_driver_sql(statement)


def test_a_catalog_out_of_reach_is_reported_without_its_password(catalog_url: str) -> None:
    url = catalog_url
    password = psycopg.conninfo.conninfo_to_dict(url)["password"]
    catalog = Catalog(url.replace("?host=", "?host=/nowhere"))
    with pytest.raises(Unavailable, match="the catalog does not answer") as raised, catalog.transaction():
        pass
    assert str(password) not in str(raised.value)
    assert str(password) not in repr(raised.value.__cause__)


def test_the_release_before_runs_on_this_catalog(catalog: Catalog) -> None:
    """Its statements name none of what 0002 added: they still work, and mean the home provider."""
    with catalog.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO customer (slug, name, plan_slug) VALUES ('acme', 'ACME', 'launch')")
        connection.exec_driver_sql(
            "INSERT INTO project (customer_id, region) SELECT id, 'local' FROM customer WHERE slug = 'acme'"
        )
        connection.exec_driver_sql(
            "UPDATE project SET provider_project_id = 'p-1', pg_version = 18, database_name = 'd', role_name = 'r',"
            " state = 'ready', ready_at = now()"
        )
        assert connection.exec_driver_sql(
            "SELECT provider.name, subscription.plan_slug FROM project JOIN provider ON provider.id = provider_id"
            " JOIN subscription USING (customer_id)"
        ).one() == ("home", "launch")


def test_customers_of_a_catalog_of_the_release_before_are_kept(new_database: Callable[[], str]) -> None:
    catalog = Catalog(new_database())
    upgrade_catalog(catalog, "0001")
    with catalog.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO customer (slug, name, plan_slug) VALUES ('acme', 'ACME', 'scale')")
        connection.exec_driver_sql("INSERT INTO project (customer_id) SELECT id FROM customer")
    assert upgrade_catalog(catalog) == ("0001", REVISION)
    with catalog.transaction() as connection:
        assert connection.exec_driver_sql(
            "SELECT slug, provider.name, subscription.plan_slug FROM project JOIN provider ON provider.id = provider_id"
            " JOIN customer ON customer.id = customer_id JOIN subscription ON subscription.customer_id = customer.id"
        ).one() == ("acme", "home", "scale")
    catalog.close()


def test_a_subscription_begins_and_ends_with_each_change_of_plan(catalog: Catalog) -> None:
    with catalog.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO customer (slug, name, plan_slug) VALUES ('acme', 'ACME', 'launch')")
    for change in ("plan_slug = 'scale'", "name = 'Acme'", "plan_slug = 'scale'", "deleted_at = now()"):
        with catalog.transaction() as connection:
            connection.exec_driver_sql(f"UPDATE customer SET {change}")
    with catalog.transaction() as connection:
        rows = connection.exec_driver_sql(
            "SELECT plan_slug, ended_at IS NOT NULL FROM subscription ORDER BY started_at"
        ).all()
    assert [tuple(row) for row in rows] == [("launch", True), ("scale", True)]


def test_the_queue_of_jobs_lies_in_a_schema_of_its_own(catalog: Catalog) -> None:
    with catalog.transaction() as connection:
        schemas = connection.exec_driver_sql(
            "SELECT DISTINCT relnamespace::regnamespace::text FROM pg_class WHERE relname LIKE 'procrastinate%%'"
        ).scalars()
        assert list(schemas) == ["procrastinate"]
