"""How long-lived things behave: processes, files, clocks, secrets at rest, crash points.

Knows nothing of tenants or Postgres. Must never wait without a bound, and never swallow an error.
"""
