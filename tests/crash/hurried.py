"""``tenantry`` in a hurry: what a cell does every few seconds or minutes it does several times a second, so that a life
of seconds has all of it. With ``HURRIED_BASES`` in the environment bases are taken as often, and are due after a few
segments of log.
"""

from __future__ import annotations

import os
from types import ModuleType

from tenantry.cell.loops import discard, history, idle, metering, quotas, retention
from tenantry.cell.operations import runner
from tenantry.cell.storage import bases
from tenantry.cli.main import main

HURRY: list[tuple[ModuleType, str, object]] = [
    (history, "PERIOD_SECONDS", 0.3),
    (retention, "PERIOD_SECONDS", 0.5),
    (discard, "PERIOD_SECONDS", 0.3),
    (idle, "PERIOD_SECONDS", 0.2),
    (metering, "PERIOD_SECONDS", 1.0),
    (quotas, "PERIOD_SECONDS", 0.5),
    (quotas, "GRACE_SECONDS", 2.0),
    (runner, "RETRY_SECONDS", (0.05, 0.1, 0.2, 0.4)),
    (runner, "STUCK_SECONDS", (0.5, 1.0, 2.0)),
]
OFTEN: list[tuple[ModuleType, str, object]] = [
    (history, "BASES_PERIOD_SECONDS", 0.4),
    (bases, "BASE_WAL_BYTES_MIN", 1024 * 1024),
    (bases, "BASE_WAL_FRACTION", 0.0),
]

for module, name, value in [*HURRY, *(OFTEN if "HURRIED_BASES" in os.environ else [])]:
    assert hasattr(module, name), f"{module.__name__} has no {name} any more"
    setattr(module, name, value)
main()
