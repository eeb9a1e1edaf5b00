"""Which format a folder is in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tenantry.errors import InvalidInput, NotSupported
from tenantry.fleet.migrations.formats.alembic import AlembicProject, is_alembic
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.command import CommandProject
from tenantry.fleet.migrations.formats.django import MANAGE, DjangoProject
from tenantry.fleet.migrations.formats.drizzle import JOURNAL, DrizzleFolder
from tenantry.fleet.migrations.formats.python_project import ToolSettings
from tenantry.fleet.migrations.formats.sql import SqlFolder
from tenantry.fleet.settings import load_settings

_PARENTS_MAX: Final = 3
"""How far above Alembic's script directory its alembic.ini is looked for."""


def open_folder(directory: Path, *, through: str | None = None, tool: ToolSettings | None = None) -> Format:
    """Loads the folder of migrations at ``directory``, or the Drizzle folder ``drizzle`` of a project there.

    ``through`` leaves out the migrations after that version, for a rollout that stops there. ``tool`` is what is said
    of tools; without it, what the ``tenantry.toml`` of that directory says.
    Raises InvalidInput when there is none, or when it cannot be rolled out as it is.
    """
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is not a directory", next_step="name the folder that holds the migrations")
    tool = _said(directory) if tool is None else tool
    if tool.command is not None:
        return CommandProject(directory, tool, through=through)
    if (directory / JOURNAL).exists():
        return DrizzleFolder(directory, through=through)
    if any(directory.glob("*.sql")):
        return SqlFolder(directory, through=through)
    if (directory / "drizzle" / JOURNAL).exists():
        return DrizzleFolder(directory / "drizzle", through=through)
    if is_alembic(directory):
        return AlembicProject(directory, tool, through=through)
    if (directory / MANAGE).exists():
        return DjangoProject(directory, tool, through=through)
    if (directory / "env.py").exists() and (directory / "versions").is_dir():
        home = next((each for each in directory.absolute().parents[:_PARENTS_MAX] if is_alembic(each)), None)
        if home is not None:
            return AlembicProject(home, tool, through=through)
    if any(directory.glob("*/migration.sql")):
        raise NotSupported(
            f"{directory} has one folder for each migration, as Prisma and drizzle-kit 1.0 make them",
            next_step="folders of drizzle-kit 0.x and of plain SQL files can be rolled out",
        )
    raise InvalidInput(
        f"{directory} has no meta/_journal.json (Drizzle), no files like 0001_users.sql, no alembic.ini, no manage.py",
        next_step="name the folder that holds the migrations, or say a command in [migrations]",
    )


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
