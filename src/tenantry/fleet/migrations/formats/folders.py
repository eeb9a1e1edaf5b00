"""Which format a folder is in."""

from __future__ import annotations

from pathlib import Path

from tenantry.errors import InvalidInput, NotSupported
from tenantry.fleet.migrations.formats.base import Format
from tenantry.fleet.migrations.formats.drizzle import JOURNAL, DrizzleFolder
from tenantry.fleet.migrations.formats.sql import SqlFolder


def open_folder(directory: Path, *, through: str | None = None) -> Format:
    """Loads the folder of migrations at ``directory``, or the Drizzle folder ``drizzle`` of a project there.

    ``through`` leaves out the migrations after that version, for a rollout that stops there.
    Raises InvalidInput when there is none, or when it cannot be rolled out as it is.
    """
    if not directory.is_dir():
        raise InvalidInput(f"{directory} is not a directory", next_step="name the folder that holds the migrations")
    if (directory / JOURNAL).exists():
        return DrizzleFolder(directory, through=through)
    if any(directory.glob("*.sql")):
        return SqlFolder(directory, through=through)
    if (directory / "drizzle" / JOURNAL).exists():
        return DrizzleFolder(directory / "drizzle", through=through)
    if any(directory.glob("*/migration.sql")):
        raise NotSupported(
            f"{directory} has one folder for each migration, as Prisma and drizzle-kit 1.0 make them",
            next_step="folders of drizzle-kit 0.x and of plain SQL files can be rolled out",
        )
    raise InvalidInput(
        f"{directory} has neither meta/_journal.json (Drizzle) nor files like 0001_users.sql",
        next_step="name the folder that holds the migrations",
    )
