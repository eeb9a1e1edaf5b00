"""The catalog's history, as Alembic revisions, applied by :mod:`tenantry.fleet.catalog.upgrade`.

A revision that has been released is never edited. Each one must leave a catalog that the release before it can
still use: old and new processes run at once while a fleet is upgraded.
"""
