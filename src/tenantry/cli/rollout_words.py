"""What is said of a run of migrations while it goes on."""

from __future__ import annotations

from tenantry.fleet.migrations.events import (
    Stopping,
    Waiting,
    WaveJudged,
    WaveStarted,
)
from tenantry.fleet.migrations.results import TenantResult


def sentence(result: TenantResult) -> str:
    """One tenant's result on one line."""
    match result.outcome:
        case "applied":
            what = f"applied {', '.join(result.applied)}"
        case "current":
            what = "current already"
        case "failed":
            what = f"FAILED: {result.failure}"
        case other:
            what = other
    notes = "".join(f"; {note}" for note in result.notes)
    return f"{result.slug}: {what} ({result.seconds:.2f} s){notes}"


def wave(event: WaveStarted) -> str:
    if not event.tenants:
        return f"wave {event.name}"
    return f"wave {event.name}: " + ("1 tenant" if event.tenants == 1 else f"{event.tenants} tenants")


def judged(event: WaveJudged) -> str:
    if event.objections:
        return f"wave {event.name}: STOPPED: {'; '.join(event.objections)}"
    return f"wave {event.name}: passed"


def waiting(event: Waiting) -> str:
    when = f" until {event.until:%Y-%m-%d %H:%MZ}" if event.until else ""
    return f"{event.tenants} tenants wait for their maintenance window{when}"


def stopping(event: Stopping) -> str:
    if event.cancelling:
        return "cancelling: what is under way is rolled back"
    return "stopping: what is under way ends first (interrupt again to cancel it)"
