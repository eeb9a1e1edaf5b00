"""Which format a folder is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tenantry.errors import InvalidInput
from tenantry.fleet.migrations.formats.alembic import AlembicProject, is_alembic
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.command import CommandProject
from tenantry.fleet.migrations.formats.django import MANAGE, DjangoProject
from tenantry.fleet.migrations.formats.drizzle import JOURNAL, DrizzleFolder
from tenantry.fleet.migrations.formats.drizzle_v1 import SNAPSHOT, DrizzleV1Folder
from tenantry.fleet.migrations.formats.per_tenant import FolderPerTenant, is_per_tenant
from tenantry.fleet.migrations.formats.prisma import LOCK, PrismaFolder
from tenantry.fleet.migrations.formats.python_project import ToolSettings
from tenantry.fleet.migrations.formats.sql import SqlFolder
from tenantry.fleet.settings import load_settings

_WITHIN_PROJECT: Final = (".", "drizzle", "prisma/migrations", "migrations")
"""Where folders of SQL lie in a project, the project's own directory first."""
_PARENTS_MAX: Final = 3
"""How far above Alembic's script directory its alembic.ini is looked for."""


def open_folder(directory: Path, *, through: str | None = None, tool: ToolSettings | None = None) -> Format:
    """Loads the folder of migrations at ``directory``, or the folder that a tool keeps in a project there.

    ``through`` leaves out the migrations after that version, for a rollout that stops there. ``tool`` is what is said
    of tools; without it, what the ``tenantry.toml`` of that directory says.
    Raises InvalidInput when there is none, or when it cannot be rolled out as it is.
    """
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is not a directory", next_step="name the folder that holds the migrations")
    tool = _said(directory) if tool is None else tool
    if tool.command is not None:
        return CommandProject(directory, tool, through=through)
    if (directory / MANAGE).exists():
        return DjangoProject(directory, tool, through=through)
    if home := _alembic_home(directory):
        return AlembicProject(home, tool, through=through)
    for place in (directory / each for each in _WITHIN_PROJECT):
        if opens := _sql_format(place):
            return opens(place, through=through)
    for place in (directory, directory / "drizzle"):
        if is_per_tenant(place):
            return _per_tenant(place, through)
    if any(directory.glob("*/migration.sql")):
        raise InvalidInput(
            f"{directory} has one folder for each migration, and neither {LOCK} (Prisma) nor a {SNAPSHOT} in one of "
            "them (drizzle-kit 1.x)",
            next_step=f"restore {LOCK}, or make the migrations anew with the tool that they are of",
        )
    raise InvalidInput(
        f"{directory} has no {JOURNAL} (Drizzle), no {LOCK} (Prisma), no files like 0001_users.sql, no alembic.ini, "
        f"no {MANAGE}",
        next_step="name the folder that holds the migrations, or say a command in [migrations]",
    )


def _sql_format(place: Path) -> Callable[..., Format] | None:
    if (place / JOURNAL).exists():
        return DrizzleFolder
    if (place / LOCK).exists():
        return PrismaFolder
    if any(place.glob("*.sql")):
        return SqlFolder
    if any((path.parent / SNAPSHOT).exists() for path in place.glob("*/migration.sql")):
        return DrizzleV1Folder
    return None


def _per_tenant(place: Path, through: str | None) -> FolderPerTenant:
    if through is not None:
        raise InvalidInput(
            f"{place} has a folder for each customer, with versions of its own: there is no {through!r} to stop at",
            next_step="roll out without --through, or one customer's folder with --tenants",
        )
    return FolderPerTenant(place)


def _alembic_home(directory: Path) -> Path | None:
    """The directory where ``alembic`` is called, for that directory and for its folder of scripts."""
    if is_alembic(directory):
        return directory
    if (directory / "env.py").exists() and (directory / "versions").is_dir():
        return next((each for each in directory.absolute().parents[:_PARENTS_MAX] if is_alembic(each)), None)
    return None


def _said(directory: Path) -> ToolSettings:
    """What is configured for this directory; a command is meant for the configured directory only."""
    said = load_settings(directory).migrations
    return ToolSettings(
        python=said.python,
        dsn_env=tuple(said.dsn_env),
        version_table=said.version_table,
        command=said.command if said.dir.resolve() == directory.resolve() else None,
        version=said.version,
        files=tuple(said.files),
    )
