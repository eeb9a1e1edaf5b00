"""Who did what to whom, the newest first. What is older than KEPT_DAYS of ``catalog.events`` is forgotten."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from tenantry.errors import NotFound
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.events import Event
from tenantry.fleet.tenants.slugs import slugify

EVENTS_MAX: Final = 10_000
"""Of one answer."""


def read_log(
    catalog: Catalog,
    name: str | None = None,
    *,
    verb: str | None = None,
    since: datetime | None = None,
    limit: int = 50,
) -> list[Event]:
    """Of one tenant, also of a deleted one, or of all. Raises NotFound for a slug that nobody has or had."""
    with catalog.transaction() as connection:
        customers = None
        if name is not None:
            slug = slugify(name)
            customers = events.customers_called(connection, slug)
            if not customers:
                raise NotFound(f"there is and was no tenant {slug}", next_step="see `tenantry list`", tenant=slug)
        return events.events_page(connection, customers=customers, verb=verb, since=since, limit=min(limit, EVENTS_MAX))


def forget_old(catalog: Catalog) -> list[str]:
    """A pass: returns a sentence when there were some."""
    with catalog.transaction() as connection:
        forgotten = events.prune(connection)
    return [f"{forgotten} events older than {events.KEPT_DAYS} days were forgotten"] if forgotten else []
