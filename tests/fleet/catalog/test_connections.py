"""The pool of connections to the catalog: kept while they live, replaced once their server is gone."""

from __future__ import annotations

import psycopg

from tenantry.fleet.catalog.catalog import Catalog


def backend(catalog: Catalog) -> int:
    with catalog.transaction() as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def test_a_connection_is_kept_until_its_server_is_gone(catalog: Catalog) -> None:
    first = backend(catalog)
    assert backend(catalog) == first
    with psycopg.connect(catalog.url, autocommit=True) as other:
        # Waits until it is gone.
        assert other.execute("SELECT pg_terminate_backend(%s, 10000)", [first]).fetchone() == (True,)
    second = backend(catalog)
    assert second != first
    assert backend(catalog) == second
