"""What a run tells while it runs, for a progress bar, plain lines or JSON. All events come from one thread."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tenantry.fleet.catalog.records import Run
from tenantry.fleet.migrations.results import TenantResult, run_document
from tenantry.fleet.migrations.tenant import TenantSlug


@dataclass(frozen=True, slots=True)
class RunStarted:
    run: Run
    total: int
    """Tenants of the plan, those that are skipped included."""
    to_visit: int

    def as_dict(self) -> dict[str, object]:
        return {"event": "run_started", "run": run_document(self.run), "total": self.total, "to_visit": self.to_visit}


@dataclass(frozen=True, slots=True)
class WaveStarted:
    number: int
    name: str
    tenants: int

    def as_dict(self) -> dict[str, object]:
        return {"event": "wave_started", "number": self.number, "wave": self.name, "tenants": self.tenants}


@dataclass(frozen=True, slots=True)
class WaveJudged:
    """The wave's gates were asked; without objections the next one begins."""

    number: int
    name: str
    objections: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        return {
            "event": "wave_judged",
            "number": self.number,
            "wave": self.name,
            "passed": not self.objections,
            "objections": list(self.objections),
        }


@dataclass(frozen=True, slots=True)
class TenantStarted:
    slug: TenantSlug

    def as_dict(self) -> dict[str, object]:
        return {"event": "tenant_started", "tenant": self.slug}


@dataclass(frozen=True, slots=True)
class TenantFinished:
    """``visited`` of ``to_visit`` are finished, this one included. Skipped tenants have no event."""

    result: TenantResult
    visited: int
    to_visit: int

    def as_dict(self) -> dict[str, object]:
        return {
            "event": "tenant_finished",
            "visited": self.visited,
            "to_visit": self.to_visit,
            **self.result.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Progressed:
    """Others have done ``visited`` of ``to_visit`` by now."""

    visited: int
    to_visit: int

    def as_dict(self) -> dict[str, object]:
        return {"event": "progressed", "visited": self.visited, "to_visit": self.to_visit}


@dataclass(frozen=True, slots=True)
class Waiting:
    """All that is left waits for its maintenance window; the first opens at ``until``."""

    until: datetime | None
    tenants: int

    def as_dict(self) -> dict[str, object]:
        return {
            "event": "waiting",
            "until": self.until.isoformat() if self.until else None,
            "tenants": self.tenants,
        }


@dataclass(frozen=True, slots=True)
class Warned:
    """Something around the tenants went wrong: the cache of the catalog, the log of runs."""

    message: str

    def as_dict(self) -> dict[str, object]:
        return {"event": "warning", "message": self.message}


@dataclass(frozen=True, slots=True)
class Stopping:
    """The operator interrupted: transactions under way end, no further tenant is begun. ``cancelling`` is True at the
    second interrupt: the statements under way are cancelled and rolled back."""

    cancelling: bool

    def as_dict(self) -> dict[str, object]:
        return {"event": "stopping", "cancelling": self.cancelling}


@dataclass(frozen=True, slots=True)
class RunFinished:
    """Whoever tells this has done its part; the run may be held, or go on elsewhere."""

    run: Run

    def as_dict(self) -> dict[str, object]:
        return {"event": "run_finished", **run_document(self.run)}


Event = (
    RunStarted
    | WaveStarted
    | WaveJudged
    | TenantStarted
    | TenantFinished
    | Progressed
    | Waiting
    | Warned
    | Stopping
    | RunFinished
)
