"""``tenantry`` whose workers notice within seconds that another one has died."""

from __future__ import annotations

from functools import partial

from tenantry.cli.main import main
from tenantry.fleet.jobs import worker

QUICK = {"heartbeat_seconds": 0.5, "stalled_seconds": 4.0, "look_seconds": 0.5, "poll_seconds": 1.0}

setattr(worker, "Bounds", partial(worker.Bounds, **QUICK))  # noqa: B010 - the type is not to change
main()
