"""The people of a customer: who owns it, pays, looks after the technology, or is told of a breach."""

from __future__ import annotations

from typing import Final

from tenantry.errors import InvalidInput, LimitReached, NotFound
from tenantry.fleet.catalog import contacts, events
from tenantry.fleet.catalog.catalog import Catalog
from tenantry.fleet.catalog.contacts import KINDS, Contact, ContactKind
from tenantry.fleet.catalog.records import Tenant
from tenantry.fleet.tenants.create import checked_email
from tenantry.fleet.tenants.find import find_tenant
from tenantry.fleet.tenants.slugs import clean_name

CONTACTS_MAX: Final = 100
"""Of one customer."""


def list_contacts(catalog: Catalog, name: str) -> tuple[Tenant, list[Contact]]:
    """Raises NotFound."""
    tenant = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        return tenant, contacts.contacts_of(connection, tenant.customer_id)


def add_contact(catalog: Catalog, name: str, email: str, *, kind: str, person: str | None = None) -> Tenant:
    """Added twice it is one, with the later name. Raises NotFound, InvalidInput, LimitReached."""
    checked = _kind(kind)
    tenant = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        if contacts.count_contacts(connection, tenant.customer_id) >= CONTACTS_MAX:
            raise LimitReached(f"{tenant.slug} has {CONTACTS_MAX} contacts", next_step="remove one first")
        contacts.put_contact(
            connection,
            tenant.customer_id,
            kind=checked,
            email=checked_email(email),
            name=None if person is None else clean_name(person),
        )
        # The address is personal, and the event outlives it.
        events.record(connection, "add contact", tenant, kind=kind)
    return tenant


def remove_contact(catalog: Catalog, name: str, email: str, *, kind: str | None = None) -> Tenant:
    """Of one kind, or of all. Raises NotFound."""
    checked = None if kind is None else _kind(kind)
    tenant = find_tenant(catalog, name)
    with catalog.transaction() as connection:
        if not contacts.drop_contacts(connection, tenant.customer_id, email, checked):
            raise NotFound(f"{tenant.slug} has no such contact", next_step=f"see `tenantry contact list {tenant.slug}`")
        events.record(connection, "remove contact", tenant, kind=kind)
    return tenant


def _kind(kind: str) -> ContactKind:
    if kind not in KINDS:
        raise InvalidInput(f"{kind!r} is no kind of contact", next_step=f"choose one of: {', '.join(KINDS)}")
    return kind
