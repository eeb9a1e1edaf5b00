"""The catalog: one row for each customer and each of its projects, in a Postgres of its own.

The only SQL on the catalog stands in this package (``queries.py``; the tables in ``models.py``, their history in
``schema/``). It holds what the provider does not know, and the little that must be served without asking it. Must
never hold a password or a DSN of a tenant, and never touch a table that is not its own: operators extend the
catalog with tables of their own.
"""
