"""What tenants used: collected from their providers day by day, and told by tenant, by day, and in money.

Providers' meters are the truth; the catalog keeps what they said, because they forget it after two months. Must never
wake a tenant, ask a provider once for each tenant, or let one provider that is away keep the others' usage back.
"""
