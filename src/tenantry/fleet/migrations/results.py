"""What a run reports: records that the operator's screen, the log of runs and ``--json`` are made from.

They hold no DSN and no password. ``Failure.detail`` may quote a row of the tenant (Postgres says which key is
duplicated), so it belongs to the operator's eyes only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Final, Literal

from tenantry.errors import TenantryError
from tenantry.fleet.migrations.restore_point import RestorePoint
from tenantry.fleet.migrations.tenant import RunId, SchemaState, TenantSlug

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
        return f"{code}{self.message}{where}"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tenants by outcome."""

    applied: int = 0
    current: int = 0
    skipped: int = 0
    failed: int = 0
    not_started: int = 0

    @property
    def total(self) -> int:
        return self.applied + self.current + self.skipped + self.failed + self.not_started


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run as its log remembers it."""

    run_id: RunId
    format: str
    directory: str
    target: str | None
    """The newest version of the folder: where every tenant shall stand."""
    started_at: datetime
    finished_at: datetime | None = None
    """None while it runs, and for ever when the runner was killed."""
    counts: Counts = field(default_factory=Counts)
    interrupted: bool = False

    def as_dict(self) -> dict[str, object]:
        return {
            "run_id": self.run_id,
            "format": self.format,
            "directory": self.directory,
            "target": self.target,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "counts": asdict(self.counts),
            "interrupted": self.interrupted,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A finished run. ``results`` has every tenant of the plan once, in the plan's order."""

    run: RunRecord
    results: tuple[TenantResult, ...]
    warnings: tuple[str, ...]
    """What went wrong around the tenants: the catalog's cache not written, the run log not reachable."""
    seconds: float

    @property
    def failed(self) -> tuple[TenantResult, ...]:
        return tuple(result for result in self.results if result.outcome == "failed")

    @property
    def exit_code(self) -> int:
        """1 when the run was interrupted before every tenant had its turn, 3 when tenants failed, else 0."""
        if self.run.counts.not_started:
            return EXIT_INTERRUPTED
        return EXIT_SOME_FAILED if self.run.counts.failed else EXIT_DONE

    def as_dict(self) -> dict[str, object]:
        return {
            **self.run.as_dict(),
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 4),
            "warnings": list(self.warnings),
            "tenants": [result.as_dict() for result in self.results],
        }
