"""From what is configured to how a run is carried out."""

from __future__ import annotations

from tenantry.fleet import settings
from tenantry.fleet.migrations.apply import Bounds
from tenantry.fleet.migrations.gates import Gates
from tenantry.fleet.migrations.run import RunOptions
from tenantry.fleet.migrations.waves import Ring, Rules


def run_options(said: settings.Migrations) -> RunOptions:
    """What ``[migrations]`` says of a run."""
    return RunOptions(
        jobs=said.jobs,
        jobs_per_provider=said.jobs_per_provider,
        bounds=Bounds(
            lock_seconds=said.lock_timeout, statement_seconds=said.statement_timeout, tool_seconds=said.tool_timeout
        ),
        gates=Gates(
            failures_percent=said.gate_failures_percent,
            p95_seconds=said.gate_p95_seconds,
            lock_waits_max=said.gate_lock_waits_max,
            command=said.gate_command,
            url=said.gate_url,
            outside_seconds_max=said.gate_seconds_max,
        ),
        rules=Rules(canaries=said.canaries, rings=tuple(rings_of(said))),
        golden=said.golden,
        restore_point=said.restore_point,
    )


def rings_of(said: settings.Migrations) -> list[Ring]:
    return [
        Ring(
            name=ring.name,
            tenants=tuple(ring.tenants),
            plans=tuple(ring.plans),
            regions=tuple(ring.regions),
            percent=ring.percent,
        )
        for ring in said.rings
    ]
