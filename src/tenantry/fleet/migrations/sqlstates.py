"""What the server's errors ask of an operator, by their SQLSTATE."""

from __future__ import annotations

from typing import Final

NEXT_STEPS: Final[dict[str, str]] = {
    "55P03": "a session holds a lock on the table; run again when it has ended, or raise the lock timeout",
    "57014": "the statement took longer than the statement timeout; raise it, or split the migration",
    "23505": "mend the tenant's duplicate rows, then run again",
    "23514": "mend the tenant's rows that break the new check, then run again",
    "23502": "fill the tenant's empty values, then run again",
    "23503": "mend the tenant's dangling references, then run again",
    "42501": "the tenant's owner lacks a right that the migration needs; grant it, then run again",
    "53100": "the tenant's disk is full; make room, then run again",
    "25001": "this statement cannot run inside a transaction; move it out of the migration",
    "55P04": "a new enum value is usable only after its transaction; add it in a rollout of its own, before this one",
    "40P01": "the tenant's own sessions were in the way; run again",
}
