"""What a cell counts, in Prometheus' terms. No label ever names a project, a tenant, a client or a path.

One process is one cell, so the numbers are the process's. What is a fact of the whole state (how many projects, how
many awake) is not counted along but asked when somebody looks: see ``operations.numbers``.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

REGISTRY: Final = CollectorRegistry()
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

ProcessCollector(registry=REGISTRY)

api_requests = Counter(
    "tenantry_api_requests",
    "Requests answered, by operation of the contract.",
    ["operation", "status"],
    registry=REGISTRY,
)
api_seconds = Histogram(
    "tenantry_api_request_seconds",
    "From a request's head to its answer.",
    ["operation"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
operations_ended = Counter(
    "tenantry_operations_ended", "Operations that have ended, by how.", ["verb", "status"], registry=REGISTRY
)
operation_seconds = Histogram(
    "tenantry_operation_seconds",
    "From an operation's creation to its end.",
    ["verb"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
operation_retries = Counter(
    "tenantry_operation_step_retries", "Steps that failed and were tried again.", ["verb"], registry=REGISTRY
)
wakes = Counter("tenantry_wakes", "Instances started, by how it ended.", ["outcome"], registry=REGISTRY)
wake_seconds = Histogram(
    "tenantry_wake_seconds",
    "From the decision to start an instance until it takes connections.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
sleeps = Counter("tenantry_sleeps", "Instances put to sleep.", registry=REGISTRY)
deaths = Counter("tenantry_instance_deaths", "Instances that ended without being told to.", registry=REGISTRY)
loop_cycles = Counter(
    "tenantry_loop_cycles", "Cycles of background loops, by how they ended.", ["loop", "outcome"], registry=REGISTRY
)
loop_last_success = Gauge(
    "tenantry_loop_last_success_timestamp_seconds",
    "When a background loop last did what it is for.",
    ["loop"],
    registry=REGISTRY,
)
door_connections = Counter("tenantry_door_connections", "Sessions opened through the front door.", registry=REGISTRY)
door_bytes = Counter(
    "tenantry_door_bytes",
    "Plaintext bytes through the front door: in is from clients.",
    ["direction"],
    registry=REGISTRY,
)
quota_steps = Counter(
    "tenantry_quota_steps", "Steps of quotas that projects have reached: warned, exceeded, suspended.", ["step"],
    registry=REGISTRY,
)  # fmt: skip
door_failed_logins = Counter("tenantry_door_failed_logins", "Logins that failed.", registry=REGISTRY)
