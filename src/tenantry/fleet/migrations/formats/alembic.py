"""Alembic projects: ``alembic.ini`` or ``[tool.alembic]``, the user's env.py untouched, ``alembic_version`` the ledger.

The ledger holds only the revision that a tenant stands at; what it has is that revision and all that come before it.
Branches that were merged are one history; several heads are not, and are refused when the project is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations import tool_sql
from tenantry.fleet.migrations.formats.base import (
    Judgement,
    LedgerRow,
    Migration,
    Session,
    ToolTask,
    ahead,
    read_rows,
    state_of,
)
from tenantry.fleet.migrations.formats.python_project import PythonProject, ToolSettings
from tenantry.fleet.migrations.tenant import SchemaState

NAME: Final = "alembic"
_TABLE: Final = re.compile(r"[^.\"\x00]{1,63}(\.[^.\"\x00]{1,63})?")


class AlembicProject:
    """One Alembic project, its revisions loaded."""

    name: str = NAME

    def __init__(self, directory: Path, settings: ToolSettings, *, through: str | None = None) -> None:
        """``through`` is the revision to stop at. Raises InvalidInput."""
        if _TABLE.fullmatch(settings.version_table) is None:
            raise InvalidInput(f"version_table {settings.version_table!r} is neither a table nor schema.table")
        self.directory = directory
        self._table = settings.version_table
        opening = {
            "ini": _found(directory / "alembic.ini"),
            "toml": _with_alembic(directory / "pyproject.toml"),
            "version_table": self._table,
        }
        self._project = PythonProject(directory, "alembic_project.py", opening, settings)
        listed = self._project.listed
        self._before = closure(listed.after)
        self.migrations: tuple[Migration, ...] = _through(listed.migrations, self._before, through)

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        rows = read_rows(session, tool_sql.quoted(self._table), tool_sql.alembic_read(self._table))
        return None if rows is None else [LedgerRow(str(version), "") for (version,) in rows]

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        has: set[str] = set()
        unknown: list[str] = []
        ours = {migration.version for migration in self.migrations}
        for row in ledger or ():
            if row.key in ours:
                has |= {row.key, *self._before[row.key]}
            else:
                unknown.append(row.key)
        applied = [(each.version, each.checksum) for each in self.migrations if each.version in has]
        return Judgement(
            state=state_of(NAME, [*applied, *((version, "") for version in sorted(unknown))]),
            pending=tuple(each for each in self.migrations if each.version not in has),
            objections=tuple(ahead(version) for version in sorted(unknown)),
        )

    def standing_of(self, known: SchemaState) -> Literal["behind", "unknown", "ahead"]:
        # A file may have been edited, which Alembic does not mind, or two branches been merged: the ledger knows.
        return "unknown" if any(each.version == known.version for each in self.migrations) else "ahead"

    def apply_by_tool(self, task: ToolTask) -> None:
        self._project.run(task, {"target": task.pending[-1].version})

    def applied(self, session: Session, task: ToolTask) -> None:
        """Alembic has written it."""

    def sql_of(self, migration: Migration) -> str | None:
        """For the lint: what the tool would send, without its ledger."""
        return self._project.sql_of(migration)

    def close(self) -> None:
        self._project.children.close()


def closure(after: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Everything that comes before each version. ``after`` has each version behind those that it needs."""
    before: dict[str, frozenset[str]] = {}
    for version, needed in after.items():
        before[version] = needed.union(*(before.get(each, frozenset()) for each in needed))
    return before


def _through(
    migrations: tuple[Migration, ...], before: Mapping[str, frozenset[str]], version: str | None
) -> tuple[Migration, ...]:
    """The revisions up to ``version``, which is one of them or the beginning of one's name."""
    if version is None:
        return migrations
    found = [each.version for each in migrations if each.version.startswith(version)]
    if version in found:
        found = [version]
    if len(found) != 1:
        newest = migrations[-1].version if migrations else "none"
        what = f"has no revision {version!r}" if not found else f"has several revisions {version}..."
        raise InvalidInput(f"the project {what}", next_step=f"its newest is {newest}")
    return tuple(each for each in migrations if each.version == found[0] or each.version in before[found[0]])


def is_alembic(directory: Path) -> bool:
    """Whether ``alembic`` would find its settings in this directory."""
    return (directory / "alembic.ini").exists() or _with_alembic(directory / "pyproject.toml") is not None


def _found(path: Path) -> str | None:
    return str(path.absolute()) if path.exists() else None


def _with_alembic(path: Path) -> str | None:
    try:
        return str(path.absolute()) if "[tool.alembic]" in path.read_text(encoding="utf-8") else None
    except (OSError, UnicodeDecodeError):
        return None
