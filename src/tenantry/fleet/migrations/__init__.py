"""Moves a whole fleet from one schema version to the next: plan (pure, shown first), run, status.

The ledger inside a tenant is the truth about its schema, the catalog's copy is a cache that saves waking it.
Must never apply a migration outside the transaction that writes its ledger row, never report a tenant as migrated
without that row, and never let one tenant's failure stop another.
"""
