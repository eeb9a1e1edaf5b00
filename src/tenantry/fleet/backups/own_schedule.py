"""What one tenant has of its own of schedule and retention, over what its plan says."""

from __future__ import annotations

from tenantry.fleet.backups.retention import parse_keep
from tenantry.fleet.backups.schedule import checked_cron
from tenantry.fleet.catalog import backups as rows
from tenantry.fleet.catalog import events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.records import Tenant


def set_own_schedule(
    catalog: Catalog, tenant: Tenant, *, cron: str | None, keep: str | None, as_plan: bool = False
) -> None:
    """What is said; the other one stays as it was. ``as_plan``: it has neither any more. Raises InvalidInput."""
    if cron is not None:
        checked_cron(cron)
    if keep is not None:
        parse_keep(keep)
    with catalog.transaction() as connection:
        had = (None, None) if as_plan else rows.own_schedule(connection, tenant.id)
        cron, keep = cron or had[0], keep or had[1]
        rows.set_schedule(connection, tenant.id, cron=cron, keep=keep, by=events.actor())
        events.record(connection, "schedule backups", tenant, cron=cron, keep=keep)
