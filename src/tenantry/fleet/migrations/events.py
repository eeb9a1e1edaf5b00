"""What a run tells while it runs, for a progress bar, plain lines or JSON. All events come from one thread."""

from __future__ import annotations

from dataclasses import dataclass

from tenantry.fleet.migrations.results import RunRecord, RunResult, TenantResult
from tenantry.fleet.migrations.tenant import TenantSlug


@dataclass(frozen=True, slots=True)
class RunStarted:
    run: RunRecord
    total: int
    """Tenants of the plan, those that are skipped included."""
    to_visit: int

    def as_dict(self) -> dict[str, object]:
        return {"event": "run_started", "run": self.run.as_dict(), "total": self.total, "to_visit": self.to_visit}


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
    result: RunResult

    def as_dict(self) -> dict[str, object]:
        summary = self.result.as_dict()
        del summary["tenants"]
        return {"event": "run_finished", **summary}


Event = RunStarted | TenantStarted | TenantFinished | Warned | Stopping | RunFinished
