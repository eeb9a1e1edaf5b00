"""The guard of a head's log: a physical slot that keeps segments in ``pg_wal`` until they are linked.

It holds also while the cell is dead and Postgres runs on. It is bounded, so that a cell that never comes back does
not fill the disk; past the bound Postgres lets go, and the gap is found by ``History.gaps``.
A new head has no slot: it is made before clients enter.
"""

from __future__ import annotations

from typing import Final

SLOT_KEEP_BYTES_MAX: Final = 1024 * 1024 * 1024
"""How much log an instance keeps for a cell that does not come."""

SETTINGS: Final = {"max_slot_wal_keep_size": f"{SLOT_KEEP_BYTES_MAX // (1024 * 1024)}MB"}

ENSURE: Final = (
    # One that Postgres has let go is of no use any more.
    "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots"
    " where slot_name = 'tenantry_history' and wal_status = 'lost' and not active",
    "select pg_catalog.pg_create_physical_replication_slot('tenantry_history', true)"
    " where not exists (select from pg_catalog.pg_replication_slots where slot_name = 'tenantry_history')",
)
"""Statements that leave the instance with a slot that keeps what is written from now on; harmless when it has one."""

ADVANCE: Final = (
    "select pg_catalog.pg_replication_slot_advance(slot_name, %(lsn)s::pg_lsn) from pg_catalog.pg_replication_slots"
    " where slot_name = 'tenantry_history' and restart_lsn < %(lsn)s::pg_lsn"
)
"""Lets Postgres remove what lies before ``lsn`` (``Linked.advance_to`` as text), which is linked durably."""
