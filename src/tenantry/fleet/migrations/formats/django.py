"""Django projects: ``manage.py`` as it is, ``django_migrations`` the ledger, the loader's word on what replaces what.

Django has a graph, not a line. Here it is a line that every new migration joins at its end: behind what it needs, and
behind those that were written before it, as the first line of the files says.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
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
    only_through,
    read_rows,
    state_of,
)
from tenantry.fleet.migrations.formats.python_project import PythonProject, ToolSettings
from tenantry.fleet.migrations.tenant import SchemaState

NAME: Final = "django"
MANAGE: Final = "manage.py"


class DjangoProject:
    """One Django project, its migrations loaded."""

    name: str = NAME

    def __init__(self, directory: Path, settings: ToolSettings, *, through: str | None = None) -> None:
        """``through`` (``app.name``) leaves out what comes after it. Raises InvalidInput."""
        self.directory = directory
        self._project = PythonProject(directory, "django_project.py", {}, settings)
        listed = self._project.listed
        by_version = {each.version: each for each in listed.migrations}
        order = in_a_line(listed.after, listed.generated)
        self.migrations: tuple[Migration, ...] = only_through([by_version[version] for version in order], through)
        self._all = len(self.migrations) == len(order)
        self._after = listed.after
        self._replaces = listed.replaces
        self._known = listed.known | frozenset(order)
        self._beyond = frozenset(order[len(self.migrations) :])

    def read_ledger(self, session: Session) -> Sequence[LedgerRow] | None:
        rows = read_rows(session, tool_sql.DJANGO_TABLE, tool_sql.DJANGO_READ)
        return None if rows is None else [LedgerRow(f"{app}.{name}", "") for app, name in rows]

    def judge(self, ledger: Sequence[LedgerRow] | None) -> Judgement:
        rows = [row.key for row in ledger or ()]
        keys = frozenset(rows)
        has = [each for each in self.migrations if self._is_applied(each.version, keys)]
        beyond = [key for key in rows if key in self._beyond]
        beyond += [key for key in _newer(rows, self._known) if _app(key) in {_app(each) for each in self._known}]
        return Judgement(
            state=state_of(NAME, [*((each.version, each.checksum) for each in has), *((key, "") for key in beyond)]),
            pending=tuple(each for each in self.migrations if each not in has),
            objections=tuple(ahead(version) for version in beyond),
        )

    def _is_applied(self, version: str, keys: frozenset[str]) -> bool:
        """As MigrationLoader sees it: a squashed migration is applied when all that it replaces is."""
        replaced = self._replaces.get(version)
        return version in keys if replaced is None else replaced <= keys

    def standing_of(self, known: SchemaState) -> Literal["behind", "unknown", "ahead"]:
        # Branches were merged, a package was upgraded, migrations were squashed: the ledger knows what that means.
        return "unknown"

    def apply_by_tool(self, task: ToolTask) -> None:
        """The whole project at once, as `manage.py migrate`, or app by app where it stops before the end."""
        targets = [] if self._all else self._targets({_app(each.version) for each in task.pending})
        self._project.run(task, {"targets": targets})

    def _targets(self, apps: set[str]) -> list[tuple[str, str]]:
        """The last migrations of these apps, as `manage.py migrate APP NAME` wants them."""
        versions = [each.version for each in self.migrations]
        followed = {needed for version in versions for needed in self._after[version] if _app(needed) == _app(version)}
        return [
            (_app(version), version.partition(".")[2])
            for version in versions
            if _app(version) in apps and version not in followed
        ]

    def applied(self, session: Session, task: ToolTask) -> None:
        """Django has written it."""

    def sql_of(self, migration: Migration) -> str | None:
        """For the lint: what the tool would send, without its ledger."""
        return self._project.sql_of(migration)

    def close(self) -> None:
        self._project.children.close()


def in_a_line(after: Mapping[str, Iterable[str]], written: Mapping[str, str]) -> list[str]:
    """Versions behind those that they need, and else by when they were written; what does not say that comes first.

    ``after`` is in an order that the tool itself could apply.
    """
    place = {version: index for index, version in enumerate(after)}
    waits_for = {version: {each for each in needed if each in after} for version, needed in after.items()}
    followers: dict[str, list[str]] = {version: [] for version in after}
    for version, needed in waits_for.items():
        for each in needed:
            followers[each].append(version)
    free = [(written.get(version, ""), place[version], version) for version, needed in waits_for.items() if not needed]
    heapq.heapify(free)
    order: list[str] = []
    while free:
        _, _, version = heapq.heappop(free)
        order.append(version)
        for follower in followers[version]:
            waits_for[follower].discard(version)
            if not waits_for[follower]:
                heapq.heappush(free, (written.get(follower, ""), place[follower], follower))
    if len(order) != len(after):
        raise InvalidInput("the migrations need each other in a circle")
    return order


def _newer(rows: Sequence[str], known: frozenset[str]) -> list[str]:
    """Unknown rows of a ledger behind which their app has no known one: files of the past may be gone, newer may not.

    ``rows`` is in the order in which they were applied.
    """
    last = {_app(key): index for index, key in enumerate(rows) if key in known}
    return [key for index, key in enumerate(rows) if key not in known and index > last.get(_app(key), -1)]


def _app(version: str) -> str:
    return version.partition(".")[0]
