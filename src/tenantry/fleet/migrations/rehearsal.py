"""What a rehearsal found: on each branch of a tenant, what each migration took, kept locked, rewrote and wrote. Values,
free of secrets; an error may quote a row of the tenant, as in a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import TypeAdapter

from tenantry.fleet.migrations.results import Failure
from tenantry.fleet.migrations.tenant import TenantSlug

Outcome = Literal["applied", "current", "failed", "impossible", "interrupted"]
"""``impossible``: its provider has no branches, or made none. ``current``: there was nothing to apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementReport:
    statement: int
    """Its number in the file, from 1."""
    line: int
    excerpt: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LockReport:
    """A lock that keeps others out of a table."""

    table: str
    mode: str
    migration: str | None
    """The first that took it; None where that is not known."""
    seconds_max: float
    """No longer than this was it held."""

    @property
    def blocks(self) -> str:
        return "reads and writes" if self.mode == "AccessExclusiveLock" else "writes"


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteReport:
    """A table that was there before, and whose rows lie in a new file now."""

    table: str
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationReport:
    """One migration on one branch."""

    version: str
    file: str
    seconds: float
    statements: tuple[StatementReport, ...] = ()
    rewritten: tuple[RewriteReport, ...] = ()
    rows_read: int = 0
    """Of tables that were there before; a rewrite, and a check of what is there, read all rows."""
    rows_written: int = 0
    wal_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchReport:
    """All of it on the branch of one tenant."""

    tenant: TenantSlug
    outcome: Outcome
    from_version: str | None = None
    to_version: str | None = None
    applied: tuple[str, ...] = ()
    migrations: tuple[MigrationReport, ...] = ()
    """Empty where a tool applied them: nobody sees into it."""
    locks: tuple[LockReport, ...] = ()
    """The longest first."""
    size_bytes: int | None = None
    seconds: float = 0.0
    """From connecting, which wakes the branch, to the last commit."""
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    branch: str | None = None
    """Its name where it was kept."""

    @property
    def passed(self) -> bool:
        return self.outcome in ("applied", "current")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """One rehearsal, over as many branches as were wanted."""

    id: str
    format: str
    directory: str
    checksum: str
    """Of format, versions and checksums (``checksum_of``)."""
    migrations: Mapping[str, str]
    """Version to checksum, of everything that was to be applied."""
    started_at: datetime
    finished_at: datetime | None
    by: str
    branches: tuple[BranchReport, ...]

    @property
    def passed(self) -> bool:
        """Whether something was applied, and nothing failed. Tenants that cannot be branched prove nothing."""
        tried = [each for each in self.branches if each.outcome != "impossible"]
        return bool(tried) and all(each.passed for each in tried)

    def as_dict(self) -> dict[str, object]:
        return {
            "rehearsal_id": self.id,
            "format": self.format,
            "directory": self.directory,
            "checksum": self.checksum,
            "migrations": dict(self.migrations),
            "passed": self.passed,
            "started_at": self.started_at.isoformat(),
            "finished_at": self.finished_at.isoformat() if self.finished_at else None,
            "by": self.by,
            "branches": report_of(self.branches),
        }


_BRANCHES = TypeAdapter(tuple[BranchReport, ...])


def report_of(branches: Sequence[BranchReport]) -> object:
    """As JSON has it."""
    return _BRANCHES.dump_python(tuple(branches), mode="json")


def branches_of(report: object) -> tuple[BranchReport, ...]:
    """From ``report_of``."""
    return _BRANCHES.validate_python(report)


def checksum_of(format_name: str, migrations: Iterable[tuple[str, str]]) -> str:
    """Of a format, and of versions with their checksums in their order."""
    text = "\0".join([format_name, *(f"{version}\0{checksum}" for version, checksum in migrations)])
    return hashlib.sha256(text.encode()).hexdigest()
