"""What a run reports: records that the operator's screen, the log of runs and ``--json`` are made from.

They hold no DSN and no password. ``Failure.detail`` may quote a row of the tenant (Postgres says which key is
duplicated), so it belongs to the operator's eyes only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Final, Literal

from pydantic import TypeAdapter

from tenantry.errors import TenantryError
from tenantry.fleet.catalog.records import Run, RunTenant
from tenantry.fleet.migrations.restore_point import RestorePoint
from tenantry.fleet.migrations.tenant import SchemaState, TenantSlug

FailureKind = Literal[
    "connect",  # the tenant could not be reached before its transaction began; nothing was changed
    "locked",  # another runner holds the tenant's migration lock; nothing was changed
    "sql",  # a statement, or the commit, failed; its transaction was rolled back
    "edited",  # the file of an applied, or half applied, migration has changed since
    "out_of_order",  # a file sorts before what is applied and was never applied
    "ahead",  # the ledger has a migration that the folder lacks
    "restore_point",  # the state before could not be kept; nothing was changed
    "refused",  # a migration has a statement that is never run
    "half_applied",  # another tool left a migration unfinished
    "connection_lost",  # the connection broke; an open transaction was rolled back
    "outcome_unknown",  # the connection broke while committing and the ledger could not be read afterwards
    "cancelled",  # the operator cancelled it; what was open is rolled back
    "no_down",  # a migration that was to be taken back has no way back; nothing was changed
    "no_folder",  # the folder has a folder for each tenant, and none for this one; it was not asked
    "tool",  # the tool that applies the migrations failed; the ledger says what was kept of its work
    "defect",  # our own mistake
]
Outcome = Literal["applied", "current", "skipped", "failed", "not_started"]
"""``current``: asked the tenant, nothing to do. ``skipped``: current by the catalog, not woken."""

EXIT_DONE: Final = 0
EXIT_INTERRUPTED: Final = 1
EXIT_SOME_FAILED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why one tenant was not migrated, and where: file, statement, line and column count from 1."""

    kind: FailureKind
    message: str
    next_step: str = ""
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    migration: str | None = None
    file: str | None = None
    statement: int | None = None
    line: int | None = None
    column: int | None = None
    position: int | None = None
    """The character of the file at which Postgres points, where it does."""
    statements_kept: int = 0
    """Statements of this migration that stay applied: not 0 only where a migration is half applied."""
    held_by: str | None = None
    """For a lock that was not to be had: the oldest transactions of others that were open when the wait began."""
    sql: str | None = None
    """The statement that failed, shortened, where a tool sent it."""
    output: str | None = None
    """The last of what a tool printed, without secrets."""

    def __str__(self) -> str:
        code = f"{self.sqlstate} " if self.sqlstate else ""
        where = f" in {self.file}" if self.file else ""
        if self.statement is not None:
            where += f", statement {self.statement}"
        if self.line is not None:
            where += f", line {self.line}"
            where += f":{self.column}" if self.column is not None else ""
        held_by = f"; open since before the wait: {self.held_by}" if self.held_by else ""
        return f"{code}{self.message}{where}{held_by}"


class MigrationFailed(TenantryError):
    """One tenant's migration failed; carries the whole ``Failure``."""

    blame = "tenant"
    http_status = 409
    code = "MIGRATION_FAILED"

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure), next_step=failure.next_step, sqlstate=failure.sqlstate)
        self.failure = failure


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantResult:
    """What became of one tenant in one run."""

    slug: TenantSlug
    outcome: Outcome
    applied: tuple[str, ...] = ()
    """Versions applied by this run, oldest first; with ``failed``, those that were committed before the failure."""
    state: SchemaState | None = None
    """What the tenant's ledger says now; None where it was not read."""
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    """What an operator should know although it failed nothing."""
    restore_point: RestorePoint | None = None
    """The state before the first change; None where nothing was to be changed, or no state is kept."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        return {
            "tenant": self.slug,
            "outcome": self.outcome,
            "applied": list(self.applied),
            "schema_version": self.state.version if self.state else None,
            "failure": asdict(self.failure) if self.failure else None,
            "notes": list(self.notes),
            "restore_point": self.restore_point.as_dict() if self.restore_point else None,
            "seconds": round(self.seconds, 4),
        }


def skipped(run: Run) -> int:
    """Tenants that were current by the catalog and not woken."""
    total, to_visit = run.plan.get("total", 0), run.plan.get("to_visit", 0)
    return total - to_visit if isinstance(total, int) and isinstance(to_visit, int) else 0


def counts_of(run: Run) -> dict[str, int]:
    """Tenants of the run by outcome; ``waiting`` those that have none yet, ``gone`` those deleted meanwhile."""
    counted = {name: number for name, number in run.counts.items() if isinstance(number, int)}
    return {name: counted.get(name, 0) for name in ("applied", "current", "failed", "gone", "waiting")} | {
        "skipped": skipped(run)
    }


def exit_code(run: Run) -> int:
    """1 when not every tenant had its turn, 3 when tenants failed, else 0."""
    counts = counts_of(run)
    if run.state != "finished" or counts["waiting"]:
        return EXIT_INTERRUPTED
    return EXIT_SOME_FAILED if counts["failed"] else EXIT_DONE


def run_document(run: Run) -> dict[str, object]:
    """A run for programs."""
    return {
        "run_id": run.id,
        "state": run.state,
        "reason": run.reason,
        "format": run.format,
        "directory": run.directory,
        "target": run.target,
        "created_by": run.created_by,
        "started_at": run.started_at.isoformat(),
        "finished_at": run.finished_at.isoformat() if run.finished_at else None,
        "counts": counts_of(run),
        "interrupted": run.interrupted,
    }


def failure_of(tenant: RunTenant) -> Failure | None:
    """Why this tenant of a run failed, as the catalog remembers it."""
    return None if tenant.failure is None else _FAILURE.validate_python(tenant.failure)


def tenant_document(tenant: RunTenant) -> dict[str, object]:
    """A tenant of a run for programs."""
    return {
        "tenant": tenant.slug,
        "wave": tenant.wave,
        "outcome": tenant.outcome or "waiting",
        "applied": list(tenant.applied),
        "schema_version": tenant.to_version,
        "failure": tenant.failure,
        "notes": list(tenant.notes),
        "restore_point": tenant.restore_point,
        "seconds": round(tenant.seconds, 4) if tenant.seconds is not None else None,
        "attempts": tenant.attempts,
    }


_FAILURE: Final = TypeAdapter(Failure)
