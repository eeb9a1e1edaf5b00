"""Customers: how long the fleet's own questions take when its catalog has as many as the largest fleets have.

A second catalog, in a database of its own beside the real one, behind the same front door. Its rows have no projects,
but for the one tenant that is shown.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
from installation import Installation
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from report import Row, milliseconds, percentile, skipped

from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.upgrade import upgrade_catalog
from tenantry.fleet.main import Fleet
from tenantry.fleet.providers.neon_account import NeonAccount
from tenantry.fleet.settings import Prices
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.usage.report import period_of
from tenantry.testing.large_catalog import TENANTS_USED, fill, slug_of, tenant_id

_CUSTOMERS = 300_000
_DATABASE = "bench_customers"
_SHOWN = 1 + TENANTS_USED
"""The number of a tenant that has usage, and gets a project."""
_GOAL = 0.100
_SAMPLES = 60


def measure(installation: Installation, *, quick: bool) -> Iterator[Row]:
    what = f"{_CUSTOMERS:,} customers in the catalog"
    if quick:
        yield skipped(what, "--quick")
        return
    with fleet_of_its_own(installation) as fleet:
        began = time.perf_counter()
        fill(fleet.catalog.url, _CUSTOMERS)
        filled = time.perf_counter() - began
        with fleet.catalog.transaction() as connection:
            connection.exec_driver_sql(
                "UPDATE project SET provider_project_id = %s WHERE id = %s",
                (installation.create().project_id, tenant_id(_SHOWN)),
            )
        chosen = random.Random(7)
        slugs = [slug_of(chosen.randrange(_CUSTOMERS), _CUSTOMERS) for _ in range(_SAMPLES)]
        shown = slug_of(_SHOWN, _CUSTOMERS)
        month = period_of(None, None, datetime.now(UTC).date())

        def usage(_: str) -> object:
            return fleet.usage.report(month, Prices(), by="day", tenant=find_tenant(fleet.catalog, shown))

        yield _row(
            what, "a page of the list (100)", slugs, lambda slug: list(fleet.list(after=slug, limit=100)), filled
        )
        yield _row(what, "show one, its endpoints asked of its cell", slugs, lambda _: fleet.show(shown), filled)
        yield _row(what, "usage of one this month", slugs, usage, filled)


def _row(what: str, part: str, slugs: list[str], ask: Callable[[str], object], filled: float) -> Row:
    ask(slugs[0])  # the first one connects
    seconds: list[float] = []
    for slug in slugs:
        began = time.perf_counter()
        ask(slug)
        seconds.append(time.perf_counter() - began)
    return Row(
        what=f"{what}: {part}: p50 / p95",
        ours=milliseconds(seconds),
        goal="p95 < 100 ms",
        met=percentile(seconds, 95) < _GOAL,
        note="through the front door, without the start of Python",
        numbers={"customers": _CUSTOMERS, "seconds": seconds, "filled_seconds": filled},
    )


@contextmanager
def fleet_of_its_own(installation: Installation) -> Generator[Fleet]:
    """Over a catalog of its own, that goes afterwards."""
    installation.restart(spares=0)
    target = installation.target
    assert target.catalog_url is not None
    with psycopg.connect(target.catalog_url, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {_DATABASE}".encode())
        fields = {name: value for name, value in conninfo_to_dict(target.catalog_url).items() if value is not None}
        catalog = Catalog(make_conninfo("", **(fields | {"dbname": _DATABASE})))
        try:
            upgrade_catalog(catalog)
            with Fleet(catalog, NeonAccount.at(target.api_url, target.api_key)) as fleet:
                yield fleet
        finally:
            catalog.close()
            db.execute(f"DROP DATABASE {_DATABASE} WITH (FORCE)".encode())
