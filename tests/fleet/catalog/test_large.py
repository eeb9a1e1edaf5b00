"""With hundreds of thousands of customers every question that is asked often is answered by an index."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, event

from tenantry.fleet.catalog import events, health, jobs, providers, queries, usage
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.models import HOME_PROVIDER
from tenantry.fleet.catalog.records import CustomerId, ProviderId, TenantId
from tenantry.fleet.catalog.upgrade import upgrade_catalog
from tenantry.neon.ids import ProjectId
from tenantry.testing.large_catalog import TENANTS_USED, customer_id, fill, slug_of, tenant_id

HOME = ProviderId(HOME_PROVIDER)
LARGE = ("customer", "project", "usage_day", "event", "deletion", "job_item")
USED = 1 + TENANTS_USED
"""The number of a tenant that has usage."""

Question = Callable[[Connection], Any]


def questions(customers: int) -> dict[str, Question]:
    today = datetime.now(UTC).date()
    month = today - timedelta(days=29)
    slug, tenant, customer = slug_of(USED, customers), TenantId(tenant_id(USED)), CustomerId(customer_id(USED))
    page = "customer-4"
    return {
        "tenant by slug": lambda db: queries.tenant_by_slug(db, slug),
        "a page of the list": lambda db: queries.tenants_page(db, after=page, limit=100),
        "the list by state": lambda db: queries.tenants_page(db, limit=100, states=["ready"]),
        "the list by a rare state": lambda db: queries.tenants_page(db, limit=100, states=["creating"]),
        "the list by plan": lambda db: queries.tenants_page(db, limit=100, plan="scale"),
        "the list by a rare plan": lambda db: queries.tenants_page(db, limit=100, plan="rare"),
        "the list by region": lambda db: queries.tenants_page(db, limit=100, region="eu-1"),
        "the list by a rare region": lambda db: queries.tenants_page(db, limit=100, region="sa-1"),
        "the list by all of them": lambda db: queries.tenants_page(
            db, after=page, limit=100, plan="scale", region="us-1", states=["ready"]
        ),
        "tenants of projects": lambda db: queries.tenants_of_projects(
            db, HOME, [ProjectId(f"cool-sun-{number}") for number in range(1, 101)]
        ),
        "unfinished": lambda db: queries.unfinished_tenants(db, limit=1_000),
        "purge due": lambda db: queries.overdue_tenants(db, limit=1_000),
        "doors": lambda db: queries.doors_to_move(db, limit=1_000),
        "how full a region is": lambda db: providers.tenants_in(db, HOME, "ap-1"),
        "usage of a tenant": lambda db: usage.usage_of_days(db, month, today, tenant=tenant),
        "usage of a month": lambda db: usage.usage_of_days(db, month, today),
        "usage of a month by tenant": lambda db: usage.usage_of_tenants(db, month, today, limit=50),
        "events": lambda db: events.events_page(db, limit=50),
        "events of a tenant": lambda db: events.events_page(db, customers=[customer], limit=50),
        "events of a verb": lambda db: events.events_page(db, verb="rename", limit=50),
        "events since": lambda db: events.events_page(db, since=datetime.now(UTC) - timedelta(hours=1), limit=50),
        "who was called so": lambda db: events.customers_called(db, slug),
        "deletions": lambda db: queries.deletions_page(db, limit=50),
        "jobs": lambda db: jobs.jobs_page(db, limit=50, kinds_left_out=["finish_unfinished"]),
        "last runs": lambda db: jobs.last_of_kinds(db, ["finish_unfinished", "create"]),
        "a page of a provider's projects": lambda db: health.known_projects(db, HOME, after=None, limit=1_000),
        "unfinished, for the doctor": lambda db: health.unfinished(db, late_seconds=60),
        "leaving, for the doctor": lambda db: health.leaving(db, late_seconds=60),
    }


def read_whole(connection: Connection, question: Question) -> list[str]:
    """The lines of the plans of a question's statements that read a large table from its beginning to its end."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    question(connection)
    event.remove(connection, "before_cursor_execute", note)
    assert asked
    return [
        line.strip()
        for statement, parameters in asked
        for line in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
        if "Seq Scan" in line and line.partition(" on ")[2].split(" ")[0] in LARGE
    ]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("customers", [100_000, pytest.param(300_000, marks=pytest.mark.slow)])
def test_no_question_reads_a_large_table_whole(new_database: Callable[[], str], customers: int) -> None:
    catalog = Catalog(new_database())
    try:
        upgrade_catalog(catalog)
        fill(catalog.url, customers)
        with catalog.transaction() as connection:
            found = {name: read_whole(connection, question) for name, question in questions(customers).items()}
        assert {name: lines for name, lines in found.items() if lines} == {}
    finally:
        catalog.close()
