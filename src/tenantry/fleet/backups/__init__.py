"""Backups of tenants in the operator's own bucket: taken, proved by restoring them, kept as long as was said.

What lies in a vault is sealed under a key of the tenant's own, which is sealed under the fleet's. Must never call a
backup verified that was not restored and compared, never remove the last good one of a tenant, and never put data of a
tenant, or a key, where it can be read without the fleet's key.
"""
