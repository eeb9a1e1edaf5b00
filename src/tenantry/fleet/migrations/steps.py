"""How a migration that no transaction can hold is cut into steps, and where a broken one goes on. Pure.

Statements that may share a transaction are one step, with one row of progress each, so that as little as possible can
stay half done; a statement that no transaction may hold is a step of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tenantry.errors import Defect
from tenantry.fleet.migrations import alone
from tenantry.fleet.migrations.alone import Alone
from tenantry.fleet.migrations.formats.base import Migration, Segment
from tenantry.fleet.migrations.results import Failure
from tenantry.fleet.migrations.statements import Statement

STARTED: Final = 0
"""The number of the row that says no more than that the migration was begun."""
NEXT_STEP_EDITED: Final = "restore the statements that were applied; change only those that follow"


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """One statement of a migration, as the tenant remembers it. ``done`` is false while nobody knows its outcome."""

    number: int
    checksum: str
    done: bool


@dataclass(frozen=True, slots=True)
class Step:
    """What is sent at once, or in one transaction."""

    numbers: tuple[int, ...]
    """Of the statements in the migration, from 1."""
    checksums: tuple[str, ...]
    segments: tuple[Segment, ...]
    alone: Alone | None
    """None for statements that share a transaction."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a migration goes on. ``begun``: the outcome of the next statement is unknown."""

    done: int = 0
    begun: bool = False


@dataclass(frozen=True, slots=True)
class _Numbered:
    number: int
    segment: Segment
    statement: Statement

    @property
    def text(self) -> str:
        return self.segment.text[self.statement.start : self.statement.end]

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.replace("\r\n", "\n").encode()).hexdigest()


def steps_after(migration: Migration, done: int) -> tuple[Step, ...]:
    """What is left of ``migration`` when its first ``done`` statements are done."""
    steps: list[Step] = []
    together: list[_Numbered] = []

    def close() -> None:
        if together:
            steps.append(_step(together, None))
            together.clear()

    for each in _numbered(migration)[done:]:
        if each.statement.obstacle is None:
            together.append(each)
            continue
        close()
        read = alone.read(each.segment.text, each.statement)
        if isinstance(read, str):
            raise Defect(f"{migration.file}, statement {each.number} was to be refused: {read}")
        steps.append(_step([each], read))
    close()
    return tuple(steps)


def session_settings(migration: Migration, done: int) -> tuple[Segment, ...]:
    """Those of the first ``done`` statements that set something for the session, which a new session lacks."""
    return tuple(
        segment for each in _numbered(migration)[:done] if each.statement.sets_session for segment in _segments([each])
    )


def place_of(migration: Migration, rows: Sequence[ProgressRow], *, accept_edited: bool) -> Place | Failure:
    """Where to go on by the tenant's progress, or why that cannot be told."""
    statements = _numbered(migration)
    done = 0
    begun = False
    for row in sorted((each for each in rows if each.number != STARTED), key=lambda each: each.number):
        if row.number != done + 1 or begun:
            return _edited(migration, row.number, "the tenant's record of it has a gap")
        if row.number > len(statements):
            return _edited(migration, row.number, "the file has no such statement any more")
        if row.checksum != statements[done].checksum and not (accept_edited and row.done):
            return _edited(migration, row.number, "it was applied with another text")
        done += row.done
        begun = not row.done
    return Place(done, begun)


def _edited(migration: Migration, number: int, why: str) -> Failure:
    return Failure(
        kind="edited",
        message=f"{migration.file} is half applied here, and its statement {number} does not fit: {why}",
        next_step=NEXT_STEP_EDITED,
        migration=migration.version,
        file=migration.file,
        statement=number,
    )


def _numbered(migration: Migration) -> list[_Numbered]:
    return [
        _Numbered(number, segment, statement)
        for segment in migration.segments
        for number, statement in enumerate(segment.statements, segment.statements_before + 1)
    ]


def _step(several: Sequence[_Numbered], read: Alone | None) -> Step:
    return Step(
        tuple(each.number for each in several),
        tuple(each.checksum for each in several),
        _segments(several),
        read,
    )


def _segments(several: Sequence[_Numbered]) -> tuple[Segment, ...]:
    """The statements as they stand in their segments, one message for each segment."""
    found: list[Segment] = []
    for segment in dict.fromkeys(id(each.segment) for each in several):
        those = [each for each in several if id(each.segment) == segment]
        whole, start, end = those[0].segment, those[0].statement.start, those[-1].statement.end
        moved = tuple(
            Statement(each.statement.start - start, each.statement.end - start, each.statement.words) for each in those
        )
        found.append(Segment(whole.text[start:end], whole.offset + start, moved, those[0].number - 1))
    return tuple(found)
