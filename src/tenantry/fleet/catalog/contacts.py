"""People of a customer. Each function runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import Connection, delete, func, select
from sqlalchemy.dialects.postgresql import insert

from tenantry.fleet.catalog import models
from tenantry.fleet.catalog.records import CustomerId

ContactKind = Literal["owner", "billing", "technical", "security"]
KINDS: Final[tuple[ContactKind, ...]] = ("owner", "billing", "technical", "security")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    kind: str
    email: str
    name: str | None
    created_at: datetime


def contacts_of(connection: Connection, customer: CustomerId) -> list[Contact]:
    table = models.Contact
    query = select(table.kind, table.email, table.name, table.created_at).where(table.customer_id == customer)
    rows = connection.execute(query.order_by(table.kind, table.email)).mappings()
    return [Contact(**row) for row in rows]


def count_contacts(connection: Connection, customer: CustomerId) -> int:
    return connection.execute(select(func.count()).where(models.Contact.customer_id == customer)).scalar_one()


def put_contact(
    connection: Connection, customer: CustomerId, *, kind: ContactKind, email: str, name: str | None
) -> None:
    """Adds the person, or changes the name of one who is there."""
    row = insert(models.Contact).values(customer_id=customer, kind=kind, email=email, name=name)
    connection.execute(
        row.on_conflict_do_update(index_elements=["customer_id", "kind", "email"], set_={"email": email, "name": name})
    )


def drop_contacts(connection: Connection, customer: CustomerId, email: str, kind: ContactKind | None) -> int:
    """Of this address, of one kind or of all; returns how many there were."""
    table = models.Contact
    gone = delete(table).where(table.customer_id == customer, table.email == email)
    return connection.execute(gone if kind is None else gone.where(table.kind == kind)).rowcount
