"""Who did what to whom: written in the transaction of what was done, so that neither is there without the other."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, text

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import CustomerId, Tenant

KEPT_DAYS: Final = 730
"""How long an event is remembered."""
PRUNED_MAX: Final = 10_000
"""Events that one call forgets; the next call finds the rest."""
_ACTOR_VARIABLE: Final = "TENANTRY_ACTOR"
_on_behalf: ContextVar[str | None] = ContextVar("_on_behalf", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    id: int
    at: datetime
    actor: str
    verb: str
    slug: str | None
    """As the customer was called then; None for what concerns no single one."""
    detail: Mapping[str, object]


def actor() -> str:
    """Who does this: on whose behalf a worker acts, what TENANTRY_ACTOR says, or the user and the machine."""
    if (named := _on_behalf.get() or os.environ.get(_ACTOR_VARIABLE)) is not None:
        return named
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name, as in containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextmanager
def acting_for(somebody: str) -> Generator[None]:
    """What this thread does meanwhile was asked for by ``somebody``."""
    token = _on_behalf.set(somebody)
    try:
        yield
    finally:
        _on_behalf.reset(token)


def record(connection: Connection, verb: str, tenant: Tenant | None = None, **detail: object) -> None:
    """That ``verb`` was done, in the caller's transaction. ``detail`` is JSON and holds no secret; None is left out."""
    connection.execute(
        insert(models.Event).values(
            actor=actor(),
            verb=verb,
            customer_id=None if tenant is None else tenant.customer_id,
            slug=None if tenant is None else tenant.slug,
            detail={name: value for name, value in detail.items() if value is not None},
        )
    )


def events_page(
    connection: Connection,
    *,
    customers: list[CustomerId] | None = None,
    verb: str | None = None,
    since: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> list[Event]:
    """The newest first, older than the event ``before``; of these customers only, where some are given."""
    table = models.Event
    query = select(table.id, table.at, table.actor, table.verb, table.slug, table.detail)
    if customers is not None:
        query = query.where(table.customer_id.in_(customers))
    if verb is not None:
        query = query.where(table.verb == verb)
    if since is not None:
        query = query.where(table.at >= since)
    if before is not None:
        query = query.where(table.id < before)
    rows = connection.execute(query.order_by(table.id.desc()).limit(limit))
    return [Event(**row) for row in rows.mappings()]


def customers_called(connection: Connection, slug: str) -> list[CustomerId]:
    """Who has this slug, and who had it when it was deleted."""
    customer, project, deletion = models.Customer, models.Project, models.Deletion
    deleted = select(project.customer_id).join(deletion, deletion.project_id == project.id).where(deletion.slug == slug)
    living = select(customer.id).where(customer.slug == slug, customer.deleted_at.is_(None))
    # Not one question with OR, which no index answers.
    found = connection.execute(living.union(deleted)).scalars()
    return [CustomerId(each) for each in found]


def prune(connection: Connection) -> int:
    """Forgets the oldest that are older than KEPT_DAYS; returns how many."""
    table = models.Event
    old = (
        select(table.id)
        .where(table.at < func.now() - text(f"interval '{KEPT_DAYS} days'"))
        .order_by(table.at)
        .limit(PRUNED_MAX)
    )
    return connection.execute(delete(table).where(table.id.in_(old))).rowcount
