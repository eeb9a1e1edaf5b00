"""Who owns projects: cells, accounts at Neon, and plain Postgres servers, behind one Protocol that all can serve.

A provider declares its features, and raises for what it has not: no caller asks what kind it is. Must never hold a
customer's name beyond the name of a project, and never let its key or a tenant's password into an error, a log or
the catalog (docs/decisions/0011).
"""
